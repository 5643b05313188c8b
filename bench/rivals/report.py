"""The report: Markdown tables with the ratio to the fastest peer of each row, and a plot."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rivals.clocks import Cell
from rivals.rows import Row

Result = dict[str, Any]  # one row as JSON: name, goals, flops, cells by system


def as_json(row: Row, cells: dict[str, Cell]) -> Result:
    """A row and its cells, ready to be written."""
    flops = {"forward": row.forward_flops, "backward": row.backward_flops}
    goals = {"forward": row.forward, "backward": row.backward}
    return {
        "row": row.name,
        "goals": goals,
        "flops": flops,
        "cells": {name: asdict(cell) for name, cell in cells.items()},
    }


def ratio(result: Result, what: str, ours: tuple[str, ...]) -> tuple[float, str, str] | None:
    """(fastest peer's time over our best, our backend, the peer); None if either has no number."""
    cells = result["cells"]
    times = {name: cell[what] for name, cell in cells.items() if cell[what] is not None}
    mine = {name: t for name, t in times.items() if name in ours}
    theirs = {name: t for name, t in times.items() if name not in ours}
    if not mine or not theirs:
        return None
    best, peer = min(mine, key=mine.__getitem__), min(theirs, key=theirs.__getitem__)
    return theirs[peer] / mine[best], best, peer


def markdown(results: list[Result], columns: list[str], ours: tuple[str, ...], head: str) -> str:
    """The whole report."""
    parts = [head]
    for what in ("forward", "backward"):
        if any(c[what] is not None for r in results for c in r["cells"].values()):
            parts.append(_times(results, columns, ours, what))
    parts.append(_details(results, columns))
    parts.append(_notes(results))
    return "\n".join(parts)


def _times(results: list[Result], columns: list[str], ours: tuple[str, ...], what: str) -> str:
    heads = ["row", *columns, "ratio", "goal", "ours / fastest peer"]
    lines = [f"## {what.capitalize()}, ms (TFLOP/s of the kept pairs)", "", _line(heads)]
    lines.append("|---" * len(heads) + "|")
    for result in results:
        cells = [_time(result, name, what) for name in columns]
        found, goal = ratio(result, what, ours), result["goals"][what]
        tail = ["", f"{goal:.2f}" if goal else "", ""]
        if found:
            shown = f"{found[0]:.2f}"
            tail[0] = f"**{shown}**" if goal and found[0] >= goal else shown
            tail[2] = f"{found[1]} / {found[2]}"
        lines.append(_line([result["row"], *cells, *tail]))
    return "\n".join([*lines, ""])


def _time(result: Result, name: str, what: str) -> str:
    cell = result["cells"].get(name)
    if cell is None or cell[what] is None:
        return "-"
    return f"{cell[what]:.3f} ({result['flops'][what] / cell[what] / 1e9:.0f})"


def _details(results: list[Result], columns: list[str]) -> str:
    heads = ["row", "system", "first call s", "set-up ms", "peak MiB", "error", "gradient error"]
    lines = ["## First call, set-up, memory, errors", ""]
    lines += ["First call: set-up, compilation and one call in a process with empty caches.", ""]
    lines += [_line(heads), "|---" * len(heads) + "|"]
    for result in results:
        for name in columns:
            cell = result["cells"].get(name)
            if cell is None or cell["first"] is None:
                continue
            lines.append(
                _line(
                    [
                        *(result["row"], name, _number(cell["first"], ".2f")),
                        *(_number(cell["set_up"], ".2f"), _number(cell["peak"], ".0f")),
                        *(_number(cell["error"], ".1e"), _number(cell["gradient_error"], ".1e")),
                    ]
                )
            )
    return "\n".join([*lines, ""])


def _notes(results: list[Result]) -> str:
    lines = ["## What has no number, and why", ""]
    for result in results:
        for name, cell in result["cells"].items():
            if cell["note"]:
                lines.append(f"- {result['row']}, {name}: {cell['note']}")
    return "\n".join([*lines, ""])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def plot(results: list[Result], columns: list[str], path: Path) -> None:
    """Bars of TFLOP/s, a panel for forward and one for backward; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 1, figsize=(max(8.0, 0.9 * len(results)), 9.0))
    width = 0.8 / max(1, len(columns))
    for panel, what in zip(panels, ("forward", "backward"), strict=True):
        for c, name in enumerate(columns):
            heights = []
            for result in results:
                time = result["cells"].get(name, {}).get(what)
                heights.append(result["flops"][what] / time / 1e9 if time else 0.0)
            panel.bar([i + c * width for i in range(len(results))], heights, width, label=name)
        panel.set_xticks([i + 0.4 for i in range(len(results))])
        panel.set_xticklabels([r["row"] for r in results], rotation=45, ha="right", fontsize=7)
        panel.set_ylabel(f"{what}, TFLOP/s of the kept pairs")
        panel.grid(axis="y", alpha=0.3)
    panels[0].legend(fontsize=7, ncols=4)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def save(path: Path, head: str, results: list[Result]) -> None:
    """The numbers behind a report, for `--merge`."""
    path.write_text(json.dumps({"head": head, "results": results}, indent=1), encoding="utf-8")


def load(path: Path) -> tuple[str, list[Result]]:
    """(header, rows) of a saved report."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored["head"], stored["results"]
