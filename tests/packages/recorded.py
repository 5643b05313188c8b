"""Host functions as the CuTe DSL compiles them, run without a GPU: what they launch is recorded.

python recorded.py FOLDER < [source, ...]     writes FOLDER/NUMBER.PLAN.{o,name} of every plan
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from pathlib import Path

from tests.packages.clean_record import Record

RECORDER = Path(__file__).with_name("recorder.c")
H100 = (9, 0, 232448)


class Recorded:
    """One compiled host function."""

    def __init__(self, stem: Path, sizes: dict[str, list[int]]) -> None:
        """Stem: of its files; sizes: bytes of each parameter of its kernels, by symbol."""
        made = stem.with_name(f"{stem.name}.so")
        if not made.exists():
            command = ["gcc", "-shared", "-fPIC", "-w", "-O1", "-o", made, RECORDER]
            subprocess.run([*command, stem.with_name(f"{stem.name}.o")], check=True)
        self.library = ctypes.CDLL(str(made))
        self.library.fake_record.restype = ctypes.POINTER(Record)
        prefix, host = stem.with_name(f"{stem.name}.name").read_text().split()
        self.host = getattr(self.library, host)
        for symbol, own in sizes.items():
            self.library.fake_sizes(symbol.encode(), (ctypes.c_int * len(own))(*own), len(own))
        self.library.fake_reset(*H100)
        self._load(prefix)

    def _load(self, prefix: str) -> None:
        place, status, device = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
        pointer = ctypes.pointer(place)
        outer = [ctypes.addressof(pointer), ctypes.addressof(status)]
        cells = [ctypes.c_void_p(x) for x in outer]
        init = (ctypes.c_void_p * 2)(*[ctypes.addressof(c) for c in cells])
        getattr(self.library, f"_mlir_{prefix}_cuda_init")(init)
        number = ctypes.c_void_p(ctypes.addressof(device))
        both = [cells[0], number, cells[1]]
        load = (ctypes.c_void_p * 3)(*[ctypes.addressof(c) for c in both])
        getattr(self.library, f"_mlir_{prefix}_cuda_load_to_device")(load)
        assert status.value == 0

    def run(self, arguments: list[ctypes.Structure], stream: int) -> list[Record]:
        """The launches. arguments: as `attngen.cutelib.objects` packs them."""
        self.library.fake_reset(*H100)
        status = ctypes.c_int(-1)
        last = [ctypes.c_void_p(stream), status]
        cells = [ctypes.addressof(x) for x in (*arguments, *last)]
        self.host((ctypes.c_void_p * len(cells))(*cells), len(cells))
        assert status.value == 0
        return [self.library.fake_record(i).contents for i in range(self.library.fake_launches())]


def compile_all(sources: list[str], folder: Path) -> None:
    """Object files of the plans of generated files."""
    from attngen.backend.emitted import Emitted
    from attngen.cutelib.launch import Forward, trace
    from attngen.runtime.load import load_module

    for number, source in enumerate(sources):
        module = load_module(Emitted(source, "", (), (), ()))
        for one in [x for x in vars(module).values() if isinstance(x, Forward)]:
            for part in one.plan.parts:
                name = f"{number}.{part.name}"
                trace(part).export_to_c(str(folder), name, function_prefix=part.name)
                header = (folder / f"{name}.h").read_text()
                (host,) = set(re.findall(r"\b_mlir_\w+_mlir_ciface_\w+(?=\()", header))
                (folder / f"{name}.name").write_text(f"{part.name} {host}")


if __name__ == "__main__":
    compile_all(json.load(sys.stdin), Path(sys.argv[1]))
