"""`python steady.py <ptxas> <its arguments>` runs ptxas so that the same PTX gives the same bytes.

ptxas names registers by where its tables happen to lie, so it is run at fixed addresses, with an
empty environment, in a folder and with file names that are always called the same. With
ATTNGEN_FAMILY set it assembles for the family of a target, which later members of it run too.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FIXED_ADDRESSES = 0x0040000  # personality(2): ADDR_NO_RANDOMIZE
NOT_FIXED = "attngen: addresses could not be fixed"


def main(arguments: list[str]) -> int:
    """Run ptxas; its output and exit status are passed on."""
    tool, *rest = arguments
    if "-o" not in rest:  # --version
        return subprocess.run([tool, *rest], check=False).returncode
    place = rest.index("-o")
    source, output = rest[place - 1], rest[place + 1]
    options = [*rest[: place - 1], *rest[place + 2 :]]
    text = Path(source).read_text(encoding="utf-8")
    if os.environ.get("ATTNGEN_FAMILY"):
        text = text.replace(".target sm_100a", ".target sm_100f")
        text = text.replace(".target sm_120a", ".target sm_120f")
        options = [o.replace("sm_100a", "sm_100f").replace("sm_120a", "sm_120f") for o in options]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "ptxas").symlink_to(tool)
        Path(folder, "k.ptx").write_text(text, encoding="utf-8")
        command = ["./ptxas", *options, "k.ptx", "-o", "k.cubin"]
        done = subprocess.run(command, cwd=folder, env={}, check=False, preexec_fn=_fix_addresses)
        if done.returncode == 0:
            Path(output).write_bytes(Path(folder, "k.cubin").read_bytes())
    return done.returncode


def _fix_addresses() -> None:
    if ctypes.CDLL(None).personality(FIXED_ADDRESSES) < 0:
        os.write(2, f"{NOT_FIXED}\n".encode())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
