"""Gradients at computed positions: `c[h, kv_idx % 7]`, `c[q_pos]`, `c[ids[b, kv_idx]]`.

Several positions may read one element, and nothing may be added without an order. So each program
stores its numbers beside the element each belongs to, and one more kernel gives every tile of
elements a program that walks over all positions: a compare and a select per pair of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from attngen.backend.triton.host import Launch
from attngen.backend.triton.pieces import device_kernel, kernel_piece, launch
from attngen.backend.triton.tensors import Parameters
from attngen.backend.value import Value, cdiv, product, shape_of, variable
from attngen.core.dtype import Dtype
from attngen.ir.attention import Axis, Tensor
from attngen.ir.expr import Axes, Const, Expr, Index, Load

if TYPE_CHECKING:
    from attngen.backend.emitted import DeviceKernel

LEADS = {"batch": ("b",), "head": ("h", "h_kv")}  # indices that are an axis as they are, by role
BLOCK, WARPS, STAGES = 64, 4, 2
DOC = "Adds numbers up by the element they belong to, one after the other."
BODY = f"""\
    tiles = tl.cdiv(elements, {BLOCK})
    lead = tl.program_id(0) // tiles
    cells = tl.program_id(0) % tiles * {BLOCK} + tl.arange(0, {BLOCK})  # [elements]
    values = values_ptr + lead.to(tl.int64) * count
    places = places_ptr + lead.to(tl.int64) * count
    sums = tl.zeros([{BLOCK}], tl.float32)
    for n in range(0, count, {2 * BLOCK}):
        at = n + tl.arange(0, {2 * BLOCK})
        value = tl.load(values + at, mask=at < count, other=0.0)
        place = tl.load(places + at, mask=at < count, other=-1)
        sums += tl.sum(tl.where(place[None, :] == cells[:, None], value[None, :], 0.0), 1)
    tl.store(sums_ptr + lead.to(tl.int64) * elements + cells, sums, mask=cells < elements)"""


def computed(of: Load) -> bool:
    """Whether several positions may read one element, or a position one that is not its own."""
    return any(not isinstance(i, Const) and not plain(i) for i in of.index)


def plain(index: Expr) -> bool:
    """Whether it is an index of the launch as it is."""
    return isinstance(index, Index) and index.name != "q_pos"


@dataclass(frozen=True)
class Elements:
    """One sum by element.

    values, places, sums: arrays; leads: how many times the elements are; count: numbers for each
    of them.
    """

    values: str
    places: str
    sums: str
    leads: Value
    count: Value
    elements: Value

    def parameters(self) -> tuple[Parameters, list[str]]:
        """What the kernel takes, and in which order."""
        table = Parameters()
        table.add_array("values_ptr", "fp32", self.values)
        table.add_array("places_ptr", "i32", self.places)
        table.add_array("sums_ptr", "fp32", self.sums)
        table.add("count", "i32", self.count)
        table.add("elements", "i32", self.elements)
        return table, list(table.table)

    def launch(self, name: str) -> Launch:
        """The launch; it follows the kernels that store the numbers."""
        table, parameters = self.parameters()
        grid = (product([cdiv(self.elements, BLOCK), self.leads]),)
        return launch(name, grid, table, parameters, [f"num_warps={WARPS}", f"num_stages={STAGES}"])

    def text(self, name: str) -> dict[str, str]:
        """The kernel, the same for every sum."""
        table, parameters = self.parameters()
        return kernel_piece(name, DOC, BODY, table, parameters)

    def device(self, name: str) -> DeviceKernel:
        """The kernel as `triton.compile` takes it."""
        table, parameters = self.parameters()
        return device_kernel(name, table, parameters, WARPS, STAGES)


@dataclass(frozen=True)
class Read:
    """A read at computed positions, taken apart.

    leads: axes of the tensor that are an index of the launch, as (index, axis); rest: the others.
    """

    tensor: Tensor
    of: Load
    leads: tuple[tuple[str, int], ...]
    rest: tuple[int, ...]

    @classmethod
    def of_load(cls, tensor: Tensor, of: Load) -> Read:
        """Heads after batches, as numbers are stored; an index is an axis once."""
        found: dict[str, tuple[str, int]] = {}
        for axis, (a, index) in enumerate(zip(tensor.axes, of.index, strict=True)):
            if isinstance(index, Index) and index.name in LEADS.get(a.role, ()):
                found.setdefault(a.role, (index.name, axis))
        leads = tuple(found[role] for role in LEADS if role in found)
        rest = tuple(i for i in range(len(tensor.axes)) if i not in {x for _, x in leads})
        return cls(tensor, of, leads, rest)

    @property
    def position(self) -> str:
        """The index of the launch that the numbers are stored along."""
        return "kv_idx" if self.of.level == Axes.KEY else "q_idx"

    def sizes(self, axes: tuple[int, ...]) -> list[Value]:
        """Sizes of some axes of the tensor."""
        return [shape_of(self.tensor.name, i) for i in axes]

    def names(self, head: str) -> list[str]:
        """Axes of the stored numbers: leads, what is summed, the position."""
        lead = [head if name != "b" else "b" for name, _ in self.leads]
        return [*lead, *(n for n in ("b", head) if n not in lead), self.position]

    def ordered(self, sums: str) -> Value:
        """Host: sums [leads, rest] in the order of the tensor's axes."""
        have = [axis for _, axis in self.leads] + list(self.rest)
        order = tuple(have.index(i) for i in range(len(have)))
        array = variable(sums)
        return array if order == tuple(range(len(order))) else Value("permute", (array, order))


def stored(array: str, names: list[str], dtype: Dtype) -> tuple[Tensor, Load]:
    """An array over indices of the launch, and its element of the current ones."""
    tensor = Tensor(array, "input", dtype, tuple(Axis(n, "feature") for n in names))
    return tensor, Load(array, tuple(Index(n) for n in names), "float")
