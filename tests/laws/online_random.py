"""Random formulas of the class the online pass takes."""

import random

import torch

from tests.laws.online_formulas import (
    CAUSAL,
    KI,
    QI,
    QPOS,
    B,
    F,
    H,
    dot,
    exp,
    k,
    load,
    log,
    logsumexp,
    op,
    q,
    r,
    randn,
    relu,
    sigmoid,
    softcap,
    softmax,
    streams,
    tanh,
    top,
    total,
    v,
    w,
    where,
)


def formula(seed):
    """(outputs, mask, data) of one seed."""
    torch.manual_seed(seed)
    return _Formula(random.Random(seed)).made()


class _Formula:
    def __init__(self, rng):
        self.rng = rng
        nq, nk = rng.choice([3, 11, 17]), rng.choice([1, 7, 17])
        self.data = streams("q r k v w", h=2, hk=rng.choice([1, 2]), nq=nq, nk=nk)
        tensors = {"a": randn(2), "rows": randn(nq), "columns": randn(1, nk), "sink": randn(2)}
        self.data.tensors |= {**tensors, "full": randn(nq, nk), "table": randn(2, 5)}
        self.scores = [self.tile() for _ in range(rng.choice([1, 1, 2]))]

    def pick(self, *options):
        """One of the options; functions are called."""
        chosen = self.rng.choice(options)
        return chosen() if callable(chosen) else chosen

    def captured(self):
        offset = op("min", op("max", KI - QI, -2), 2) + 2
        return self.pick(
            load("a", H) * 0.3,
            load("rows", QI),
            load("columns", B, KI),
            load("full", QI, KI),
            load("table", H, offset),
            KI * 0.02,
            dot(k, w) * 0.1,
            dot(q, r) * 0.1,
        )

    def tile(self):
        base = [dot(q, k) * 0.3, 0.3 * dot(k, r), dot(q + 0.5 * r, k) * 0.2, dot(q, w) * 0.3]
        e = self.pick(*base, -0.1 * dot(q - k, q - k), dot(0.3 * q, k), dot(r - k, q + w) * 0.1)
        for _ in range(self.rng.randrange(3)):
            e = self.changed(e)
        return e

    def changed(self, e):
        return self.pick(
            lambda: e + self.captured(),
            lambda: self.captured() + e,
            lambda: softcap(e, 3.0),
            lambda: e * self.captured(),
            lambda: tanh(e),
            lambda: where(KI < QI, e, e * 0.5),
            lambda: e - top(e)[0],
        )

    def weight(self):
        s = self.rng.choice(self.scores)
        rare = self.rng.random() < 0.3
        return self.pick(
            lambda: softmax(s),
            lambda: softmax(s),
            lambda: softmax(s, load("sink", H)),
            lambda: sigmoid(s),
            lambda: relu(s) * relu(s),
            lambda: softmax(s) * softmax(self.rng.choice(self.scores)),
            lambda: where(KI <= QPOS, softmax(s), 0.0),
            lambda: where(op("ne", KI, 2), softmax(s), sigmoid(s) * 0.5),
            lambda: relu(softmax(s) - 0.05) if rare else softmax(s),
            lambda: where(softmax(s) > 0.1, softmax(s), 0) if rare else softmax(s),
            lambda: softmax(s + dot(total(softmax(s) * v), k) * 0.2) if rare else softmax(s),
            lambda: exp(s - top(s)[0]) / (1 + total(exp(s - top(s)[0]))),
            lambda: softmax(s) * log(1.5 + softmax(s)) if rare else softmax(s),
        )

    def row(self):
        gated = sigmoid(load("columns", B, KI)) * v
        return self.pick(v, w, v * w, gated, v + w, where(KI < 4, v, w))

    def payload(self):
        return self.pick(
            F(op("add", 0, 1).e),
            self.rng.choice(self.scores),
            self.tile,
            KI * 0.1,
            lambda: 1 + load("a", H) * self.tile(),
        )

    def vector(self):
        return self.pick(
            lambda: total(self.weight() * self.payload() * self.row()),
            lambda: total(self.weight() * (self.payload() * self.row() + self.payload() * v)),
            lambda: q * total(self.weight() * self.payload()),
            lambda: total(self.weight() * (q - k)),
            lambda: total(self.weight() * where(KI < QI, q, k)),
        )

    def number(self):
        s = self.rng.choice(self.scores)
        return self.pick(
            lambda: total(self.weight() * self.payload()),
            lambda: logsumexp(s) * 0.1,
            lambda: logsumexp(s, load("sink", H)),
            lambda: tanh(total(self.weight() * self.payload())),
            lambda: top(s)[0],
        )

    def combined(self):
        e = self.vector()
        for _ in range(self.rng.randrange(3)):
            e = self.with_another(e)
        return e

    def with_another(self, e):
        p = softmax(self.scores[0])
        return self.pick(
            lambda: e + self.vector(),
            lambda: e * tanh(self.number()),
            lambda: e - load("a", H) * self.vector(),
            lambda: e * self.vector(),
            lambda: e + total(p * (self.tile() - tanh(self.number())) * v),
            lambda: 1 - e,
        )

    def made(self):
        outputs = {f"o{i}": self.combined() for i in range(self.rng.choice([1, 2]))}
        if self.rng.random() < 0.4:
            outputs["s"] = tanh(self.number())
        if self.rng.random() < 0.2:
            outputs["t"] = top(self.scores[0], 3)[1]
        masks = [None, CAUSAL, CAUSAL & (QPOS - KI < 6), op("ne", KI + QI, 7)]
        mask = self.rng.choice([*masks, load("columns", B, KI) > 0.0])
        return outputs, mask, self.data
