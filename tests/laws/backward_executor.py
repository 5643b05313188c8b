"""Runs a BackwardPlan in float64: a loop over keys per tile of queries, and the other way round.

It reads what the plan says is saved and nothing else of the forward.
"""

import math

import torch

from attngen.ir.backward import KEEP
from attngen.ir.expr import Axes, Hot, Known, Recomputed, Reduced, Row, Side, children
from attngen.ir.walk import walk
from tests.laws.online_executor import _Stage, tiles
from tests.laws.online_values import INF
from tests.laws.online_values import Values as ForwardValues

AXIS = {Axes.QUERY: 0, Axes.KEY: 1}


def forward_rows(plan, data, block=16, rounded=lambda x: x):
    """Reduced rows and results of each (b, h): ({Reduced: [queries, 1, width]}, {name: same})."""
    b, h, _, nq, _nk = data.shape
    found = {}
    for place in [(i, j) for i in range(b) for j in range(h)]:
        rows = {}
        for stage in range(1, plan.stages + 1):
            loops = _Stage(plan, data, place, stage, rows, rounded)
            for queries in tiles(0, nq, block):
                loops.run(queries, 1, block)
            for e in rows_of_passes(plan):
                if plan.accumulators[e.index].stage == stage:
                    rows[e] = rounded(rows[e])
        values = ForwardValues(data, place, (0, nq), (0, 1), plan.mask, rows)
        results = {name: values(e).expand(nq, 1, -1) for name, e in plan.outputs}
        found[place] = rows, results
    return found


def rows_of_passes(plan):
    """Rows that a later pass over the keys reads; a kernel rounds them before it does."""
    roots = [c.score for c in plan.classes] + [t.score for t in plan.tops]
    roots += [x for a in plan.accumulators for x in (a.scalar, a.row) if x is not None]
    read = set(walk(*roots))
    return [e for e in plan.moments if e in read and e.feature is not None]


def backward(plan, back, data, forward, seeds, block=(16, 16)):
    """Gradients of every floating tensor of `data`; seeds: {output: [B, H, queries, width]}."""
    grads = {n: torch.zeros_like(x) for n, x in data.tensors.items() if x.is_floating_point()}
    for place, (rows, results) in forward.items():
        known = {e: rows[e] for e in back.saved}
        known |= {leaf: results[name] for name, leaf in back.results}
        for name, leaf in back.seeds:
            known[leaf] = seeds[name][place].unsqueeze(1)
        Head(plan, back, data, place, known, grads).run(block)
    return grads


class Values(ForwardValues):
    """Values of backward expressions; `reduced` holds every known leaf."""

    def compute(self, e):
        if e is KEEP:
            return self.keep()
        if isinstance(e, Known | Reduced):
            x = self.reduced[e]
            if e.level == Axes.QUERY:
                return x[self.queries[0] : self.queries[1]]
            return x[:, self.keys[0] : self.keys[1]] if e.level == Axes.KEY else x
        if isinstance(e, Recomputed):
            score, norm = (self(c) for c in children(e))
            kept = self.keep() & (score > -INF)
            p = torch.exp2((score - norm) * (1 / math.log(2)))  # as kernels do, base 2
            return torch.where(kept, p, 0.0)
        if isinstance(e, Hot):
            indices, values = self(e.indices), self(e.values)
            hit = self.index("kv_idx") == indices
            return torch.where(hit, values, 0.0).sum(-1, keepdim=True)
        return super().compute(e)


class Head:
    """The launches of one (b, h)."""

    def __init__(self, plan, back, data, place, known, grads):
        self.plan, self.back, self.data, self.place = plan, back, data, place
        self.known, self.grads = known, grads
        self.nq, self.nk = data.shape[3:]

    def values(self, queries, keys):
        return Values(self.data, self.place, queries, keys, self.plan.mask, self.known)

    def run(self, block):
        queries, keys = tiles(0, self.nq, block[0]), tiles(0, self.nk, block[1])
        for p in self.back.passes:
            for d in p.definitions:
                self.known[d.leaf] = self.whole(d.leaf, d.value)
            for t in (*p.rows, *p.numbers):
                self.known[t.leaf] = self.zeros(t.leaf)
            for q in queries:  # queries pass
                for k in keys:
                    values = self.values(q, k)
                    self.tile(p, values, (Axes.QUERY, Axes.NONE))
                    for s in p.stores:
                        self.add(s.of, values, self.masked(values, s.value))
            for k in keys:  # keys pass
                for q in queries:
                    self.tile(p, self.values(q, k), (Axes.KEY,))
            self.hand_over(p)
        self.take_back()
        for s in self.back.sums:
            x = self.whole(s.leaf, s.value, s.level)
            self.known[s.leaf] = x.sum(AXIS[s.level], keepdim=True)
        for g in self.back.gradients:
            self.add(g.of, self.everything(), self.whole(g.of, g.value))

    def hand_over(self, p):
        """After a pass: what it summed goes to memory for those that follow."""

    def take_back(self):
        """After all: what a pass finished from its own sums had them in registers."""

    def everything(self):
        return self.values((0, self.nq), (0, self.nk))

    def shape(self, level, width):
        return (
            self.nq if level == Axes.QUERY else 1,
            self.nk if level == Axes.KEY else 1,
            1 if width is None else width,
        )

    def zeros(self, leaf):
        return torch.zeros(self.shape(leaf.level, leaf.feature), dtype=torch.float64)

    def whole(self, like, value, level=None):
        level = like.level if level is None else level
        return self.everything()(value).expand(self.shape(level, like.feature))

    def masked(self, values, e):
        shape = values.keep().shape
        x = values(e).expand(shape)
        return torch.where(values.keep(), x, 0.0) if self.back.masked_coefficients else x

    def tile(self, p, values, levels):
        for t in p.rows:
            if t.leaf.level in levels:
                for product in t.products:
                    g = self.masked(values, product.coefficient) * product.factor
                    x = g * values(product.other)
                    self.accumulate(t.leaf, values, x)
        for t in p.numbers:
            if t.leaf.level in levels:
                self.accumulate(t.leaf, values, self.masked(values, t.value))

    def accumulate(self, leaf, values, x):
        """Sum over the axes the leaf lacks, add at this tile's positions."""
        missing = [axis for level, axis in AXIS.items() if leaf.level != level]
        x = x.sum(missing, keepdim=True)
        into = self.known[leaf]
        if leaf.level == Axes.QUERY:
            into = into[values.queries[0] : values.queries[1]]
        elif leaf.level == Axes.KEY:
            into = into[:, values.keys[0] : values.keys[1]]
        into += x

    def add(self, of, values, x):
        """Into the gradient of the tensor, where it is read."""
        if isinstance(of, Row):
            b, h = self.place
            grad = self.grads[of.tensor]
            span = values.queries if of.side is Side.QUERY else values.keys
            head = grad[b % grad.shape[0], h * grad.shape[1] // self.data.shape[1]]
            x = x.reshape(-1, x.shape[-1])
            if head.shape[0] == 1:
                span, x = (0, 1), x.sum(0, keepdim=True)
            head[span[0] : span[1], of.start : of.start + x.shape[-1]] += x
            return
        grad = self.grads[of.tensor]
        if not of.index:
            grad += x.sum().reshape(grad.shape)
            return
        index = [values(i).long() for i in of.index]
        index = [i.clamp(0, n - 1) for i, n in zip(index, grad.shape, strict=True)]
        *index, x = torch.broadcast_tensors(*index, x)
        grad.index_put_(tuple(index), x, accumulate=True)
