"""What a compiler made of a kernel, read from its disassembly: spills, waits, loops; no GPU needed.

The three things that ruin a Hopper kernel without a word from its compiler: registers spilled to
local memory, a wait after every wgmma (they no longer overlap), exponentials moved below the wait
for the product they should hide behind.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FUNCTION = re.compile(r"^\s*Function : (\S+)", re.MULTILINE)
_USAGE = re.compile(r"^ *Function (\S+):\s*REG:(\d+) STACK:(\d+)", re.MULTILINE)
_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)([^;]*);", re.M)
_ADDRESS = re.compile(r"0x([0-9a-f]+)")
_PRODUCTS = ("HGMMA", "UTCHMMA", "UTCQMMA")
_LOCAL = ("LDL", "STL")
_TMEM = ("LDTM", "STTM")


@dataclass(frozen=True)
class Instruction:
    """One instruction. address: bytes from the start; name: with its suffixes; operands: text."""

    address: int
    name: str
    operands: str

    @property
    def kind(self) -> str:
        """The name without suffixes: `HGMMA` of `HGMMA.64x128x16.F32.BF16`."""
        return self.name.partition(".")[0]

    @property
    def waits_for(self) -> int | None:
        """Groups of wgmmas that may still be running after this wait; None for other code."""
        if self.name != "WARPGROUP.DEPBAR.LE":
            return None
        found = _ADDRESS.search(self.operands)
        return int(found[1], 16) if found else None


@dataclass(frozen=True)
class Code:
    """A run of instructions."""

    instructions: tuple[Instruction, ...]

    def count(self, *kinds: str) -> int:
        """Instructions of these kinds."""
        return sum(i.kind in kinds for i in self.instructions)

    @property
    def products(self) -> int:
        """Matrix instructions: wgmma on Hopper, tcgen05.mma on Blackwell."""
        return self.count(*_PRODUCTS)

    @property
    def waits(self) -> int:
        """Waits for wgmma; many more than there are places of products: they were serialised."""
        return sum(i.waits_for is not None for i in self.instructions)


@dataclass(frozen=True)
class Loop(Code):
    """A loop without another loop of products in it."""

    @property
    def exponentials(self) -> tuple[int, int]:
        """(while a product is in flight, behind the last wait): where exp2 is computed.

        The loop is walked from the first wait that leaves a group running to the wait for all; a
        compiler may have rotated it.
        """
        turn = next((n for n, i in enumerate(self.instructions) if i.waits_for), None)
        if turn is None:
            return 0, sum(_is_exp2(i) for i in self.instructions)
        above = below = 0
        running = True
        for i in (*self.instructions[turn:], *self.instructions[:turn]):
            running = running and i.waits_for != 0
            above += running and _is_exp2(i)
            below += not running and _is_exp2(i)
        return above, below


@dataclass(frozen=True)
class Report(Code):
    """One kernel. registers: per thread at launch; stack: bytes per thread."""

    name: str
    registers: int
    stack: int

    @property
    def spills(self) -> int:
        """Loads and stores of local memory."""
        return self.count(*_LOCAL)

    @property
    def tensor_memory(self) -> int:
        """Loads and stores of Blackwell's tensor memory."""
        return self.count(*_TMEM)

    @property
    def loops(self) -> tuple[Loop, ...]:
        """Innermost loops that multiply, in order of the text."""
        spans = [(a, b) for a, b in _spans(self.instructions) if self._between(a, b).products]
        inner = [
            (a, b)
            for a, b in spans
            if not any((c, d) != (a, b) and a <= c and d <= b for c, d in spans)
        ]
        return tuple(self._between(a, b) for a, b in inner)

    def _between(self, begin: int, end: int) -> Loop:
        return Loop(tuple(i for i in self.instructions if begin <= i.address <= end))

    def describe(self) -> str:
        """One line per kernel and loop, for `explain` and failing tests."""
        lines = [
            f"{self.registers} registers, {self.stack} bytes of stack, {self.spills} local "
            f"accesses, {self.products} products, {self.waits} waits, "
            f"{len(self.instructions)} instructions"
        ]
        if self.tensor_memory:
            # warps of other roles multiply, nothing is ordered by waits, and branches out of the
            # line (retries at barriers) lead back into every role: loops say nothing here
            return f"{lines[0]}, {self.tensor_memory} accesses of tensor memory"
        for loop in self.loops:
            above, below = loop.exponentials
            lines.append(
                f"  loop of {len(loop.instructions)}: {loop.products} products, "
                f"{loop.waits} waits, {above} exp2 beside a product, {below} behind it"
            )
        return "\n".join(lines)


def read(sass: str, usage: str) -> tuple[Report, ...]:
    """Reports from what `cuobjdump -sass` and `-res-usage` print, in order of the file."""
    limits = {name: (int(r), int(s)) for name, r, s in _USAGE.findall(usage)}
    pieces = _FUNCTION.split(sass)
    reports = []
    for name, text in zip(pieces[1::2], pieces[2::2], strict=True):
        instructions = tuple(
            Instruction(int(a, 16), n, rest.strip()) for a, n, rest in _LINE.findall(text)
        )
        reports.append(Report(instructions, name, *limits.get(name, (0, 0))))
    return tuple(reports)


def disassemble(cubin: bytes) -> tuple[Report, ...]:
    """Reports of all kernels of a cubin, by the cuobjdump that Triton ships.

    OSError: the tool is missing, or cannot read the file.
    """
    import triton  # noqa: PLC0415 - for its tools only

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return read(_run(tool, "-sass", file.name), _run(tool, "-res-usage", file.name))


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{command[0]} failed: {done.stderr.strip()[:300]}")
    return done.stdout


def _spans(instructions: tuple[Instruction, ...]) -> Iterator[tuple[int, int]]:
    """(target, branch) of each branch backwards; a branch to itself ends a program."""
    for i in instructions:
        if i.kind != "BRA":
            continue
        found = _ADDRESS.search(i.operands)
        if found and int(found[1], 16) < i.address:
            yield int(found[1], 16), i.address


def _is_exp2(instruction: Instruction) -> bool:
    return instruction.name == "MUFU.EX2"
