"""Programs for the laws of the backward: formulas with declarations, specs in any layout.

Each case is (program, leaves, pieces): float64 leaves as the reference takes them, and for each
sequence the `Data` of the tile executor with a map from its gradients to parts of the leaves'.
"""

from dataclasses import replace
from pathlib import Path

import torch

from attngen.core.dtype import Dtype
from attngen.core.source import Source
from attngen.frontend import load
from attngen.ir.attention import Axis, Tensor
from attngen.ir.expr import Row, Side
from attngen.ir.walk import walk
from attngen.passes.specialise import specialise
from attngen.reference import philox
from attngen.reference.inputs import fill_sizes, make_inputs
from tests.laws.online_formulas import Data, attention

EXAMPLES = Path(__file__).parents[2] / "examples"


def leaf(x):
    floats = torch.is_tensor(x) and x.is_floating_point()
    return x.detach().double().requires_grad_() if floats else x


def of_formula(outputs, mask, data):
    """A formula with its tensors declared, so that the reference can run it."""
    program = attention(outputs, mask)
    data.tensors.setdefault("seed", torch.tensor(7))
    rows = [e for e in walk(*(e for _, e in program.outputs)) if isinstance(e, Row)]
    sides = {e.tensor: e.side for e in rows}
    queries = [n for n in sides if sides[n] is Side.QUERY]
    order = sorted(data.tensors, key=lambda n: n not in queries)
    if not queries:
        raise ValueError("no query stream")
    tensors = tuple(_declared(n, data, sides.get(n)) for n in order)
    data.uniform = _uniform(int(data.tensors["seed"]), data.shape)
    leaves = {n: leaf(x) for n, x in data.tensors.items()}
    return replace(program, tensors=tensors), leaves, [(data, lambda n, g: g)]


def _declared(name, data, side):
    x = data.tensors[name]
    dtype = Dtype.F64 if x.is_floating_point() else Dtype.I64
    if side is None:
        return Tensor(name, "input", dtype, tuple(Axis(str(n), "feature", n) for n in x.shape))
    first = {Side.QUERY: ("query", "Hq", "Sq"), Side.KEY: ("key", "Hkv", "Skv")}[side]
    axes = (Axis("B", "batch"), Axis(first[1], "head"), Axis(first[2], "position"))
    return Tensor(name, first[0], dtype, (*axes, Axis(str(x.shape[3]), "feature", x.shape[3])))


def _uniform(seed, shape, sequence=0):
    """The reference's numbers for every pair."""
    b, h, _, nq, nk = shape
    grids = torch.meshgrid(*(torch.arange(n) for n in (b, h, nq, nk)), indexing="ij")
    grids = (grids[0] + sequence, *grids[1:])
    return philox.uniform(seed, tuple(reversed(grids)), torch.float64)


def of_example(name, sizes, params=None):
    """A spec of examples/, specialised."""
    source = Source(f"{name}.attn", (EXAMPLES / f"{name}.attn").read_text())
    return of_source(source, sizes, params)


def of_source(source, sizes, params=None, seed=0):
    """A spec with random inputs."""
    loaded = load(source, params or {})
    program = specialise(loaded, fill_sizes(loaded, sizes), Dtype.BF16)
    tensors = make_inputs(program, sizes, seed, half=torch.float64)
    leaves = {n: torch.tensor(x) if not torch.is_tensor(x) else x for n, x in tensors.items()}
    leaves = {n: leaf(x) for n, x in leaves.items()}
    return program, leaves, pieces_of(program, leaves)


def pieces_of(program, leaves):
    """(data, layout) of each sequence."""
    query = next(t for t in program.tensors if t.role == "query")
    if query.packed is None:
        return [_piece(program, leaves, None)]
    return [_piece(program, leaves, b) for b in range(leaves[query.packed].shape[0] - 1)]


def _piece(program, leaves, sequence):
    rows = {e.tensor for e in walk(*(e for _, e in program.outputs)) if isinstance(e, Row)}
    declared = {t.name: t for t in program.tensors}

    def laid(name, x):
        """A stream as [B, H, S, D]; anything else as it is."""
        if name not in rows:
            return x
        t = declared[name]
        if t.packed is not None:
            start, stop = leaves[t.packed][sequence : sequence + 2].tolist()
            x = x[start:stop] if t.axis("position") == 0 else x[:, start:stop]
        found = [t.axis(role) for role in ("batch", "head", "position")]
        x = x.permute(*[i for i in found if i is not None], x.dim() - 1)
        for at, i in enumerate(found):
            x = x if i is not None else x.unsqueeze(at)
        return x

    tensors = {n: laid(n, x).detach() for n, x in leaves.items()}
    shape = _shape(program, tensors)
    data = Data(tensors, shape)
    if "seed" in tensors:
        data.uniform = _uniform(int(tensors["seed"]), shape, sequence or 0)
    return data, laid


def _shape(program, tensors):
    query = next(t.name for t in program.tensors if t.role == "query")
    key = next(t.name for t in program.tensors if t.role in ("key", "value") and t.view is None)
    b, h, nq, _ = tensors[query].shape
    _, hk, nk, _ = tensors[key].shape
    return b, h, hk, nq, nk
