def power(x):
    return x * power(x)


@attention
def spec(q: "query half[B, H, S, D]", k: "key half[B, H, S, D]", v: "value half[B, H, S, D]"):
    score = power(dot(q, k))
