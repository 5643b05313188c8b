"""A kernel of a package: picks the program for a call, makes it ready once, runs it."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from .arguments import Facts, boundaries, check, require_boundaries, rows
from .driver import Cuda, Hip, driver
from .errors import ArgumentError, NoBinaryError
from .manifest import Package
from .prepare import Preparation
from .ready import Ready, prepare

PLANS = 4096  # signatures a thread remembers of each program; lengths vary without end in serving
_TYPES = (torch.Tensor, torch.nn.Parameter)
_lock = threading.RLock()


class _Plans(threading.local):
    """Signatures made ready, of this thread: a launch fills in memory that nobody else may use."""

    def __init__(self) -> None:
        self.results: dict[Hashable, Ready] = {}
        self.training: dict[Hashable, Ready] = {}
        self.backward: dict[Hashable, Ready] = {}


class Device:
    """A GPU and the functions loaded on it."""

    def __init__(self, package: Package, index: int) -> None:
        self.package, self.index = package, index
        self.driver: Cuda | Hip = driver(family())
        self.driver.enter(index)
        self.arch, self.shared = self.driver.describe(index)
        self._modules: dict[str, int] = {}
        self._functions: dict[str, int] = {}

    def program(self, programs: dict[str, Any], what: str, fallback: bool = False) -> Any:
        """The best program that this GPU and its driver run; NoBinaryError.

        fallback: the one for older drivers, where there is one.
        """
        fitting = [t for t in programs if runs(t, self.arch)]
        for name in sorted(fitting, key=lambda t: (len(t), t), reverse=True):
            program = programs[name]
            other = program.get("fallback")
            for found in (other, program) if fallback else (program, other):
                if found is not None and not self._lacks(found):
                    return found
        there = ", ".join(sorted(programs)) or "none"
        why = self._lacks(programs[fitting[0]]) if fitting else "runs on other GPUs"
        raise NoBinaryError(
            f"{self.package.name} {self.package.version} has no binary of {what} for this GPU "
            f"({self.arch}): what there is ({there}) {why}. Build the package again with "
            f"`attngen package ... --targets {','.join([*sorted(programs), self.arch])}`"
        )

    def _lacks(self, program: dict[str, Any]) -> str:
        """What a program needs that there is not, or an empty text."""
        kernels = [self.package.kernels[k] for k in program["kernels"].values()]
        if any(k["shared"] > self.shared for k in kernels):
            return "needs more shared memory than it has"
        least = max(k.get("cuda", 0) for k in kernels)
        if least * 1000 > self.driver.version and self.driver.family == "cuda":
            return f"needs a driver of CUDA {least}, and this is one of {self.driver.version}"
        return ""

    def function(self, number: str) -> int:
        """The function of a kernel, verified and loaded when first asked for."""
        found = self._functions.get(number)
        if found is None:
            with _lock:
                entry = self.package.kernels[number]
                if number not in self._functions:
                    module = self._module(entry)
                    self._functions[number] = self.driver.load(module, entry)
                found = self._functions[number]
        return found

    def _module(self, entry: dict[str, Any]) -> int:
        """A file, which may hold several functions, verified and loaded once."""
        found = self._modules.get(entry["file"])
        if found is None:
            image = self.package.image(entry)
            found = self._modules[entry["file"]] = self.driver.module(image, entry)
        return found

    def loaded(self, numbers: Sequence[str]) -> bool:
        """Whether all of them are."""
        return all(n in self._functions for n in numbers)


def family() -> str:
    """Which driver torch was built for."""
    return "hip" if torch.version.hip else "cuda"


def runs(target: str, arch: str) -> bool:
    """Whether binaries of a target run on an architecture.

    sm_80 also on 8.6 and 8.9; sm_100 and sm_120 are compiled for their families; sm_90 on 9.0 only.
    """
    if not (target.startswith("sm_") and arch.startswith("sm_")):
        return target == arch
    mine, there = int(target[3:]), int(arch[3:])
    return mine == there or (mine // 10 == there // 10 and mine <= there and mine // 10 != 9)


def capturing(device: torch.device) -> bool:
    """Whether the current stream is part of a graph being captured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class Kernel:
    """One spec of the package."""

    def __init__(self, package: Package, name: str) -> None:
        self.package, self.name = package, name
        self.spec: dict[str, Any] = package.manifest["specs"][name]
        self.declared: list[dict[str, Any]] = self.spec["arguments"]
        self.count = len(self.declared)
        self.outputs: list[dict[str, Any]] = self.spec["outputs"]
        self.single = len(self.outputs) == 1
        self.floats = tuple(
            i
            for i, d in enumerate(self.declared)
            if d["dtype"] in ("half", "f16", "bf16", "f32") and not d["scalar"] and not d["const"]
        )
        self.trains: bool = any(v["wiring"] is not None for v in self.spec["variants"])
        self.operator: Any = None  # set by operators.define
        self.fallback = False  # whether programs for older drivers are preferred
        self._plans = _Plans()
        self._devices: dict[int, Device] = {}

    def __call__(self, *values: Any) -> Any:
        """The result, or the tuple of results."""
        if self.trains and torch.is_grad_enabled():
            for i in self.floats:
                if isinstance(values[i], torch.Tensor) and values[i].requires_grad:
                    return self.operator(*values)
        key = signature(values)
        ready = self._plans.results.get(key)
        if ready is not None:
            return ready.run(values)
        if any(type(v) not in _TYPES for v in values if isinstance(v, torch.Tensor)):
            return self.operator(*values)  # traced, or a subclass that knows what to do
        return self.results(values)

    def results(self, values: Sequence[Any]) -> Any:
        """Without gradients, on tensors as they are."""
        key = signature(values)
        ready = self._plans.results.get(key)
        if ready is not None:
            return ready.run(values)
        facts = self.check(values)
        variant = self.variant(facts)
        if facts.empty:
            return self._shaped(facts, values)
        program = (variant, self._form(variant, facts))
        return self._first(self._plans.results, key, program, facts, values)

    def training(self, values: Sequence[Any]) -> list[torch.Tensor]:
        """The results, then what the backward needs."""
        key = signature(values)
        ready = self._plans.training.get(key)
        if ready is not None:
            return list(ready.run(values))
        facts = self.check(values)
        variant = self.trained(facts)
        if facts.empty:
            found = self._shaped(facts, values)
            return [*([found] if self.single else found), *self.saved(facts, values)]
        program = (variant, "training")
        return list(self._first(self._plans.training, key, program, facts, values))

    def backward(self, values: Sequence[Any], given: Sequence[Any]) -> list[torch.Tensor]:
        """Gradients; given: saved rows, results that are read back, gradients of results."""
        both = [*values, *given]
        key = signature(both)
        ready = self._plans.backward.get(key)
        if ready is not None:
            return list(ready.run(both))
        facts = self.check(values)
        variant = self.trained(facts)
        if facts.empty:
            return [like(values[i], values, torch.zeros) for i in variant["wiring"]["gradients"]]
        return list(self._first(self._plans.backward, key, (variant, "backward"), facts, both))

    def prefer(self, fallback: bool) -> None:
        """Take programs for older drivers where there are some, or the best again."""
        self.fallback, self._plans = fallback, _Plans()

    def check(self, values: Sequence[Any]) -> Facts:
        """The facts of a call; ArgumentError."""
        facts = check(self.name, self.declared, values)
        if facts.kv_len == 0 and not facts.empty:
            raise ArgumentError(f"{self.name}: there are no keys (length 0); expected 1 or more")
        return facts

    def variant(self, facts: Facts) -> dict[str, Any]:
        """The variant of a dtype and head sizes; ArgumentError names those that there are."""
        there = []
        for variant in self.spec["variants"]:
            sizes = variant["sizes"]
            if variant["half"] == facts.half and all(facts.sizes[n] == s for n, s in sizes.items()):
                found: dict[str, Any] = variant
                return found
            there.append(" ".join([variant["half"], *(f"{n}={s}" for n, s in sizes.items())]))
        names = dict.fromkeys(n for v in self.spec["variants"] for n in v["sizes"])
        wanted = " ".join([facts.half, *(f"{n}={facts.sizes[n]}" for n in names)])
        raise ArgumentError(
            f"{self.name}: {self.package.name} has no kernel for {wanted}; it has "
            f"{', '.join(there)}"
        )

    def trained(self, facts: Facts) -> dict[str, Any]:
        """The same, with a backward."""
        variant = self.variant(facts)
        if variant["wiring"] is None:
            raise ArgumentError(f"{self.name}: {self.package.name} was built without its backward")
        return variant

    def device(self, index: int) -> Device:
        """A GPU, opened when first used."""
        found = self._devices.get(index)
        if found is None:
            with _lock:
                found = self._devices.setdefault(index, Device(self.package, index))
        return found

    def preload(self, index: int) -> int:
        """Load every kernel this GPU runs; how many there are."""
        device = self.device(index)
        numbers = set()
        for variant in self.spec["variants"]:
            for form, programs in variant["programs"].items():
                program = device.program(programs, f"{self.name} ({form})", self.fallback)
                numbers |= set(program["kernels"].values())
        for number in sorted(numbers):
            device.function(number)
        return len(numbers)

    def saved(self, facts: Facts, values: Sequence[Any]) -> list[torch.Tensor]:
        """Empty tensors shaped as the saved rows."""
        sizes, query = rows(self.declared, values)
        dtypes = {"half": query.dtype, "float32": torch.float32, "int64": torch.int64}
        kept = self.trained(facts)["wiring"]["saved"]
        return [
            torch.empty([*sizes, *([w] if w else [])], dtype=dtypes[kind], device=query.device)
            for w, kind in kept
        ]

    def shaped(self, facts: Facts, values: Sequence[Any]) -> list[torch.Tensor]:
        """Empty tensors shaped as the results."""
        sizes, query = rows(self.declared, values)
        dtypes = {"half": query.dtype, "float32": torch.float32, "int64": torch.int64}
        made: list[torch.Tensor] = []
        for output in self.outputs:
            width = output["feature"]
            width = facts.sizes[width] if isinstance(width, str) else width
            shape = [*sizes, *([] if width is None else [width])]
            made.append(torch.empty(shape, dtype=dtypes[output["dtype"]], device=query.device))
        return made

    def _shaped(self, facts: Facts, values: Sequence[Any]) -> Any:
        made = self.shaped(facts, values)
        return made[0] if self.single else tuple(made)

    def _form(self, variant: dict[str, Any], facts: Facts) -> str:
        limits = self.spec["decode"]
        each = facts.batch if limits["per_sequence"] else 1
        few = facts.q_len <= limits["queries"] * each and facts.kv_len >= max(
            limits["keys"] * each, limits["ratio"] * facts.q_len
        )
        return "decode" if few and "decode" in variant["programs"] else "forward"

    def _first(
        self,
        plans: dict[Hashable, Ready],
        key: Hashable,
        program: tuple[dict[str, Any], str],
        facts: Facts,
        values: Sequence[Any],
    ) -> Any:
        ready = self._prepare(program, facts, values)
        if key is not None:
            if len(plans) >= PLANS:
                plans.clear()
            plans[key] = ready
        return ready.run(values)

    def _prepare(
        self, program: tuple[dict[str, Any], str], facts: Facts, values: Sequence[Any]
    ) -> Ready:
        (variant, form), own = program, self.name
        place = next(v.device for v in values if isinstance(v, torch.Tensor))
        device = self.device(facts.device)
        programs = variant["programs"][form]
        chosen = device.program(programs, f"{own} ({form})", self.fallback)
        self._look(place, device, chosen, values)
        device.driver.enter(facts.device)
        declared = [(d["name"], (own, d) if d["scalar"] else None) for d in self.declared]
        declared += [(n, None) for n in chosen["arguments"][self.count :]]

        def load(name: str) -> tuple[int, dict[str, Any]]:
            number = chosen["kernels"][name]
            return device.function(number), self.package.kernels[number]

        def make(tensors: dict[str, torch.Tensor]) -> Preparation:
            return Preparation(device.driver, chosen, tensors, load, place)

        single = self.single and form in ("forward", "decode")
        if place.type != "cuda":
            return prepare(make, declared, values, single)
        with torch.cuda.device(place):
            return prepare(make, declared, values, single)

    def _look(
        self, place: torch.device, device: Device, chosen: dict[str, Any], values: Sequence[Any]
    ) -> None:
        """What can only be done outside of a capture: loading, looking at sequence boundaries."""
        found = boundaries(self.name, self.declared, values[: self.count])
        if capturing(place):
            if found or not device.loaded(list(chosen["kernels"].values())):
                raise ArgumentError(
                    f"{self.name} is called with such tensors first while a graph is captured: "
                    f"call it once before the capture, or {self.package.name}.preload()"
                )
            return
        for name, value, total in found:
            require_boundaries(self.name, name, value, total)


def signature(values: Sequence[Any]) -> Hashable | None:
    """Everything that the way of a call depends on; None for tensors without an address."""
    key: list[Any] = []
    add = key.append  # part of every call: microseconds count here
    try:
        for v in values:
            if isinstance(v, torch.Tensor):
                add((v.__class__, v.shape, v.stride(), v.dtype, v.get_device(), v.data_ptr() & 15))
            else:
                add(v.__class__)
        return tuple(key)
    except (RuntimeError, NotImplementedError):  # sparse, meta and fake tensors
        return None


def like(value: Any, values: Sequence[Any], make: Any) -> torch.Tensor:
    """A tensor shaped as an argument's gradient; of a number: one number in float32."""
    if isinstance(value, torch.Tensor):
        shape, dtype, device = value.shape, value.dtype, value.device
    else:
        device = next(v.device for v in values if isinstance(v, torch.Tensor))
        shape, dtype = torch.Size(), torch.float32
    made: torch.Tensor = make(shape, dtype=dtype, device=device)
    return made
