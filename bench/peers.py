"""attngen beside every peer that can be imported here: one command, one run, same inputs.

    python bench/peers.py                           all rows
    python bench/peers.py --rows causal --seconds 500 --json part1.json
    python bench/peers.py --merge part1.json part2.json

Each system's result and gradients are compared with float32 on one head before it is timed; one
that is missing, fails or is wrong says so in its cell. Times are medians over rounds in which the
systems take turns; ratios are to the fastest peer of the row. Writes Markdown and a plot to
bench/results/. A run that reaches --seconds leaves the other rows out and names them; --merge makes
one table of several runs, whose rows are still each of one run.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from rivals import report, workers
from rivals.rows import Row, all_rows

PACKAGES = ("torch", "triton", "nvidia-cutlass-dsl", "flash-attn-4", "nvidia-cudnn-frontend")
OURS = ("attngen Triton", "attngen CuTe", "CuTe, any order")


def versions() -> str:
    """Versions of what takes part."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} absent")
    return ", ".join([*found, f"Python {platform.python_version()}"])


def header(device: str, arguments: list[str]) -> str:
    """When, on what, with which versions, by which command."""
    command = " ".join(["python bench/peers.py", *arguments])
    lines = ["# attngen beside its peers", "", f"- {datetime.date.today()}, {device}, bfloat16"]
    return "\n".join([*lines, f"- {versions()}", f"- command: `{command}`", ""])


def chosen(text: str) -> list[Row]:
    """Rows whose name holds one of the words, which are separated by commas; all for none."""
    words = [w.strip().lower() for w in text.split(",") if w.strip()]
    return [r for r in all_rows() if not words or any(w in r.name.lower() for w in words)]


def run(options: argparse.Namespace, names: list[str], head: str) -> list[report.Result]:
    """Measures batch after batch until the time is used up."""
    begin, results = time.perf_counter(), []
    rows = chosen(options.rows)
    for first in range(0, len(rows), options.processes):
        batch = rows[first : first + options.processes]
        start = time.perf_counter()
        if start - begin > options.seconds:
            names_left = ", ".join(r.name for r in rows[first:])
            print(f"# not measured, the time is used up: {names_left}", file=sys.stderr)
            break
        backward = not options.forward
        tasks = [workers.Task(r, tuple(names), options.rounds, backward) for r in batch]
        for row, cells in workers.measure(tasks):
            results.append(report.as_json(row, cells))
            for name, cell in cells.items():
                shown = [f"{t:.3f}" if t else "-" for t in (cell.forward, cell.backward)]
                print(f"# {row.name} | {name} | {' | '.join(shown)} | {cell.note}", file=sys.stderr)
            if options.json:
                report.save(options.json, head, results)
        print(f"#   [{time.perf_counter() - start:.0f} s]", file=sys.stderr, flush=True)
    return results


def main(arguments: list[str]) -> int:
    """Runs or merges; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="", metavar="WORDS", help="rows that hold one of them")
    parser.add_argument("--systems", default="", metavar="WORDS", help="columns, likewise")
    parser.add_argument("--seconds", type=float, default=3600, help="start no row after this long")
    parser.add_argument("--rounds", type=int, default=5, help="bursts per system and row")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="rows compiled side by side"
    )
    parser.add_argument("--forward", action="store_true", help="no backward")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the numbers too")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="make one report")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the report (.md)")
    options = parser.parse_args(arguments)
    if options.merge:
        return _merge(options)
    import torch

    if not torch.cuda.is_available():
        print("no GPU here; --merge needs none", file=sys.stderr)
        return 2
    from rivals.systems import systems

    device = torch.cuda.get_device_name()
    words = [w.strip().lower() for w in options.systems.split(",") if w.strip()]
    names = [s.name for s in systems()]
    names = [n for n in names if not words or any(w in n.lower() for w in words)]
    head = header(device, arguments)
    results = run(options, names, head)
    _write(options.out or _place(device), head, results, names)
    return 0


def _merge(options: argparse.Namespace) -> int:
    heads, results = zip(*(report.load(p) for p in options.merge), strict=True)
    rows = [r for part in results for r in part]
    names = list(dict.fromkeys(n for r in rows for n in r["cells"]))
    _write(options.out or _place("merged"), "\n".join(heads), rows, names)
    return 0


def _place(device: str) -> Path:
    word = next((w for w in device.lower().split() if any(c.isdigit() for c in w)), device)
    return HERE / "results" / f"{datetime.date.today()}-peers-{word}.md"


def _write(path: Path, head: str, results: list[report.Result], names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = report.markdown(results, names, OURS, head)
    path.write_text(text, encoding="utf-8")
    print(text)
    try:
        report.plot(results, names, path.with_suffix(".png"))
    except ImportError as error:
        print(f"no plot: {error}", file=sys.stderr)
    print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
