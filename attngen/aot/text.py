"""The text files of a package: its module, type stubs, README and the launcher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attngen.aot.build import Built
from attngen.backend.templates import render

HOME = "https://github.com/attngen/attngen"
LAUNCHER = Path(__file__).parent / "launcher"
NUMBERS = {"bool": "bool", "i8": "int", "i32": "int", "i64": "int"}
ERRORS = ("Argument", "Damaged", "Driver", "NoBinary", "Package", "Schema")


def text_files(built: Built, distribution: str, namespace: str = "") -> dict[str, bytes]:
    """Relative path -> contents."""
    view = _view(built.manifest, distribution, namespace)
    made = {
        "__init__.py": render("package/init.py.j2", **view),
        "__init__.pyi": render("package/init.pyi.j2", **view),
        "__main__.py": render("package/main.py.j2", **view),
        "README.md": render("package/readme.md.j2", **view),
        "py.typed": "",
    }
    files = {path: text.encode() for path, text in made.items()}
    for path in sorted(LAUNCHER.glob("*.py")):
        files[f"_launcher/{path.name}"] = path.read_bytes()
    return files


def _view(manifest: dict[str, Any], distribution: str, namespace: str) -> dict[str, Any]:
    functions = [_function(name, spec) for name, spec in manifest["specs"].items()]
    exported = [*(f"{e}Error" for e in ERRORS), "__version__", "preload"]
    least = manifest["toolchain"]["least_driver"]
    drivers = ", ".join(f"{target}: {number} or later" for target, number in least.items())
    return {
        "distribution": distribution,
        "package": manifest["package"],
        "namespace": namespace or manifest["package"],
        "version": manifest["version"],
        "generator": manifest["toolchain"]["attngen"],
        "home": HOME,
        "functions": functions,
        "names": [f["name"] for f in functions],
        "exported": sorted([*exported, *(f["name"] for f in functions)], key=str.lower),
        "targets": sorted({k["arch"] for k in manifest["kernels"].values()}),
        "drivers": drivers,
    }


def _function(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    arguments = spec["arguments"]
    declared = [f"{a['name']}: {_declared(a)}" for a in arguments]
    results = [o["name"] for o in spec["outputs"]]
    result = "torch.Tensor"
    if len(results) > 1:
        result = f"tuple[{', '.join(['torch.Tensor'] * len(results))}]"
    forms = {form for v in spec["variants"] for form in v["programs"]}
    return {
        "name": name,
        "arguments": [a["name"] for a in arguments],
        "typed": [f"{a['name']}: {_typed(a)}" for a in arguments],
        "declared": ", ".join(declared),
        "signature": f"{', '.join(declared)} -> {', '.join(results)}",
        "result": result,
        "results": ", ".join(results),
        "variants": "; ".join(_variant(v) for v in spec["variants"]),
        "forms": ", ".join(f for f in ("forward", "decode", "backward") if f in forms),
    }


def _declared(argument: dict[str, Any]) -> str:
    if argument["scalar"]:
        return f"a number ({argument['dtype']})"
    return f"{argument['dtype']}[{', '.join(axis[0] for axis in argument['axes'])}]"


def _typed(argument: dict[str, Any]) -> str:
    return NUMBERS.get(argument["dtype"], "float") if argument["scalar"] else "torch.Tensor"


def _variant(variant: dict[str, Any]) -> str:
    return " ".join([variant["half"], *(f"{n}={s}" for n, s in variant["sizes"].items())])
