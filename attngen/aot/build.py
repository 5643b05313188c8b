"""Builds a package: prints and compiles every kernel file, and puts the results together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from attngen.aot.answers import stored_answers
from attngen.aot.contract import require_contract
from attngen.aot.cute import cute_entry, with_launches
from attngen.aot.matrix import Choice, File, Variant, choices, halves, variant
from attngen.aot.packing import SUFFIX, pack
from attngen.aot.toolchain import toolchain
from attngen.backend.emitted import DeviceKernel
from attngen.core.diagnostics import SpecError
from attngen.core.dtype import Dtype
from attngen.core.target import Target
from attngen.ir.attention import Attention, Tensor
from attngen.ir.text import spec_text
from attngen.runtime.binary import Binary
from attngen.runtime.cache import Cache
from attngen.runtime.crosscompile import compile_many
from attngen.runtime.empty import result_dtype
from attngen.runtime.interface import Interface
from attngen.runtime.kernel import FEW_PACKED, FEW_QUERIES, MANY_KEYS
from attngen.runtime.scalars import scalars
from attngen.runtime.specialise import Spec

SCHEMA = 1
ARCHITECTURES = {90: "sm_90a", 100: "sm_100f", 120: "sm_120f"}  # what binaries are assembled for

Progress = Callable[[int], Callable[[], object]]


@dataclass(frozen=True)
class Order:
    """What to build.

    sizes: sizes to choose from for each feature axis, by spec (same order); attngen: its version;
    backend: "auto", "triton" or "cute".
    """

    module: str
    version: str
    specs: Sequence[Spec]
    sizes: Sequence[Mapping[str, Sequence[int]]]
    dtypes: Sequence[Dtype]
    targets: Sequence[Target]
    backward: bool = True
    attngen: str = ""
    backend: str = "auto"


@dataclass
class Built:
    """The manifest of a package, and its files by path.

    notes: what was left out, and why; backends: (spec, target, form, backend, why) of each program.
    """

    manifest: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    backends: list[tuple[str, str, str, str, str]] = field(default_factory=list)


def build(order: Order, cache: Cache, progress: Progress = lambda _: lambda: None) -> Built:
    """The package, up to its text files. SpecError: a spec, target or schedule without a kernel.

    An interrupted build goes on where it was: what has been compiled is in the cache.
    """
    variants = [
        variant(choice, half, order.targets, cache, order.backward, order.backend)
        for spec, sizes in zip(order.specs, order.sizes, strict=True)
        for choice in choices(spec, sizes)
        for half in halves(spec.attention, order.dtypes)
    ]
    compiled, notes = _compile(variants, cache, progress), list[str]()
    _keep_what_fits(variants, compiled, notes)
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "package": order.module,
        "version": order.version,
        "toolchain": toolchain(
            order.targets, order.attngen, _of_cute(variants, compiled), order.backend
        ),
        "specs": {},
        "kernels": {},
        "answers": {},
    }
    built = Built(manifest, notes=notes)
    for spec in order.specs:
        own = [v for v in variants if v.choice.spec is spec]
        manifest["specs"][own[0].choice.name] = _spec(own, compiled, built)
    for choice in _by_name(variants).values():
        _add_answers(choice, built)
    return built


def _compile(
    variants: Sequence[Variant], cache: Cache, progress: Progress
) -> dict[int, list[Binary]]:
    """Binaries by the identity of what was emitted."""
    files = [f for v in variants for f in v.files]
    advance = progress(len(files))
    jobs = [(f.emitted, f.target) for f in files]
    workers = os.cpu_count() or 1
    found = compile_many(jobs, cache, lambda _: advance(), steady=True, workers=workers)
    return {id(file.emitted): binaries for file, binaries in zip(files, found, strict=True)}


def _keep_what_fits(
    variants: Sequence[Variant], compiled: Mapping[int, list[Binary]], notes: list[str]
) -> None:
    """Hold every file to its contract; one of CuTe that breaks it gives way to its fallback."""
    for v in variants:
        kept: list[File] = []
        for file in v.files:
            try:
                for k, binary in zip(file.emitted.kernels, compiled[id(file.emitted)], strict=True):
                    require_contract(k, binary, file.target)
            except SpecError as error:
                own = (file.form, file.target)
                if not any(f.fallback and (f.form, f.target) == own for f in v.files):
                    raise
                notes.append(f"{v.choice.name} takes Triton's {file.form}: {error}")
                continue
            alone = not any((f.form, f.target) == (file.form, file.target) for f in kept)
            kept.append(replace(file, fallback=file.fallback and not alone))
        v.files = kept


def _of_cute(variants: Sequence[Variant], compiled: Mapping[int, list[Binary]]) -> list[Binary]:
    own = [compiled[id(file.emitted)] for v in variants for file in v.files]
    return [b for binaries in own for b in binaries if "plan" in b.launch]


def _by_name(variants: Sequence[Variant]) -> dict[str, list[Variant]]:
    out: dict[str, list[Variant]] = {}
    for v in variants:
        out.setdefault(v.choice.name, []).append(v)
    return out


def _add_answers(variants: Sequence[Variant], built: Built) -> None:
    different = {v.choice.sizes: v for v in variants}
    data = stored_answers([(v.choice, v.wiring) for v in different.values()])
    name = variants[0].choice.name
    path = f"answers/{name}.bin"
    built.files[path] = data
    built.manifest["answers"][name] = {"file": path, "sha256": _sha256(data)}


def _spec(
    variants: Sequence[Variant], compiled: Mapping[int, list[Binary]], built: Built
) -> dict[str, Any]:
    choice = variants[0].choice
    attention = choice.attention
    text = spec_text(attention)
    for v in variants:
        if v.why:
            built.notes.append(f"{choice.name} ({v.half.value}) has no backward: {v.why}")
    path = f"specs/{choice.name}.attn"
    built.files[path] = text.encode()
    return {
        "file": path,
        "text": text,
        "sha256": _sha256(text.encode()),
        "params": dict(attention.params),
        "arguments": _arguments(attention),
        "outputs": [
            {"name": name, "dtype": result_dtype(e), "feature": e.feature}
            for name, e in attention.outputs
        ],
        "decode": _decode(attention),
        "variants": [_variant(v, compiled, built) for v in variants],
    }


def _decode(attention: Attention) -> dict[str, Any]:
    """When a call decodes, as `Kernel._short` decides it; of packed sequences on average."""
    packed = any(t.packed for t in attention.tensors)
    queries = FEW_PACKED if packed else FEW_QUERIES
    return {"queries": queries, "keys": MANY_KEYS, "ratio": 4, "per_sequence": packed}


def _arguments(attention: Attention) -> list[dict[str, Any]]:
    clamped = {name for name, s in scalars(Interface.of(attention)).items() if s.clamp}
    declared = [t for t in attention.tensors if t.view is None]
    return [_argument(t, t.name in clamped) for t in declared]


def _argument(tensor: Tensor, clamp: bool) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype.value,
        "role": tensor.role,
        "scalar": tensor.is_scalar,
        "clamp": clamp,
        "const": tensor.const,
        "packed": tensor.packed,
        "axes": [[a.name, a.role, a.size] for a in tensor.axes],
    }


def _variant(v: Variant, compiled: Mapping[int, list[Binary]], built: Built) -> dict[str, Any]:
    programs: dict[str, dict[str, Any]] = {}
    for file in v.files:
        made = _program(file, compiled[id(file.emitted)], built)
        by_target = programs.setdefault(file.form, {})
        if file.fallback:
            by_target[file.target.name]["fallback"] = made
        else:
            by_target[file.target.name] = made
        row = (v.choice.name, file.target.name, file.form, file.emitted.backend, file.reason)
        built.backends += [] if row in built.backends else [row]
    wiring = None
    if v.wiring is not None:
        wiring = {
            "saved": [list(pair) for pair in v.wiring.saved],
            "results": list(v.wiring.results),
            "seeds": list(v.wiring.seeds),
            "gradients": list(v.wiring.gradients),
        }
    half = v.half.value
    return {"half": half, "sizes": dict(v.choice.sizes), "wiring": wiring, "programs": programs}


def _program(file: File, binaries: Sequence[Binary], built: Built) -> dict[str, Any]:
    kernels = {b.kernel: _kernel(file, i, b, built) for i, b in enumerate(binaries)}
    return {
        "schedule": file.emitted.schedule,
        "arguments": list(file.emitted.arguments),
        "host": with_launches(file.emitted.host, binaries),
        "kernels": kernels,
    }


def _kernel(file: File, number: int, binary: Binary, built: Built) -> str:
    """Add a binary; its key. Equal binaries of equal use are one; a file may hold several."""
    device, arch = file.emitted.kernels[number], _architecture(file.target)
    cute = "plan" in binary.launch
    packing = {"packing": "xz"} if cute or file.fallback else {}
    data = pack(binary.data) if packing else binary.data
    digest = _sha256(data)
    path = f"kernels/{arch}/{digest[:24]}.{binary.kind}{SUFFIX if packing else ''}"
    built.files[path] = data
    if not binary.launch["steady"]:
        note = "ptxas ran at changing addresses: the package may differ from build to build"
        built.notes += [] if note in built.notes else [note]
    key = f"{digest[:24]}.{binary.launch['number']}" if cute else digest[:24]
    built.manifest["kernels"][key] = {
        "kind": binary.kind,
        "arch": arch,
        "file": path,
        "sha256": digest,
        "bytes": len(data),
        "symbol": binary.symbol,
        "shared": binary.shared_bytes,
        "registers": binary.registers,
        "spills": binary.spills_bytes,
        **packing,
        **(cute_entry(binary) if cute else _triton_entry(device, binary, file.target)),
    }
    return key


def _triton_entry(device: DeviceKernel, binary: Binary, target: Target) -> dict[str, Any]:
    names = list(device.signature)
    return {
        "backend": "triton",
        "threads": binary.warps * target.warp,
        "parameters": list(device.signature.values()),
        "divisible": [names.index(n) for n in device.divisible],
        **{k: v for k, v in binary.launch.items() if k != "steady"},
    }


def _architecture(target: Target) -> str:
    if isinstance(target.arch, int):
        return ARCHITECTURES.get(target.arch, target.name)
    return target.name


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


__all__ = ["Built", "Choice", "Order", "build"]
