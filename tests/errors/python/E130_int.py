def score_mod(score, b, h, q_idx, kv_idx):
    return score + int(q_idx)
