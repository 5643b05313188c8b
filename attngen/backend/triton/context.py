"""What every kernel of a program is printed from: names, parameters, tensors, bounds."""

from __future__ import annotations

from attngen.backend.triton.binder import Binder
from attngen.backend.triton.facts import Facts
from attngen.backend.triton.index_printer import IndexPrinter
from attngen.backend.triton.inputs import Inputs
from attngen.backend.triton.layout import Layout, layout
from attngen.backend.triton.limits import QUERIES, Limits, Owner, Runs
from attngen.backend.triton.loops import Loops, build_loops
from attngen.backend.triton.names import Names
from attngen.backend.triton.outputs import Outputs
from attngen.backend.triton.printer import Printer
from attngen.backend.triton.shape import ROW, SCALAR, Frame
from attngen.backend.triton.tensors import Form, Parameters, Sizes, Streams, sizes
from attngen.backend.triton.text import used
from attngen.backend.value import Value, product, variable
from attngen.core.target import Target
from attngen.ir.attention import Attention
from attngen.ir.expr import Index, Load, Side
from attngen.ir.index import Poly, TileExtreme
from attngen.ir.program import Program
from attngen.schedule.schedule import Schedule

ANCHOR = Load("row0", (), "int")


class Context:
    """One kernel being printed.

    untested: the length of the loop's side if nothing masks what is past it;
    rows: what the rows of a tile are, see tensors.Form; finished: names of rows that earlier passes
    over the keys left behind; between: lines of rows that the pass printed last needs before it.
    """

    rows = "queries"
    owner: Owner = QUERIES
    untested: Poly | None = None
    make_binder: type[Binder] = Binder

    def __init__(
        self,
        program: Program,
        schedule: Schedule,
        target: Target,
        entry: str,
        frame: Frame | None = None,
        cuts: Layout | None = None,
    ) -> None:
        self.program, self.schedule, self.target, self.entry = program, schedule, target, entry
        self.attention: Attention = program.attention
        self.plan, self.mask_plan = program.online, program.mask
        self.facts = Facts(program)
        self.names, self.parameters = Names(), Parameters()
        self.frame = frame or Frame()
        self.sizes: Sizes = sizes(self.attention)
        self.layout = cuts or layout(self.attention, self.plan)
        self.form = Form(
            schedule.block_q,
            schedule.block_k,
            schedule.loads == "descriptor",
            self.rows,
            self.owner is QUERIES,
        )
        for t in self.attention.tensors:
            self.names.take(f"{t.name}_ptr")
        self.streams = Streams(
            self.attention, self.layout, self.sizes, self.names, self.parameters, self.form
        )
        self.inputs = Inputs(self.attention, self.parameters, self.names, self.sizes)
        self.printer = Printer(self.frame, self.inputs.load)
        self.binder = self.make_binder(
            self.printer,
            self.names,
            self.layout,
            self.attention.names,
            self.streams.tiles,
            self._precision(),
        )
        self.outputs = Outputs(
            self.attention, self.plan, self.sizes, schedule.block_q, self.parameters
        )
        self.runs = Runs(self.inputs, self.names, self.printer.helpers, self.owner)
        self.limit_lines: list[str] = []
        self.finished: list[str] = []
        self.between: list[str] = []
        self.keep_text: str | None = None
        self._limits_tried = False
        self._bind_indices()

    def _precision(self) -> str:
        return f', input_precision="{self.schedule.precision}"' if self.facts.wide else ""

    def _bind_indices(self) -> None:
        bound = self.printer.bound
        bound[ANCHOR] = "row0"
        if self.attention.same_length:
            bound[Index("q_pos")] = "q_idx"
        elif any(e is Index("q_pos") for e in self.facts.everything()):
            bound[ANCHOR] = "anchor"

    def _scope(self) -> list[str]:
        tiles = [
            c.name
            for v in self.streams.views.values()
            for c in v.chunks
            if self.streams.side(self.attention.tensor(v.tensor)) is Side.QUERY
        ]
        rows = [line.split(" = ")[0] for s in (SCALAR, ROW) for line in self.binder.sections[s]]
        lines = [
            *self.streams.base_lines,
            *self.inputs.base_lines,
            *self.runs.lines,
            *self.limit_lines,
        ]
        bases = [line.split(" = ")[0] for line in lines]
        indices = [
            "b",
            "h",
            "h_kv",
            "head_group",
            *self.sizes.groups.values(),
            "n",
            "row0",
            "anchor",
            "q_idx",
            "q_pos",
            "inside",
        ]
        indices += ["q_start", "kv_start", "q_len", "kv_len"]
        return [*tiles, *rows, *self.parameters.table, *bases, *indices]

    def _variables(self) -> dict[str, str]:
        names = {
            self.owner.begin.text: self.owner.first,
            self.owner.end.text: self.owner.stop,
            "q_len": "q_len",
            "kv_len": "kv_len",
            "b": "b",
            "h": "h",
        }
        names |= {g: g for g in self.sizes.groups.values()}
        return names | {
            t.name: self.inputs.scalar(t.name) for t in self.attention.tensors if t.is_scalar
        }

    def loops(self) -> Loops:
        """Loop bounds of a query tile."""
        printer = IndexPrinter(
            self._variables(),
            self.inputs.address,
            self.inputs.element,
            self.tile_extreme,
            self.runs.scalar,
            self.printer.helpers,
        )
        over_keys = self.owner is QUERIES
        block = self.schedule.block_k if over_keys else self.schedule.block_q
        single = self.schedule.loops == "single"
        return build_loops(self.mask_plan, printer, block, single, not over_keys, self.untested)

    def tile_extreme(self, e: TileExtreme) -> str | None:
        """Least or greatest of a row of an input over the tile a program owns."""
        o = self.owner
        return self.inputs.tile_extreme(e, o.begin, o.end, o.vector, o.inside)

    def row_keep(self) -> str | None:
        """The mask of a partial tile by row limits, if the plan gives them."""
        if self.plan.mask is None:
            return None
        printer = IndexPrinter(
            {**self._variables(), self.owner.position.text: self.owner.vector, "q_pos": "q_pos"},
            self.inputs.address,
            self.inputs.row_element if self.owner is QUERIES else self.inputs.column_element,
            lambda _: None,
            self.runs.vector,
            self.printer.helpers,
        )
        limits = Limits(
            self.mask_plan,
            printer,
            self.frame,
            self.names,
            self.limit_lines,
            self.owner,
            self.untested,
        )
        return limits.keep()

    @property
    def has_full_tiles(self) -> bool:
        """Whether some loop runs over tiles that need no mask."""
        return any(not loop.partial for loop in self.loops().loops)

    def ordered(self, body: str) -> list[str]:
        """Parameters the body uses: tensors, results, strides, then sizes and scalars."""
        results = {f"{r.name}_ptr" for r in self.outputs.results}

        def rank(name: str) -> int:
            if name in results or name.endswith("parts"):
                return 1
            if self.parameters.table[name].type.startswith(("*", "tensordesc")):
                return 0
            return 2 if "_stride_" in name or "_size_" in name else 3

        return sorted(used(self.parameters.table, body), key=rank)

    def _packed(self) -> dict[str, str] | None:
        q = next((t.packed for t in self.attention.tensors if t.role == "query" and t.packed), None)
        kv = next(
            (t.packed for t in self.attention.tensors if t.role in ("key", "value") and t.packed),
            None,
        )
        if q is None:
            return None
        self.printer.helpers.add("sequence_of")
        for name in dict.fromkeys((q, kv or q)):
            self.parameters.add_array(f"{name}_ptr", "i32", name)
        return {"q": q, "kv": kv or q}

    def _lengths(self) -> None:
        p, s = self.parameters, self.sizes
        lengths = [] if self.facts.packed else [("q_len", s.q_len), ("kv_len", s.kv_len)]
        for name, host in (*lengths, ("heads", s.heads), ("batch", s.batch)):
            p.add(name, "i32", host)
        p.add("heads_in_l2", "i32", variable("heads_in_l2"))
        p.add("slots", "i32", variable("tiles"))

    @property
    def programs(self) -> Value:
        """Host value: number of (batch, head) pairs, or of heads for packed sequences."""
        return product([*([] if self.facts.packed else [self.sizes.batch]), self.sizes.heads])
