@attention
def spec(q: list, k: "key half[B, H, S, D]"):
    return sum(softmax(dot(q, k)) * k)
