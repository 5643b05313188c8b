@attention
def spec(
    q: "query half[B, H, S, D]",
    k: "key half[B, H, S, D]",
    v: "value half[B, H, S, D]",
    causal_only=True,
):
    score = dot(q, k) * rsqrt(D)
    if causal_only:
        mask = causal
    return sum(softmax(score) * v)
