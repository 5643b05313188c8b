"""The forward benchmark: one command, one GPU, no network.

    python bench/forward.py                    all rows, under six minutes on an H200
    python bench/forward.py --rows causal --quick
    python bench/forward.py --dry-run          tiny sizes through the interpreter, no GPU

Every row is checked against a dense formula first; a row that is wrong is not timed. A row that
fails says so in its place and the others go on. Prints Markdown and writes it to
bench/results/<date>-forward-<gpu>.md (or --out). Exit status 1 if any row failed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import torch
from cases import Case, decode_cases, forward_cases, inputs, proportion_cases, visited
from check import check
from measure import (
    clean_median_ms,
    copy_rate,
    first_calls,
    host_us,
    load_emitted,
    median_ms,
    peak_beyond,
    record_launches,
)

ROUNDS = 9  # of the host's time


@dataclass(frozen=True)
class Settings:
    """device: "cuda" or "cpu"; rows: only names holding this; quick: shorter measurements."""

    device: str
    rows: str
    quick: bool

    def wants(self, name: str) -> bool:
        """Whether a row was asked for."""
        return self.rows.lower() in name.lower()

    def sized(self, case: Case) -> Case:
        """The row as published, or tiny on a CPU."""
        return case if self.device == "cuda" else case.tiny()


@dataclass
class Table:
    """One table of the report; `rows` are Markdown cells."""

    title: str
    heads: tuple[str, ...]
    note: str = ""

    def __post_init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []
        self.failures = 0

    def add(self, name: str, measure: Callable[[], tuple[str, ...]]) -> None:
        """Measures one row; an exception becomes its text and costs no other row."""
        start = time.perf_counter()
        try:
            cells = measure()
        except Exception as error:
            self.failures += 1
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200].replace("|", "/")
            cells = (f"FAILED {reason}", *[""] * (len(self.heads) - 2))
        self.rows.append((name, *cells))
        took = time.perf_counter() - start
        print(f"# {' | '.join(self.rows[-1])}  [{took:.1f} s]", file=sys.stderr, flush=True)

    def markdown(self) -> str:
        """The table, or nothing when no row was asked for."""
        if not self.rows:
            return ""
        lines = [f"## {self.title}", "", *([self.note, ""] if self.note else [])]
        lines += ["| " + " | ".join(self.heads) + " |", "|---" * len(self.heads) + "|"]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in self.rows)]) + "\n"


def ours(case: Case, device: str):
    """(kernel, call without arguments, inputs) of a row."""
    import attngen

    # the interpreter cuts bfloat16 off where a GPU rounds it
    values = inputs(case, device, torch.bfloat16 if device == "cuda" else torch.float16)
    kernel = attngen.compile(str(case.spec))
    return kernel, lambda: kernel(**values), values


def forward_table(settings: Settings) -> Table:
    """Beside compiled FlexAttention."""
    table = Table(
        "Forward, beside compiled FlexAttention",
        (
            *("row", "ms", "TFLOP/s", "flex ms", "flex TFLOP/s", "ratio", "goal"),
            *("flex mask ms", "error / rounding"),
        ),
        "bf16. TFLOP/s count the kept area only. `ratio` is flex over attngen, kernels alone; "
        "`flex mask` is what create_block_mask (compiled) takes besides; attngen builds no mask.",
    )
    for case in forward_cases():
        if settings.wants(case.name):
            sized = settings.sized(case)
            table.add(case.name, lambda case=sized: _forward_row(case, settings))
    return table


def _forward_row(case: Case, settings: Settings) -> tuple[str, ...]:
    _, call, values = ours(case, settings.device)
    error = f"{check(case, call, values):.2f}"
    mine = median_ms(call, settings.quick)
    own = (f"{mine:.4f}", f"{case.flops / mine / 1e9:.0f}")
    if settings.device != "cuda":
        return (*own, "", "", "", f"{case.goal:.2f}", "", error)
    from flex import flex_call

    flex, build = flex_call(case, values)
    theirs = median_ms(flex, settings.quick)
    building = f"{median_ms(build, settings.quick):.2f}" if build else "none"
    ratio = theirs / mine
    shown = f"**{ratio:.2f}**" if ratio >= case.goal else f"{ratio:.2f}"
    flops = f"{case.flops / theirs / 1e9:.0f}"
    return (*own, f"{theirs:.4f}", flops, shown, f"{case.goal:.2f}", building, error)


def decode_table(settings: Settings) -> Table:
    """Bytes of cache per second."""
    table = Table(
        "Decode",
        (
            *("row", "ms", "GB/s of cache read", "goal", "copy of as many bytes, GB/s"),
            *("GB/s, L2 emptied by reading", "error / rounding"),
        ),
        "bf16, 32 query heads on 8 key heads, d 128, one new token; a window counts its own bytes. "
        "do_bench leaves the L2 full of zeros, whose way back to memory counts in every call, in a "
        "short one most; the last rate is without them.",
    )
    for case in decode_cases():
        if settings.wants(case.name):
            sized = settings.sized(case)
            table.add(case.name, lambda case=sized: _decode_row(case, settings))
    return table


def _decode_row(case: Case, settings: Settings) -> tuple[str, ...]:
    _, call, values = ours(case, settings.device)
    error = check(case, call, values)
    mine = median_ms(call, settings.quick)
    rate = case.cache_bytes / mine / 1e6
    clean = case.cache_bytes / clean_median_ms(call, settings.quick) / 1e6
    copied = copy_rate(case.cache_bytes, settings.quick)
    shown = f"**{rate:.0f}**" if rate >= case.goal else f"{rate:.0f}"
    return (
        *(f"{mine:.4f}", shown, f"{case.goal:.0f}", f"{copied:.0f}"),
        *(f"{clean:.0f}", f"{error:.2f}"),
    )


def proportion_table(settings: Settings) -> Table:
    """Time in proportion to the kept area."""
    table = Table(
        "Time in proportion to the kept area",
        (
            *("row", "kept", "ms", "dense x kept, ms", "measured / expected", "goal"),
            *("tiles", "area of their tiles / kept"),
        ),
        "B1 H16 S16384 d128, bf16. The last column is what tiles of that size have to compute.",
    )
    cases = proportion_cases()
    names = [case.name for case in cases]
    dense: list[float] = []
    for case in cases:
        # the dense row is what the others are compared with
        if settings.wants(case.name) or (case is cases[0] and any(map(settings.wants, names))):
            sized = settings.sized(case)
            table.add(case.name, lambda case=sized: _proportion_row(case, settings, dense))
    return table


def _proportion_row(case: Case, settings: Settings, dense: list[float]) -> tuple[str, ...]:
    kernel, call, values = ours(case, settings.device)
    # one head: a float64 score matrix of 16384 squared is 2 GiB
    check(case, call, values, heads=1)
    mine = median_ms(call, settings.quick)
    if case.kind == "full":
        dense.append(mine)
        return "100.0%", f"{mine:.4f}", "", "", "", "", ""
    kept, tile = f"{case.kept:.1%}", kernel.last.schedule
    area = visited(case, settings.device, tile.block_q, tile.block_k) / case.kept
    tiles = (f"{tile.block_q} x {tile.block_k}", f"{area:.2f}")
    if not dense:
        return kept, f"{mine:.4f}", "no dense row", "", "", *tiles
    expected = dense[0] * case.kept
    ratio = mine / expected
    shown = f"**{ratio:.2f}**" if ratio <= case.goal else f"{ratio:.2f}"
    return kept, f"{mine:.4f}", f"{expected:.4f}", shown, f"{case.goal:.2f}", *tiles


def host_table(settings: Settings) -> Table:
    """Microseconds of the host, seconds of a first call, bytes of scratch."""
    table = Table("Host time, first calls, memory", ("row", "measured", "goal"))
    small = Case("", "causal", (1, 4, 4, 128, 128, 128))
    long = Case("", "full", (1, 8, 2, 1, 2048, 128), decode=True)
    big = settings.sized(forward_cases()[1])
    tests: list[tuple[str, Callable[[], tuple[str, ...]]]] = [
        ("host: causal", lambda: _overhead(settings.sized(small), settings)),
        ("host: decode", lambda: _overhead(settings.sized(long), settings)),
        ("first call", lambda: _first(settings)),
    ]
    if settings.device == "cuda":
        tests.append(("peak memory beyond inputs and outputs", lambda: _memory(big, settings)))
    for name, measure in tests:
        if settings.wants(name):
            table.add(name, measure)
    return table


def _overhead(case: Case, settings: Settings) -> tuple[str, ...]:
    """A call of the kernel object, of the generated host function, and the bare launches."""
    kernel, call, values = ours(case, settings.device)
    call()
    calls = 1 if settings.device != "cuda" else 300 if settings.quick else 1000
    whole = host_us(call, calls)
    if settings.device != "cuda":
        return f"call {whole:.1f} us", "15 us over the bare launch"
    with tempfile.TemporaryDirectory() as folder:
        module = load_emitted(kernel.source, folder)
        entry = getattr(module, _entry(kernel))

        def emitted():
            return entry(**values)

        launches = record_launches(module, emitted)
        # side by side: the host is not equally fast all the time
        rounds = [
            (host_us(call, calls, 1), sum(host_us(launch, calls, 1) for launch in launches))
            for _ in range(ROUNDS)
        ]
        host = host_us(emitted, calls)
    overs = sorted(one - bare for one, bare in rounds)
    over, bare = overs[ROUNDS // 2], sorted(bare for _, bare in rounds)[ROUNDS // 2]
    text = f"{over:.1f} us over {len(launches)} bare launch(es)"
    shown = f"**{text}**" if over < 15 else text
    return (
        f"{shown} (rounds {overs[0]:.1f} to {overs[-1]:.1f}; call {whole:.1f}, "
        f"generated function {host:.1f}, bare {bare:.1f})",
        "15 us over the bare launch",
    )


def _entry(kernel) -> str:
    """Name of the host function: the last one of the generated file that is not a kernel."""
    names = re.findall(r"^def (\w+)\(", kernel.source, flags=re.MULTILINE)
    kernels = re.findall(r"@triton\.jit[^\n]*\ndef (\w+)\(", kernel.source)
    return next(n for n in reversed(names) if n not in kernels and not n.startswith("_"))


def _first(settings: Settings) -> tuple[str, ...]:
    shape = (1, 4, 4, 512, 512, 128) if settings.device == "cuda" else (1, 1, 1, 32, 32, 16)
    times = first_calls(HERE / "specs" / "causal.attn", shape)
    text = "; ".join(
        f"{name} {', '.join(f'{one:.2f}' for one in seconds)} s" for name, seconds in times.items()
    )
    return text, "empty cache 3 s, full cache 0.3 s"


def _memory(case: Case, settings: Settings) -> tuple[str, ...]:
    _, call, _ = ours(case, settings.device)
    return f"{peak_beyond(call) / 1024:.0f} KiB", "lse only"


TABLES = (forward_table, decode_table, proportion_table, host_table)


def header(arguments: list[str], settings: Settings, title: str = "Forward") -> str:
    """When, on what, with which versions, by which command."""
    import triton

    device = "CPU interpreter (dry run: times mean nothing)"
    if settings.device == "cuda":
        device = torch.cuda.get_device_name()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    lines = [
        f"# {title} benchmark",
        "",
        f"- {datetime.date.today().isoformat()}, {device}"
        + (f", commit {commit}" if commit else ""),
        f"- torch {torch.__version__}, triton {triton.__version__}, "
        f"Python {platform.python_version()}",
        f"- command: `{' '.join(['python', f'bench/{title.lower()}.py', *arguments])}`",
        "- medians of triton.testing.do_bench; bold: the goal is met",
        "",
    ]
    return "\n".join(lines)


def report_path(out: str | None, settings: Settings) -> Path:
    """Where the report goes: --out (a file, or a folder), else bench/results."""
    gpu = "interpreter"
    if settings.device == "cuda":
        words = torch.cuda.get_device_name().lower().split()
        gpu = next((w for w in words if any(c.isdigit() for c in w)), "gpu")
    name = f"{datetime.date.today().isoformat()}-forward-{gpu}.md"
    if out is None:
        return HERE / "results" / name
    path = Path(out)
    return path if path.suffix == ".md" else path / name


def parts(settings: Settings) -> Iterator[Table]:
    """The tables, one after the other; the GPU is emptied between them."""
    for table in TABLES:
        yield table(settings)
        if settings.device == "cuda":
            torch.cuda.empty_cache()


def main(arguments: list[str]) -> int:
    """Runs the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows whose name holds it")
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, interpreter, no GPU")
    parser.add_argument("--out", metavar="PATH", help="report file (.md) or folder")
    options = parser.parse_args(arguments)
    if not options.dry_run and not torch.cuda.is_available():
        print("no GPU here: try --dry-run", file=sys.stderr)
        return 2
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    settings = Settings("cpu" if options.dry_run else "cuda", options.rows, options.quick)
    start, text, failures = time.perf_counter(), header(arguments, settings), 0
    for table in parts(settings):
        text += f"\n{table.markdown()}" if table.rows else ""
        failures += table.failures
    text += f"\nTotal {time.perf_counter() - start:.0f} s, {failures} rows failed.\n"
    print(text)
    if not options.dry_run or options.out:
        path = report_path(options.out, settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"written to {path}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
