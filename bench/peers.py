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
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from rivals import report
from rivals.rows import Row, all_rows

PACKAGES = ("torch", "triton", "nvidia-cutlass-dsl", "flash-attn-4", "nvidia-cudnn-frontend")
OURS = ("attngen Triton", "attngen CuTe")


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


def run(options: argparse.Namespace, names: list[str]) -> list[report.Result]:
    """Measures row after row until the time is used up."""
    import torch
    from rivals.clocks import Cell, LostContextError, measure
    from rivals.systems import systems

    columns = [s for s in systems() if s.name in names]
    begin, results = time.perf_counter(), []
    head = header(torch.cuda.get_device_name(), sys.argv[1:])
    for row in chosen(options.rows):
        if time.perf_counter() - begin > options.seconds:
            print(f"# not measured, the time is used up: {row.name}", file=sys.stderr)
            continue
        start = time.perf_counter()
        try:
            cells = measure(row, columns, options.rounds, not options.forward)
            torch.cuda.empty_cache()
        except LostContextError as error:
            print(f"# {row.name} and the rows behind it: not measured, {error}", file=sys.stderr)
            break
        except Exception as error:  # such as no memory for the inputs: costs this row only
            words = f"not measured, {type(error).__name__}: {error}"
            print(f"# {row.name}: {words}", file=sys.stderr)
            cells = {"all": Cell(note=words[:160].replace("|", "/"))}
        results.append(report.as_json(row, cells))
        took = time.perf_counter() - start
        for name, cell in cells.items():
            shown = [f"{t:.3f}" if t else "-" for t in (cell.forward, cell.backward)]
            print(f"# {row.name} | {name} | {' | '.join(shown)} | {cell.note}", file=sys.stderr)
        print(f"#   [{took:.0f} s]", file=sys.stderr, flush=True)
        if options.json:
            report.save(options.json, head, results)
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

    device = torch.cuda.get_device_name()  # now: it cannot be asked for in a lost context
    words = [w.strip().lower() for w in options.systems.split(",") if w.strip()]
    names = [s.name for s in systems()]
    names = [n for n in names if not words or any(w in n.lower() for w in words)]
    with tempfile.TemporaryDirectory() as folder:
        # empty caches, so that a first call is one
        os.environ.update(ATTNGEN_CACHE=f"{folder}/attngen", TRITON_CACHE_DIR=f"{folder}/triton")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"
        Path(folder, "attngen").mkdir(mode=0o700)
        results = run(options, names)
    _write(options.out or _place(device), header(device, arguments), results, names)
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
