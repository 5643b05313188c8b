def slope(h):
    base = 2.0
    return base**-h


@attention
def spec(q: "query half[B, H, S, D]", k: "key half[B, H, S, D]", v: "value half[B, H, S, D]"):
    score = dot(q, k) * rsqrt(D) + slope(h) * (kv_idx - q_idx)
