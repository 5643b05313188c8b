@attention
def spec(q, k: "key half[B, H, S, D]"):
    return sum(softmax(dot(q, k)) * k)
