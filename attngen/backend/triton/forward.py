"""The forward kernel of a program: steps, bounds, results."""

from __future__ import annotations

from dataclasses import replace

from attngen.backend.templates import render
from attngen.backend.triton.context import ANCHOR, Context
from attngen.backend.triton.finish import Finish
from attngen.backend.triton.loops import Loop, Loops
from attngen.backend.triton.printer import DTYPES
from attngen.backend.triton.shape import COLUMN, ROW, SCALAR, TILE
from attngen.backend.triton.step import TILE_SHAPE, Step, build_step, place_mask
from attngen.backend.triton.tensors import group_lines
from attngen.backend.triton.text import at_run_time, call, prune, used, without_flag
from attngen.backend.triton.view import Stage, StepView
from attngen.backend.value import ONE
from attngen.ir.expr import Expr


class Forward(Context):
    """Prints one kernel: a program owns a tile of queries of one head."""

    def stage(self, number: int, finish: Finish) -> Stage:
        """Step function, state and closing lines of one pass."""
        for shape in (COLUMN, TILE):
            self.binder.sections[shape].clear()
        self.binder.key_tiles.clear()
        outer, rows_start = dict(self.printer.bound), len(self.binder.sections[ROW])
        step = build_step(
            self.binder, self.plan, number, self._mask(), self.facts.tail, ANCHOR, self.facts.half
        )
        self.last_step = step
        name = f"{self.entry}_step" + (f"_{number}" if self.plan.stages > 1 else "")
        body = self._body(step)
        flagged = self.has_full_tiles and bool(step.keep)
        body = prune(body if flagged else without_flag(body, "PARTIAL"))
        flagged = flagged and "PARTIAL" in body
        self._forget_inner(outer)
        parameters = used([*step.state, *self._scope(), *self.finished], body)
        if number > 1:  # rows of a later pass may need what an earlier one reduced
            self.between = self.binder.sections[ROW][rows_start:]
            del self.binder.sections[ROW][rows_start:]
        finish_start = len(self.binder.sections[ROW])
        finish.stage(step)
        lines = self.binder.sections[ROW][finish_start:]
        del self.binder.sections[ROW][finish_start:]
        self.finished += [*step.state, *(line.split(" = ")[0] for line in self.between + lines)]
        any_kept, function = self._any_kept(name, step) if self.facts.skip else ("", "")
        return Stage(
            name,
            body,
            parameters,
            step.state,
            self._inits(step),
            lines,
            any_kept,
            function,
            flagged,
        )

    def _mask(self) -> Expr | str | None:
        """What a partial tile tests: row limits as text, or the formula."""
        if self.keep_text is None and not self._limits_tried:
            self.keep_text, self._limits_tried = self.row_keep(), True
        return self.keep_text or self.plan.mask

    def _forget_inner(self, outer: dict[Expr, str]) -> None:
        """Columns and tiles are names of the step; scalars and rows stay in scope of the kernel."""
        for e in list(self.printer.bound):
            if e not in outer and self.frame.shape(e) in (COLUMN, TILE):
                del self.printer.bound[e]

    def _body(self, step: Step) -> str:
        view = StepView(step, self.frame, self.facts.guard, self._precision())
        blocks = [self.schedule.block_q, self.schedule.block_k]
        return (
            render(
                "triton/step.py.j2",
                step=view,
                tiles=self.streams.views,
                block_k=self.schedule.block_k,
                block_q=self.schedule.block_q,
                keys_axis=self.frame.keys_axis,
                spread_row=self.frame.spread_row(""),
                keys_first=self.frame.keys_first,
                precision=self._precision(),
                masked_scores=view.masked_scores,
                returned=step.state,
            )
            .rstrip("\n")
            .replace(TILE_SHAPE, str(blocks[::-1] if self.frame.keys_first else blocks))
        )

    def _any_kept(self, name: str, step: Step) -> tuple[str, str]:
        lines = [f"kv_idx = n + tl.arange(0, {self.schedule.block_k})"]
        before = {s: list(self.binder.sections[s]) for s in (COLUMN, TILE)}
        for s in (COLUMN, TILE):
            self.binder.sections[s].clear()
        alone = Step()
        place_mask(self.binder, alone, self.plan.mask, True)
        lines += [*alone.mask_columns, *alone.mask_lines]
        lines.append(f"keep = {alone.keep}")
        lines.append("return tl.max(tl.max((keep & inside[:, None]).to(tl.int32), 1), 0) > 0")
        for s in (COLUMN, TILE):
            self.binder.sections[s][:] = before[s]
        self._forget_inner({})
        body = prune("\n".join("    " + line for line in lines))
        parameters = used(self._scope(), body)
        function = call(f"def {name}_any_kept", parameters, ":") + "\n" + body
        return call(f"{name}_any_kept", parameters, "", 11), function

    def _inits(self, step: Step) -> list[tuple[str, str]]:
        q, out = self.schedule.block_q, []
        for a in step.accumulators:
            for i, name in enumerate(a.names):
                wide = (
                    [q, a.chunks[i].block][:: -1 if self.frame.keys_first else 1]
                    if a.chunks
                    else [q]
                )
                shape = f"[{', '.join(map(str, wide))}]"
                out.append((name, f"tl.zeros({shape}, tl.float32)"))
        for c in step.classes:
            if c.fixed is None:
                out.append((c.m, f'tl.full([{q}], float("-inf"), tl.float32)'))
            if c.l:
                out.append((c.l, f"tl.zeros([{q}], tl.float32)"))
        for t in step.tops:
            if t.count == 1:
                out.append((t.value, f'tl.full([{q}], float("-inf"), tl.float32)'))
                out.append((t.position, f"tl.full([{q}], -1, tl.int32)"))
            else:  # the key of (-inf, no index), below every key of an element
                out.append((t.value, f"tl.full([{q}, {t.slots}], -9187343244130779136, tl.int64)"))
                self.printer.helpers.add("pack_top")
        return out

    def kernel(self) -> tuple[str, list[Stage], list[str]]:
        """(kernel body, stages, kernel parameter names)."""
        heads = group_lines(self.sizes, self.parameters)
        self._lengths()
        operands = "" if self.facts.wide else DTYPES[self.outputs.query.dtype.value]
        finish = Finish(self.binder, self.plan, self.facts.never_empty, operands)
        outputs = self.outputs
        stages: list[Stage] = []
        for number in range(1, self.plan.stages + 1):
            stage = self.stage(number, finish)
            if number > 1:
                stages[-1].finish += self.between
            stages.append(stage)
        loops = self._joined(stages, self.loops())
        row_lines, scalar_lines = (
            list(self.binder.sections[ROW]),
            list(self.binder.sections[SCALAR]),
        )
        self.binder.sections[ROW].clear()
        self.binder.sections[SCALAR].clear()
        early = list(self.binder.query_tiles)
        stores = outputs.lines(finish, self.binder)
        late = [name for name in self.binder.query_tiles if name not in early]
        closing = [*self.binder.sections[SCALAR], *self.binder.sections[ROW], *stores]
        mark = loops.lines.index("# part") if "# part" in loops.lines else len(loops.lines)
        body = render(
            "triton/kernel_body.py.j2",
            block_q=self.schedule.block_q,
            block_k=self.schedule.block_k,
            stages_of_loop=self.schedule.stages,
            single=self.programs == ONE,
            packed=self._packed(),
            head_lines=heads,
            position_lines=self._position_lines(),
            base_lines=[*self.streams.base_lines, *self.inputs.base_lines],
            query_tiles=[self.streams.views[name] for name in early],
            late_tiles=[self.streams.views[name] for name in late],
            scalar_lines=scalar_lines,
            row_lines=[*row_lines, *self.runs.lines, *self.limit_lines],
            bounds_comment=self._bounds_comment(loops),
            loops=loops,
            bound_lines=loops.lines[:mark],
            part_lines=loops.lines[mark + 1 :],
            stages=stages,
            skip=self.facts.skip,
            store_lines=closing,
        ).rstrip("\n")
        body = prune(body)
        return body, stages, self.ordered(body)

    def _joined(self, stages: list[Stage], loops: Loops) -> Loops:
        """One loop instead of those over partial and full tiles, if the schedule asks for it.

        The steps then test at run time whether to mask; where they cannot, the loops stay.
        """
        bodies = [at_run_time(s.body, "PARTIAL", "partial") for s in stages if s.flagged]
        able = len(bodies) == len(stages) and None not in bodies and not self.facts.skip
        if self.schedule.loops != "joined" or not able:
            return loops
        for stage, body in zip(stages, bodies, strict=True):
            stage.body, stage.condition = str(body), "(n < full_lo) | (n >= full_hi)"
        return replace(loops, loops=(Loop("lo", "hi", True),))

    def _position_lines(self) -> list[str]:
        lines = []
        if self.printer.bound[ANCHOR] == "anchor":
            lines.append("anchor = row0 + kv_len - q_len  # key position of the first query")
        if not self.attention.same_length:
            lines.append("q_pos = q_idx + (kv_len - q_len)  # key position of each query")
        return lines

    def _bounds_comment(self, loops: Loops) -> str:
        if any("full_hi = " in line for line in loops.lines):
            return (
                "keys lo..hi are visited; every query of the tile keeps the keys full_lo..full_hi"
            )
        return "keys lo..hi are visited"
