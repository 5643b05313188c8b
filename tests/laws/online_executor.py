"""Runs an OnlinePlan in float64: explicit tiles over the keys, split merges, then row algebra."""

import torch

from attngen.ir.build import is_number
from attngen.ir.expr import Reduced
from tests.laws.online_values import INF, Values

NARROW = 138.0  # a score this narrow needs no running maximum


def execute(plan, data, block=(16, 16), splits=1):
    """Every output, [B * H, queries, features]."""
    b, h, _, nq, _nk = data.shape
    outputs = {name: [] for name, _ in plan.outputs}
    for place in [(i, j) for i in range(b) for j in range(h)]:
        rows = {}
        for stage in range(1, plan.stages + 1):
            loops = _Stage(plan, data, place, stage, rows)
            for queries in tiles(0, nq, block[0]):
                loops.run(queries, splits, block[1])
        values = Values(data, place, (0, nq), (0, 1), plan.mask, rows)
        for name, e in plan.outputs:
            outputs[name].append(values(e).expand(nq, 1, -1).squeeze(1))
    return {name: torch.stack(x) for name, x in outputs.items()}


def tiles(start, stop, size):
    return [(i, min(i + size, stop)) for i in range(start, stop, max(size, 1))]


class _Stage:
    """One pass over the keys."""

    def __init__(self, plan, data, place, stage, rows, rounded=lambda x: x):
        self.rounded = rounded  # of weights before they are multiplied with rows
        self.plan, self.data, self.place, self.stage, self.rows = plan, data, place, stage, rows
        self.accumulators = {i: a for i, a in enumerate(plan.accumulators) if a.stage == stage}
        self.tops = {i: t for i, t in enumerate(plan.tops) if t.stage == stage}
        used = {c for a in self.accumulators.values() for c, _ in a.weights}
        self.classes = {i: plan.classes[i] for i in sorted(used)}

    def run(self, queries, splits, block):
        nk = self.data.shape[4]
        parts = []
        for start, stop in tiles(0, nk, -(-nk // splits)):
            state = _State(self, queries)
            for keys in tiles(start, stop, block):
                mask, rows = self.plan.mask, self.rows
                state.step(Values(self.data, self.place, queries, keys, mask, rows))
            parts.append(state)
        state = parts[0] if parts else _State(self, queries)
        for other in parts[1:]:
            state.merge(other)
        self.finish(state, queries)

    def put(self, node, queries, x):
        if node not in self.rows:
            self.rows[node] = torch.zeros(self.data.shape[3], 1, x.shape[-1], dtype=torch.float64)
        self.rows[node][queries[0] : queries[1]] = x

    def finish(self, state, queries):
        for i, a in self.accumulators.items():
            if a.row is None and is_number(a.scalar, 1) and [n for _, n in a.weights] == [1]:
                lse = state.shift(a.weights[0][0]) + torch.log(state.sums[i])
                self.put(Reduced("lse", a.weights[0][0], (), None), queries, lse)
        for i, (values, indices) in state.tops.items():
            width = self.tops[i].count if self.tops[i].count > 1 else None
            self.put(Reduced("values", i, (), width), queries, values.transpose(1, 2))
            self.put(Reduced("indices", i, (), width), queries, indices.transpose(1, 2))
        env = Values(self.data, self.place, queries, (0, 1), None, self.rows)
        for m in self.plan.moments:
            if m.index in self.accumulators:
                self.put(m, queries, self.moment(state, m, env))

    def moment(self, state, m, env):
        a = self.accumulators[m.index]
        if not a.weights:
            assert not m.norms
            return state.sums[m.index]
        assert len(m.norms) == sum(n for _, n in a.weights)
        power = sum(n * state.shift(c) for c, n in a.weights) - sum(env(e) for e in m.norms)
        factor = torch.where(power.isfinite(), torch.exp(power), 0.0)  # an empty row
        return state.sums[m.index] * factor


class _State:
    """Running maxima, sums and lists of one tile of queries."""

    def __init__(self, stage, queries):
        self.stage, rows = stage, queries[1] - queries[0]

        def full(width, value):
            return torch.full((rows, 1, width), value, dtype=torch.float64)

        self.maxima = {
            i: full(1, -INF) for i, c in stage.classes.items() if not c.high - c.low <= NARROW
        }
        self.sums = {
            i: full(1 if a.row is None else a.row.feature, 0.0)
            for i, a in stage.accumulators.items()
        }
        self.tops = {
            i: (full(t.count, -INF).transpose(1, 2), full(t.count, -1.0).transpose(1, 2))
            for i, t in stage.tops.items()
        }

    def shift(self, c):
        if c not in self.maxima:
            return (self.stage.classes[c].low + self.stage.classes[c].high) / 2
        return torch.where(self.maxima[c] == -INF, 0.0, self.maxima[c])

    def scale(self, i, alpha):
        out = 1.0
        for c, n in self.stage.accumulators[i].weights:
            out = out * alpha.get(c, 1.0) ** n
        return out

    def step(self, values):
        keep, alpha, exponential = values.keep(), {}, {}
        for i, c in self.stage.classes.items():
            score = torch.where(keep, values(c.score), -INF)
            if i in self.maxima:
                old = self.maxima[i]
                self.maxima[i] = torch.maximum(old, score.amax(1, keepdim=True))
                alpha[i] = torch.exp(old - self.shift(i))
            exponential[i] = torch.exp(score - self.shift(i))
        for i, a in self.stage.accumulators.items():
            x = values(a.scalar).expand(keep.shape)
            for c, n in a.weights:
                x = x * exponential[c] ** n
            x = torch.where(keep, x, 0.0)
            if a.row is None:
                new = x.sum(1, keepdim=True)
            else:
                row = values(a.row).expand(1, keep.shape[1], -1)
                new = (self.stage.rounded(x)[..., 0] @ row[0]).unsqueeze(1)
            self.sums[i] = self.sums[i] * self.scale(i, alpha) + new
        for i, t in self.stage.tops.items():
            score = torch.where(keep, values(t.score), -INF)
            index = torch.where(score == -INF, -1.0, values.index("kv_idx").expand(keep.shape))
            self.tops[i] = _longest(self.tops[i], (score, index), t.count)

    def merge(self, other):
        """The split-KV law: maxima of the maxima, sums rescaled by their own weights and added."""
        mine, theirs = {}, {}
        for i, old in self.maxima.items():
            self.maxima[i] = torch.maximum(old, other.maxima[i])
            mine[i] = torch.exp(old - self.shift(i))
            theirs[i] = torch.exp(other.maxima[i] - self.shift(i))
        for i in self.sums:
            kept = self.sums[i] * self.scale(i, mine)
            self.sums[i] = kept + other.sums[i] * self.scale(i, theirs)
        for i, t in self.stage.tops.items():
            self.tops[i] = _longest(self.tops[i], other.tops[i], t.count)


def _longest(x, y, count):
    values, indices = (torch.cat(pair, 1) for pair in zip(x, y, strict=True))
    values, order = torch.sort(values, dim=1, descending=True, stable=True)
    return values[:, :count], torch.gather(indices, 1, order)[:, :count]
