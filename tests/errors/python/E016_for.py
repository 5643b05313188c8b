@attention
def spec(q: "query half[B, H, S, D]", k: "key half[B, H, S, D]", v: "value half[B, H, S, D]"):
    score = dot(q, k) * rsqrt(D)
    for i in range(4):
        score = score + i
    return sum(softmax(score) * v)
