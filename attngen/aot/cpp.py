"""`--format cpp`: a header, binaries and a small launcher for programs without Python.

The host functions come from the same steps as the generated Python ones and the manifest's.
Gradients that want a sum of arrays afterwards need a tensor library, and are left out; of kernels
that CuTe and Triton both made, Triton's are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attngen.aot.build import Built
from attngen.aot.packing import image_name, unpacked
from attngen.aot.wheel import manifest_bytes
from attngen.backend.templates import render
from attngen.core.diagnostics import Diagnostic, SpecError
from attngen.core.resources import resource

SUFFIX = {"forward": "", "decode": "", "training": "_training", "backward": "_backward"}
DTYPES = {"bf16": "bf16", "f16": "f16", "f32": "f32", "i8": "i8", "i32": "i32", "i64": "i64"}
DTYPES |= {"bool": "boolean", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}
DTYPES |= {"int32": "i32", "int64": "i64"}
MAP_TYPES = {8: 10, 9: 8, 10: 9}  # Triton's numbers of floating types -> CUtensorMapDataType
_KEYWORDS = frozenset(
    "and auto bool break case catch char class const continue default delete do double else enum "
    "explicit export extern false float for friend goto if inline int long mutable namespace new "
    "not operator or private protected public register return short signed sizeof static struct "
    "switch template this throw true try typedef union unsigned using virtual void while xor "
    "call folder stream allocate".split()
)


def bundle(built: Built) -> dict[str, bytes]:
    """Relative path -> contents. SpecError E441: what this launcher does not launch."""
    manifest = built.manifest
    used: dict[str, dict[str, Any]] = {}
    functions: dict[str, dict[str, Any]] = {}
    programs = [
        program
        for name, spec in manifest["specs"].items()
        for variant in spec["variants"]
        for program in _variant(name, spec, variant, manifest["kernels"], used, functions)
    ]
    if not programs:
        message = "the C++ launcher is for CUDA, and the package has none of its targets"
        raise SpecError(Diagnostic("E441", message, help="--targets sm_90"))
    images = {path: unpacked(k, built.files[path]) for path, k in used.items()}
    view = {
        "package": manifest["package"],
        "version": manifest["version"],
        "generator": manifest["toolchain"]["attngen"],
        "kernels": [_kernel(k, images[path]) for path, k in used.items()],
        "programs": programs,
        "functions": list(functions.values()),
    }
    files = {image_name(path): image for path, image in images.items()}
    package = manifest["package"]
    for name in (f"{package}.hpp", f"{package}.cpp"):
        files[name] = render(f"package/cpp/package.{name[-3:]}.j2", **view).encode()
    files["CMakeLists.txt"] = render("package/cpp/CMakeLists.txt.j2", **view).encode()
    for name in ("attngen_launcher.hpp", "attngen_launcher.cpp"):
        files[name] = resource("templates", "package", "cpp", name).read_bytes()
    files["manifest.json"] = manifest_bytes(built)
    return files


def _variant(
    name: str,
    spec: dict[str, Any],
    variant: dict[str, Any],
    kernels: Mapping[str, Any],
    used: dict[str, dict[str, Any]],
    functions: dict[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    out = []
    for form in ("decode", "forward", "training", "backward"):  # decoding is asked about first
        for target, best in variant["programs"].get(form, {}).items():
            program = _without_structs(name, best, kernels)
            if not target.startswith("sm_") or not _plain(program["host"]):
                continue
            own = {k: kernels[number] for k, number in program["kernels"].items()}
            for k in own.values():
                used.setdefault(k["file"], k)
            sizes = "_".join(str(s) for s in variant["sizes"].values())
            made = f"{name}_{form}_{variant['half']}_{sizes}_{target}"
            out.append(_program(made, spec, program, own))
            function = f"{name}{SUFFIX[form]}"
            entry = functions.setdefault(function, _function(function, spec, program, form))
            entry["choices"].append(
                {
                    "condition": _condition(spec, variant, form, target),
                    "call": f"{made}({', '.join(['call', *map(_name, program['arguments'])])})",
                }
            )
    return out


def _without_structs(
    name: str, program: dict[str, Any], kernels: Mapping[str, Any]
) -> dict[str, Any]:
    """Triton's program. SpecError E441: this launcher does not fill in the structs of CuTe's."""
    if all(kernels[number]["backend"] == "triton" for number in program["kernels"].values()):
        return program
    if "fallback" not in program:
        message = f"the C++ launcher does not launch kernels of CuTe, and {name} has no others"
        raise SpecError(Diagnostic("E441", message, help="--backend auto, or triton"))
    found: dict[str, Any] = program["fallback"]
    return found


def _plain(host: Sequence[Any]) -> bool:
    """Whether every result is an array as kernels left it."""
    returned = next(step[1] for step in host if step[0] == "return")
    arrays = {step[1] for step in host if step[0] == "array"}
    return all(isinstance(tree, str) and tree in arrays for tree in returned)


def _program(
    function: str, spec: dict[str, Any], program: dict[str, Any], kernels: Mapping[str, Any]
) -> dict[str, Any]:
    lines = []
    seen: set[str] = set()
    for kind, *rest in program["host"]:
        if kind == "let":
            variable, tree = rest
            typed = "" if variable in seen else "int64_t "
            seen.add(variable)
            lines.append(f"{typed}{_name(variable)} = {_value(tree)};")
        elif kind == "array":
            lines.append(_array(*rest))
        elif kind == "launch":
            name, grid, given = rest
            lines += _launch(name, grid, given, kernels)
        else:
            lines.append(f"return {{{', '.join(_name(tree) for tree in rest[0])}}};")
    return {"name": function, "parameters": _parameters(spec, program["arguments"]), "lines": lines}


def _array(name: str, tensor: str, shape: Any, dtype: str | None, zero: bool) -> str:
    sizes = f"{_name(tensor)}.shape"
    if shape is not None:
        sizes = f"{{{', '.join(map(_value, shape))}}}"
    kind = f"Dtype::{DTYPES[dtype]}" if dtype else f"{_name(tensor)}.dtype"
    return f"Tensor {_name(name)} = call.make({sizes}, {kind}{', true' if zero else ''});"


def _launch(
    name: str, grid: Sequence[Any], given: Sequence[Any], kernels: Mapping[str, Any]
) -> list[str]:
    kernel = kernels[name]
    maps = iter(kernel["descriptors"])
    parameters = []
    for i, (type_, value) in enumerate(zip(kernel["parameters"], given, strict=True)):
        divisible = ", true" if i in kernel["divisible"] else ""
        if type_.startswith("tensordesc"):
            parameters.append(_map(value, next(maps)))
        elif type_.startswith("*"):
            parameters.append(f"call.pointer({_name(value)}{divisible or ', false'})")
        else:
            extra = divisible if type_ == "i32" else ""
            parameters.append(f"call.{type_}({_value(value)}{extra})")
    sizes = ", ".join(map(_value, grid))
    head = f"call.launch({_symbol(kernel)}, {{{sizes}}}, {{"
    return [head, *(f"    {p}," for p in parameters), "});"]


def _map(given: Sequence[Any], meta: dict[str, Any]) -> str:
    _, base, shape, strides, _ = given
    kind = MAP_TYPES.get(meta["elem_type"], meta["elem_type"])
    box = ", ".join(map(str, meta["block_size"]))
    how = f"{{{meta['elem_size']}, {kind}, {meta['swizzle']}, {{{box}}}}}"
    sizes, steps = (", ".join(map(_value, trees)) for trees in (shape, strides))
    return f"call.map({_name(base)}, {{{sizes}}}, {{{steps}}}, {how})"


def _value(tree: Any) -> str:
    """A number of the host in C++."""
    if isinstance(tree, str):
        return _name(tree)
    if not isinstance(tree, list):
        return str(tree)
    op, *rest = tree
    if op in ("shape", "stride"):
        return f"{_name(rest[0])}.{'shape' if op == 'shape' else 'strides'}[{rest[1]}]"
    texts = [_value(x) for x in rest]
    signs = {"add": "+", "sub": "-", "mul": "*", "floordiv": "/"}
    if op in signs:
        return f"({texts[0]} {signs[op]} {texts[1]})"
    function = {"min": "std::min<int64_t>", "max": "std::max<int64_t>"}.get(op, op)
    return f"{function}({', '.join(texts)})"


def _function(
    name: str, spec: dict[str, Any], program: dict[str, Any], form: str
) -> dict[str, Any]:
    arguments = ", ".join(
        f"{a['name']}[{', '.join(x[0] for x in a['axes'])}]" for a in spec["arguments"]
    )
    results = ", ".join(o["name"] for o in spec["outputs"])
    more = {"training": ", then rows for the backward", "backward": "gradients"}.get(form, "")
    return {
        "name": name,
        "doc": f"{arguments} -> {more if form == 'backward' else results + more}",
        "parameters": _parameters(spec, program["arguments"]),
        "checks": _checks(name, spec),
        "choices": [],
    }


def _parameters(spec: dict[str, Any], names: Sequence[str]) -> list[str]:
    scalars = {a["name"]: a["dtype"] for a in spec["arguments"] if a["scalar"]}
    kinds = {"bool": "bool", "i8": "int64_t", "i32": "int64_t", "i64": "int64_t"}
    return [
        f"{kinds.get(scalars[n], 'double')} {_name(n)}"
        if n in scalars
        else f"const attngen::Tensor &{_name(n)}"
        for n in names
    ]


def _checks(function: str, spec: dict[str, Any]) -> list[str]:
    lines = []
    for a in spec["arguments"]:
        if not a["scalar"]:
            name, rank = _name(a["name"]), len(a["axes"])
            text = f'"{function}: {a["name"]} has {rank} axes"'
            lines.append(f"require({name}.shape.size() == {rank}, {text});")
            if a["dtype"] != "half":
                kind = f"Dtype::{DTYPES[a['dtype']]}"
                text = f'"{function}: {a["name"]} is {a["dtype"]}"'
                lines.append(f"require({name}.dtype == {kind}, {text});")
    return lines


def _condition(spec: dict[str, Any], variant: dict[str, Any], form: str, target: str) -> str:
    parts = [f"runs({target.removeprefix('sm_')}, call.arch())"]
    for a in spec["arguments"]:
        if a["scalar"]:
            continue
        if a["dtype"] == "half":
            parts.append(f"{_name(a['name'])}.dtype == Dtype::{variant['half']}")
        for i, (axis, _, _) in enumerate(a["axes"]):
            if axis in variant["sizes"]:
                parts.append(f"{_name(a['name'])}.shape[{i}] == {variant['sizes'][axis]}")
    if form == "decode":
        queries, keys = (_length(spec, roles) for roles in (("query",), ("key", "value")))
        limits = spec["decode"]
        each = f" * {_sequences(spec)}" if limits["per_sequence"] else ""
        parts.append(f"{queries} <= {limits['queries']}{each}")
        least = f"{limits['keys']}{each}, {limits['ratio']} * {queries}"
        parts.append(f"{keys} >= std::max<int64_t>({least})")
    return " && ".join(parts)


def _sequences(spec: dict[str, Any]) -> str:
    packed = next(a["packed"] for a in spec["arguments"] if a["packed"])
    return f"({_name(packed)}.shape[0] - 1)"


def _length(spec: dict[str, Any], roles: tuple[str, ...]) -> str:
    for a in spec["arguments"]:
        for i, (_, role, _) in enumerate(a["axes"]):
            if a["role"] in roles and role == "position":
                return f"{_name(a['name'])}.shape[{i}]"
    return "0"


def _kernel(kernel: dict[str, Any], data: bytes) -> dict[str, Any]:
    digest = 14695981039346656037
    for byte in data:
        digest = (digest ^ byte) * 1099511628211 & (1 << 64) - 1
    dependent = "true" if kernel["dependent"] else "false"
    own = {"file": image_name(kernel["file"]), "bytes": len(data), "hash": digest}
    return kernel | own | {"name": _symbol(kernel), "dependent": dependent}


def _symbol(kernel: dict[str, Any]) -> str:
    return f"kernel_{kernel['sha256'][:16]}"


def _name(name: str) -> str:
    return f"{name}_" if name in _KEYWORDS else name
