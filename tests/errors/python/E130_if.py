def mask_mod(b, h, q_idx, kv_idx):
    if kv_idx > q_idx:
        return False
    return q_idx - kv_idx < 4
