"""How far rounding moves a gradient: the backward plan in float64 with an error at each rounding.

docs/backward.md, "How gradients are judged", derives what is rounded and why this is the unit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from attngen.ir.backward import BackwardPlan
from attngen.ir.expr import Axes, Dot, Known, Recomputed, Reduced, Row
from attngen.passes.differentiate import differentiate
from attngen.reference.tolerance import EXACT, ulp
from attngen.runtime.kernel import Kernel
from tests.laws.backward_executor import Head, Values, forward_rows, rows_of_passes
from tests.laws.backward_programs import leaf, pieces_of

DRAWS = 16  # of fewer, one element of thousands has an RMS far below its error's
SINGLE = torch.finfo(torch.float32).eps  # tensor cores cut bits off a sum: an ulp, not half of one


@dataclass
class Noise:
    """Errors of one draw: uniform, up to half an ulp of `half` (none for float32) or of float32."""

    half: torch.dtype
    seed: int
    maker: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.maker = torch.Generator().manual_seed(self.seed)

    def draw(self, like: torch.Tensor) -> torch.Tensor:
        """Uniform in [-1, 1)."""
        return 2 * torch.rand(like.shape, generator=self.maker, dtype=torch.float64) - 1

    def rounded(self, x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Moved as by rounding to the half type (or another); float32 is left to `summed`."""
        dtype = dtype or self.half
        if dtype in EXACT:
            return x
        return torch.where(x == 0, x, x + self.draw(x) * ulp(x.abs(), dtype) / 2)

    def summed(self, x: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
        """A float32 sum whose terms have that magnitude together, in an order nobody knows."""
        return x + self.draw(x) * magnitude * SINGLE


def plain(e) -> bool:
    """Whether a row is read as it is stored."""
    return isinstance(e, Row | Known | Reduced)


def _moment(e) -> bool:
    return isinstance(e, Reduced) and e.what == "moment"


class RoundedValues(Values):
    """Values of a tile; rows that are computed are rounded before a tile product."""

    noise: Noise

    def operand(self, e):
        x = self(e)
        return x if plain(e) else self.noise.rounded(x)

    def compute(self, e):
        if isinstance(e, Dot):
            return self.dot(e)
        x = super().compute(e)
        if isinstance(e, Recomputed):  # an error of the exponent is a relative one of the weight
            score, norm = self(e.score).abs(), self(e.norm).abs()
            size = torch.where(x > 0, score + norm + 2, 0.0)
            return self.noise.summed(x, x * size)
        return x

    def dot(self, e):
        if e.level != Axes.TILE:
            a, b = self(e.a), self(e.b)
            x = (a * b).sum(-1, keepdim=True)
            return self.noise.summed(x, (a * b).abs().sum(-1, keepdim=True))
        a, b = (self.operand(c) for c in (e.a, e.b))
        if a.shape[0] == 1 and b.shape[1] == 1:
            a, b = b, a
        a, b = a[:, 0], b[0].mT
        return self.noise.summed(a @ b, a.abs() @ b.abs()).unsqueeze(-1)


class RoundedHead(Head):
    """The launches of a head with an error at every rounding."""

    def __init__(self, noise, plan, back, data, place, known, grads):
        self.noise = noise
        stored = {leaf for _, leaf in back.results}  # in the half type; lists of scores are not
        stored |= {e for e in known if _moment(e)} - {*rows_of_passes(plan)}  # these are already
        known = {
            e: noise.rounded(x) if e.feature is not None and e in stored else x
            for e, x in known.items()
        }
        self.exact = {}
        super().__init__(plan, back, data, place, known, grads)

    def values(self, queries, keys):
        values = RoundedValues(self.data, self.place, queries, keys, self.plan.mask, self.known)
        values.noise = self.noise
        return values

    def whole(self, like, value, level=None):
        x = super().whole(like, value, level)
        defined = isinstance(like, Known) and like.feature is not None
        return self.noise.rounded(x) if defined else x

    def hand_over(self, p):
        for t in p.rows:  # in the half type, to the rows kernels of earlier passes
            if t.leaf.level == Axes.QUERY:
                self.exact[t.leaf] = self.known[t.leaf]
                self.known[t.leaf] = self.noise.rounded(self.known[t.leaf])

    def take_back(self):
        self.known |= self.exact

    def tile(self, p, values, levels):
        for t in p.rows:
            if t.leaf.level in levels:
                for product in t.products:
                    g = self.masked(values, product.coefficient) * product.factor
                    g, other = self.noise.rounded(g)[..., 0], values.operand(product.other)
                    columns = t.leaf.level == Axes.KEY
                    g, other = (g.mT, other[:, 0]) if columns else (g, other[0])
                    x = self.noise.summed(g @ other, g.abs() @ other.abs())
                    self.accumulate(t.leaf, values, x.unsqueeze(0 if columns else 1))
        for t in p.numbers:
            if t.leaf.level in levels:
                x = self.masked(values, t.value)
                self.accumulate(t.leaf, values, self.noise.summed(x, x.abs()))


@dataclass
class Rounding:
    """Draws of the gradients of one call; plan, inputs and gradients of results are given."""

    made: Kernel
    tensors: dict
    incoming: list[torch.Tensor]
    half: torch.dtype

    def errors(self, names: list[str]) -> list[torch.Tensor]:
        """RMS over the draws of the error of each gradient, in float64."""
        values = [self.tensors[t.name] for t in self.made.declared]
        request = self.made.training_request(self.made.checker.check(values))
        program = self.made.spec.program(request)
        self.program, self.plan = program.attention, program.online
        self.back: BackwardPlan = differentiate(program.attention, program.online)
        own = [t.name for t in self.program.tensors if t.view is None]  # none is a word of Python
        order = [t.name for t in self.made.declared]
        names = [own[order.index(n)] for n in names]
        cpu = {n: torch.as_tensor(x).detach().cpu() for n, x in zip(own, values, strict=True)}
        self.leaves = {n: leaf(x) for n, x in cpu.items()}
        self.pieces = [(d, lay) for d, lay in pieces_of(self.program, self.leaves) if all(d.shape)]
        exact = self._gradients(None, names)
        squares = [torch.zeros_like(x) for x in exact]
        for seed in range(DRAWS):
            noise = Noise(self.half, seed)
            for i, x in enumerate(self._gradients(noise, names)):
                own = cpu[names[i]]
                stored = noise.rounded(x, own.dtype if own.dim() else torch.float32)
                squares[i] += (stored - exact[i]).square() / DRAWS
        return [s.sqrt() for s in squares]

    def _gradients(self, noise: Noise | None, names: list[str]) -> list[torch.Tensor]:
        found = {n: torch.zeros_like(self.leaves[n]) for n in names}
        query = next(t for t in self.program.tensors if t.role == "query")
        floating = [n for n, e in self.program.outputs if e.kind == "float"]
        given = dict(zip(floating, self.incoming, strict=True))
        for data, laid in self.pieces:
            rounded = noise.rounded if noise is not None else lambda x: x
            rows = forward_rows(self.plan, data, max(data.shape), rounded)
            own = {}
            for name, _ in self.back.seeds:
                x = given[name].detach().cpu().double()
                own[name] = laid(query.name, x if x.dim() == len(query.axes) else x.unsqueeze(-1))
            grads = self._piece(noise, data, rows, own)
            for name in names:  # the transpose of laying out
                x = laid(name, self.leaves[name])
                found[name] += torch.autograd.grad(x, self.leaves[name], grads[name])[0]
        return [found[n] for n in names]

    def _piece(self, noise, data, forward, seeds):
        grads = {n: torch.zeros_like(x) for n, x in data.tensors.items() if x.is_floating_point()}
        for place, (rows, results) in forward.items():
            known = {e: rows[e] for e in self.back.saved}
            known |= {leaf: results[name] for name, leaf in self.back.results}
            known |= {leaf: seeds[name][place].unsqueeze(1) for name, leaf in self.back.seeds}
            own = (self.plan, self.back, data, place, known, grads)
            head = Head(*own) if noise is None else RoundedHead(noise, *own)
            head.run((max(data.shape[3], 1), max(data.shape[4], 1)))
        return grads
