def score_mod(score, b, h, q_idx, kv_idx):
    return q_idx * 0.5
