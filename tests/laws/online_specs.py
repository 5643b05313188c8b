"""The formulas the online form was worked out on; each returns (outputs, mask, data)."""

import math

import torch

from tests.laws.online_formulas import (
    CAUSAL,
    KI,
    KVLEN,
    QI,
    QPOS,
    S0,
    B,
    D,
    Data,
    F,
    H,
    Uniform,
    dot,
    exp,
    k,
    key,
    load,
    log,
    logsumexp,
    op,
    q,
    query,
    r,
    randn,
    relu,
    sigmoid,
    softcap,
    softmax,
    streams,
    top,
    total,
    v,
    w,
    where,
)

N = 19
WINDOW = CAUSAL & (QPOS - KI < 7)


def flash():
    out = {"out": total(softmax(S0) * v), "lse": logsumexp(S0)}
    data = streams("q k v", nq=11, dv=12)
    return {**out, "out": total(softmax(S0) * key("v", 12))}, CAUSAL, data


def gemma2():
    return {"out": total(softmax(softcap(S0, 20.0)) * v)}, WINDOW, streams("q k v", h=4)


def gemma2_cap50():
    return {"out": total(softmax(softcap(S0, 50.0)) * v)}, WINDOW, streams("q k v", h=4)


def alibi():
    data = streams("q k v", b=2, h=4)
    data.tensors |= {"slope": randn(4), "doc": torch.sort(torch.randint(0, 4, (2, N)))[0]}
    same = op("eq", load("doc", B, QI, kind="int"), load("doc", B, KI, kind="int"))
    score = S0 + load("slope", H) * (KI - QI)
    return {"out": total(softmax(score) * v)}, same & (KI <= QI), data


def sinks_gated():
    data = streams("q k v g", h=4, nq=13)
    data.tensors |= {"sink": randn(4), "g": randn(1, 4, 13, D)}
    sink = load("sink", H)
    out = total(softmax(S0, sink) * v) * sigmoid(query("g"))
    return {"out": out, "lse": logsumexp(S0, sink), "lse0": logsumexp(S0)}, WINDOW, data


def relative_bias():
    data = streams("q k v", b=2)
    data.tensors |= {"table": randn(2, 17), "bias": randn(2, 2, N, N)}
    offset = op("min", op("max", KI - QI, -8), 8) + 8
    score = S0 + load("table", H, offset) + load("bias", B, H, QI, KI)
    return {"out": total(softmax(score) * v)}, None, data


def forgetting():
    data = streams("q k v")
    data.tensors["cum"] = randn(1, 2, N)
    score = S0 + load("cum", B, H, QI) - load("cum", B, H, KI)
    return {"out": total(softmax(score) * v), "lse": logsumexp(score)}, CAUSAL, data


def sigmoid_attention():
    return {"out": total(sigmoid(S0 - log(KVLEN)) * v)}, CAUSAL, streams("q k v")


def relu_squared():
    return {"out": total(relu(S0) ** 2 * v)}, CAUSAL, streams("q k v")


def differential():
    data = streams("q1 q2 k1 k2 v", h=4, dv=2 * D)
    data.tensors["lam"] = randn(4)
    s1, s2 = dot(query("q1"), key("k1")) * 0.3, dot(query("q2"), key("k2")) * 0.3
    value = key("v", 2 * D)
    out = total(softmax(s1) * value) - load("lam", H) * total(softmax(s2) * value)
    return {"out": out}, CAUSAL, data


def parallax():
    p, u = softmax(S0), dot(r, k)
    out = (1 + total(p * u)) * total(p * v) - total(p * u * v)
    return {"out": out}, CAUSAL, streams("q r k v", h=4)


def parallax_weights():
    p, u = softmax(S0), dot(r, k)
    return {"out": total(p * (1 + total(p * u) - u) * v)}, CAUSAL, streams("q r k v", h=4)


def mla():
    data = Data({"q": randn(2, 4, 5, 12), "k": randn(2, 1, N, 12)}, (2, 4, 1, 5, N))
    score = dot(query("q", 12), key("k", 12)) * (1 / math.sqrt(6))
    return {"out": total(softmax(score) * key("k", 8))}, CAUSAL, data


def dropout():
    rate = 0.3
    weights = where(F(Uniform(load("seed", kind="int").e)) < rate, 0, softmax(S0) / (1 - rate))
    return {"out": total(weights * v)}, CAUSAL, streams("q k v")


def position():
    p, x = softmax(S0), KI * (1.0 / N)
    mean = total(p * x)
    square = total(p * x * x) - mean * mean
    outputs = {"mean": mean, "var": square, "var2": total(p * (x - mean) ** 2)}
    return outputs, CAUSAL, streams("q k")


def value_moments():
    p = softmax(S0)
    m = total(p * v)
    outputs = {"m": m, "var": total(p * v * v) - m * m, "entropy": -total(p * log(p))}
    return {**outputs, "score": total(p * S0)}, CAUSAL, streams("q k v")


def distance():
    data = streams("q k v")
    data.tensors |= {"xn": randn(N), "yn": randn(N), "beta": randn(2)}
    score = -(load("xn", QI) + load("yn", KI) - 2 * dot(q, k)) * load("beta", H)
    return {"out": total(softmax(score) * v), "lse": logsumexp(score)}, None, data


def gaussian():
    score = -0.5 * dot(q - k, q - k)
    outputs = {"out": total(softmax(score) * v), "lse": logsumexp(score)}
    return outputs, KI <= QPOS - 3, streams("q k v")


def tsne():
    weight = 1 / (1 + dot(q - k, q - k))
    outputs = {"z": total(weight), "force": total(weight * weight * (q - k))}
    return outputs, op("ne", KI, QI), streams("q k")


def lse_only():
    return {"lse": logsumexp(S0)}, CAUSAL & (KI < 15), streams("q k")


def knn():
    data = streams("q k")
    data.tensors |= {"xn": randn(N), "yn": randn(N)}
    values, index = top(-(load("xn", QI) + load("yn", KI) - 2 * dot(q, k)), 4)
    return {"d": -values, "i": index}, None, data


def kmeans_assign():
    data = streams("q k", nk=7)
    data.tensors["norm"] = randn(7)
    _, index = top(-(load("norm", KI) - 2 * dot(q, k)))
    return {"out": index}, None, data


def boruvka():
    data = streams("q k", h=1, hk=1)
    data.tensors |= {"norm": randn(N), "core": randn(N), "comp": torch.randint(0, 5, (N,))}
    d2 = load("norm", QI) + load("norm", KI) - 2 * dot(q, k)
    reach = op("max", d2, op("max", load("core", QI), load("core", KI)))
    values, index = top(-reach)
    other = op("ne", load("comp", QI, kind="int"), load("comp", KI, kind="int"))
    return {"reach": -values, "i": index}, other, data


def hard_and_soft():
    largest, _ = top(S0)
    e = exp(S0 - largest)
    return {"out": total(e * v) / total(e), "m": largest}, CAUSAL, streams("q k v")


def product():
    p1, p2 = softmax(S0), softmax(dot(r, k) * 0.4)
    out = total(p1 * p2 * v) / total(p1 * p2)
    return {"out": out, "collision": total(p1 * p1)}, CAUSAL, streams("q r k v", h=4)


def two_values():
    data = streams("q k v w", h=4)
    data.tensors |= {"gk": randn(1, N), "a": randn(4)}
    p = softmax(S0)
    out = total(p * (S0 * v + sigmoid(load("gk", B, KI)) * w)) * load("a", H)
    return {"out": out, "n": total(p * dot(k, k))}, CAUSAL, data


def two_hop():
    y = total(softmax(S0) * v)
    return {"out": total(softmax(dot(q + y, k) * 0.3) * v)}, CAUSAL, streams("q k v")


def threshold():
    return {"out": total(relu(softmax(S0) - 0.05) * v)}, CAUSAL, streams("q k v")


def chosen_weights():
    p = softmax(S0)
    return {"out": total(where(p > 0.1, p * v, 0))}, CAUSAL, streams("q k v")


def gqa():
    return {"out": total(softmax(S0) * v)}, CAUSAL, streams("q k v", b=2, h=6, nq=9, nk=21)


def empty_rows():
    data = streams("q k v", nq=N, nk=8)
    data.tensors["sink"] = randn(2)
    sink = load("sink", H)
    p = softmax(S0)
    outputs = {"out": total(p * v), "outs": total(softmax(S0, sink) * v)}
    outputs |= {"lses": logsumexp(S0, sink), "left": 1 - total(p), "leak": 1 - total(p * S0)}
    outputs |= {"sum": total(p), "ratio": total(p * v) / total(p), "max": top(S0)[0]}
    return {**outputs, "count": 3 + total(relu(S0))}, CAUSAL, data


def probe():
    data = streams("q r k v", h=4)
    data.tensors["lam"] = randn(4)
    p = softmax(S0)
    out = total(p * v) - load("lam", H) * total(p * dot(r, k) * v)
    return {"out": out}, CAUSAL, data


def branches():
    data = streams("q k v", h=4)
    data.tensors |= {"g1": randn(1, 4, N), "g2": randn(1, 4, N)}
    close = QPOS - KI < 9
    near, far = where(close, S0, -math.inf), where(close, -math.inf, S0)
    g1, g2 = (sigmoid(load(n, B, H, QI)) for n in ("g1", "g2"))
    out = g1 * total(softmax(near) * v) + g2 * total(softmax(far) * v)
    return {"out": out}, CAUSAL, data


def row_choice():
    out = total(where(QI < 5, softmax(S0) * v, 2 * w))
    return {"out": out}, CAUSAL, streams("q k v w")


def nested_max():
    largest, index = top(S0 - 2 * logsumexp(S0))
    return (
        {"out": largest, "i": index, "s": logsumexp(0.5 * (S0 - largest))},
        CAUSAL,
        streams("q k"),
    )


SPECS = [
    flash, gemma2, gemma2_cap50, alibi, sinks_gated, relative_bias, forgetting, sigmoid_attention,
    relu_squared, differential, parallax, parallax_weights, mla, dropout, position, value_moments,
    distance, gaussian, tsne, lse_only, knn, kmeans_assign, boruvka, hard_and_soft, product,
    two_values, two_hop, threshold, chosen_weights, gqa, empty_rows, probe, branches, row_choice,
    nested_max,
]  # fmt: skip
