namespace = {}
exec('def f(q: "query half[B, H, S, D]"): return q', namespace)
spec = attention(namespace["f"])
