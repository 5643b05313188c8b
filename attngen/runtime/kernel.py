"""The compiled kernel a user holds, and `compile`, which makes one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from attngen.core.diagnostics import CallError, Diagnostic, SpecError
from attngen.core.dtype import Dtype
from attngen.core.source import Source
from attngen.core.target import Target, find_target
from attngen.ir.attention import Attention, Tensor
from attngen.runtime import warm
from attngen.runtime.autograd import autocast, floats, halves, has_gradient, in_graph
from attngen.runtime.bind import bind, expectation, found
from attngen.runtime.cache import Cache, Entry
from attngen.runtime.checks import Call, Checker
from attngen.runtime.device import compatible, target_of
from attngen.runtime.direct import Entry as Entered
from attngen.runtime.direct import direct, fixed_by_signature
from attngen.runtime.fingerprint import digest, generator
from attngen.runtime.interface import Interface, feature_names
from attngen.runtime.launch import (
    Copy,
    Plan,
    align,
    aligned,
    packed_boundaries,
    require_boundaries,
    require_narrow,
    signature,
)
from attngen.runtime.operators import Operators
from attngen.runtime.remember import Memory
from attngen.runtime.specialise import Request, Spec, Specialisation, specialise
from attngen.runtime.step import Switch
from attngen.runtime.training import Training, train

DEFAULT_TARGET = "sm_90"
DEFAULT_FEATURE = 128
PLANS = 4096  # remembered signatures; lengths vary without end in serving
FEW_QUERIES, FEW_PACKED = 16, 2  # the second: a sequence, on average
MANY_KEYS = 256


def compile(  # the name users type: attngen.compile
    text_or_path: str | Path | Source,
    target: str | None = None,
    backend: str | None = None,
    numerics: str | None = None,
    **params: int | float | bool,
) -> Kernel:
    """A kernel from a spec, given as text or as the path of a file.

    target: for `.source` and the schedule (default: the device of the tensors); backend: "triton",
    "cute"; numerics: "exact" for a running maximum in CuTe kernels; params: values for the spec's
    `param` statements, and sizes of feature axes for `.source` (default 128). Nothing is compiled
    before the first call or `.source`.
    SpecError: mistakes in the spec, an unknown target, or something that is not built yet.
    """
    source, cache = read(text_or_path), Cache()
    interface, sizes = _declarations(source, params, cache)
    fixed = {n: value for n, value in params.items() if n not in sizes}
    named = {n: x for n, x in (("backend", backend), ("numerics", numerics)) if x is not None}
    if named:
        from attngen.runtime.support import require_words  # noqa: PLC0415 - only when asked

        require_words(named)
    spec = Spec(source, fixed, interface, dict(interface.schedule) | named)
    return Kernel(spec, find_target(target) if target else None, cache, sizes)


def _declarations(
    source: Source, params: Mapping[str, int | float | bool], cache: Cache
) -> tuple[Interface, dict[str, int]]:
    """The declarations, and those keywords that are sizes of feature axes; kept in the cache."""
    key = digest("interface", text=source.text, params=params, generator=generator())
    entry = cache.get(key)
    if entry is not None:
        return Interface.restored(entry.meta["interface"]), entry.meta["sizes"]
    warm.start()
    from attngen.frontend import load  # noqa: PLC0415 - not needed on a hit
    from attngen.runtime.support import require_supported  # noqa: PLC0415

    program = load(source, {}) if params else None
    names = feature_names(program) if isinstance(program, Attention) else ()
    sizes = {name: int(value) for name, value in params.items() if name in names}
    fixed = {name: value for name, value in params.items() if name not in sizes}
    interface = Interface.of(require_supported(load(source, fixed)))
    cache.put(key, Entry({"interface": interface.stored(), "sizes": sizes}))
    return interface, sizes


def read(text_or_path: str | Path | Source) -> Source:
    """The source of a spec: a path if it is one line without a brace, else the text itself."""
    if isinstance(text_or_path, Source):
        return text_or_path
    text = str(text_or_path)
    if not isinstance(text_or_path, Path) and ("{" in text or "\n" in text):
        return Source("<text>", text)
    try:
        return Source(text, Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        fix = "pass the path of a .attn file, or the text of a spec"
        diagnostic = Diagnostic("E090", f"cannot read {text[:200]!r}: {reason}", help=fix)
        raise SpecError(diagnostic) from None


class Kernel:
    """A spec that can be called with tensors, by name or in the order of its declarations.

    It is compiled once for each (sizes of feature axes, dtype, target, short or long queries);
    lengths, batches, scalars and strides never cause a compilation. `compilations` counts.
    """

    def __init__(
        self,
        spec: Spec,
        target: Target | None = None,
        cache: Cache | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.spec = spec
        self.target = target
        self.sizes = dict(sizes or {})
        self.cache = cache if cache is not None else Cache()
        self.compilations = 0
        self.notes: dict[str, None] = {}
        self.last: Specialisation | None = None
        self._memory = Memory(self.cache)
        self.checker = Checker(spec.interface)
        self._made: dict[Request, Specialisation] = {}
        self._trained: dict[Request, Training] = {}
        self._plans: dict[Hashable, Plan | Switch] = {}
        self._scalars = tuple(
            (i, self.checker.scalars[t.name]) for i, t in enumerate(self.declared) if t.is_scalar
        )
        self.floats, self._halves = floats(self.declared), halves(self.declared)
        self._names = tuple(tensor.name for tensor in self.declared)
        self._count = len(self._names)
        self.operators = Operators(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Kernel:
        """Itself: a copy of a model shares what is compiled."""
        return self

    @property
    def name(self) -> str:
        """The name of the spec."""
        return self.spec.interface.name

    @property
    def declared(self) -> tuple[Tensor, ...]:
        """What a call passes, in order."""
        return self.checker.declared

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the results, in order."""
        return self.spec.interface.outputs

    def __repr__(self) -> str:
        arguments = ", ".join(f"{t.name}: {expectation(t)}" for t in self.declared)
        return f"<attngen kernel {self.name}({arguments}) -> {', '.join(self.outputs)}>"

    def __call__(self, *tensors: Any, **by_name: Any) -> Any:
        """The result, or the tuple of results; CallError if the arguments do not fit.

        With tensors that require a gradient the results have one too (SpecError E430: not built).
        """
        compiling = torch.compiler.is_dynamo_compiling()
        if by_name or compiling or len(tensors) != self._count:
            tensors = self._bind(tensors, by_name)
        if torch._C._is_any_autocast_enabled():
            tensors = autocast(tensors, self._halves)
        if compiling:
            return self.operators.call(tensors)
        key = signature(tensors)
        plan = self._plans.get(key)
        return self._first(key, tensors) if plan is None else plan.run(tensors)

    @property
    def source(self) -> str:
        """The text of the kernel file last called, or of the default one."""
        return self._shown().emitted.source

    def explain(self, **sizes: int) -> str:
        """What the compiler made of the spec, in words; `sizes` are lengths for the predictions."""
        from attngen.runtime.report import explain  # noqa: PLC0415 - only when asked

        shown = self._shown()
        lengths = {**dict(shown.request.sizes), **sizes}
        target, notes = shown.request.target, [*self.notes]
        return explain(shown.program, shown.schedule, target, lengths, notes, shown.reason)

    def reference(self, *tensors: Any, **by_name: Any) -> Any:
        """The same results by the definition: the formula as written, in float64."""
        from attngen.reference.execute import reference  # noqa: PLC0415 - only when asked

        values = bind(self.declared, tensors, by_name)
        self.checker.check(values)
        names = (tensor.name for tensor in self.declared)
        results = reference(self.spec.attention, dict(zip(names, values, strict=True)))
        return results[0] if len(results) == 1 else results

    def specialise(
        self,
        sizes: Mapping[str, int] | None = None,
        half: Dtype = Dtype.BF16,
        target: Target | None = None,
        short: bool = False,
    ) -> Specialisation:
        """The kernel file for these sizes (128 for feature axes not named), dtype and target."""
        fixed = {name: DEFAULT_FEATURE for name in feature_names(self.spec.interface)}
        fixed |= {n: size for n, size in {**self.sizes, **(sizes or {})}.items() if n in fixed}
        return self.made(
            Request(tuple(fixed.items()), half, target or self._default_target(), short)
        )

    def use(self, request: Request, made: Specialisation) -> None:
        """Use this file for a request from now on (a tuned schedule)."""
        made.cache, self._made[request] = self.cache, made
        self._plans.clear()

    def request(self, *tensors: Any, **by_name: Any) -> Request:
        """Which kernel file a call with these arguments takes."""
        return self.request_of(self.checker.check(bind(self.declared, tensors, by_name)))

    def request_of(self, call: Call) -> Request:
        """The same for a checked call. CallError: E516, E517 no such device."""
        return replace(self.training_request(call), short=self._short(call))

    def training_request(self, call: Call) -> Request:
        """Which pair of files a checked call takes: one, however many queries there are."""
        device = target_of(call.device)
        target = self.target or device
        if device.family == "interpreter":
            target = device
        elif not compatible(target, device):
            message = f"the kernel was compiled for {target.name}, the tensors are on {device.name}"
            fix = f'compile(..., target="{device.name}"), or leave the target out'
            raise CallError(Diagnostic("E517", message, help=fix))
        sizes = tuple((name, int(size)) for name, size in call.sizes.items())
        return Request(sizes, call.half, target)

    def _short(self, call: Call) -> bool:
        """Few queries against many keys: decoding. Of packed sequences only the mean is known."""
        packed = any(t.packed for t in self.declared)
        most, each = (FEW_PACKED * call.batch, call.batch) if packed else (FEW_QUERIES, 1)
        return 0 < call.q_len <= most and call.kv_len >= max(MANY_KEYS * each, 4 * call.q_len)

    def made(self, request: Request) -> Specialisation:
        """The kernel file for a request, compiled if it is the first of its kind."""
        made = self._made.get(request)
        if made is None:
            made = self._made[request] = specialise(self.spec, request, self.cache)
            self.compilations += 1
        self.last = made
        return made

    def _bind(self, tensors: Sequence[Any], by_name: Mapping[str, Any]) -> tuple[Any, ...]:
        if not tensors and len(by_name) == self._count:
            try:
                return tuple(map(by_name.__getitem__, self._names))
            except KeyError:
                pass  # `bind` says what is wrong
        return bind(self.declared, tensors, by_name)

    def training(self, request: Request) -> Training:
        """The forward that keeps rows and its backward, compiled if they are the first."""
        made = self._trained.get(request)
        if made is None:
            made = self._trained[request] = train(self.spec, request, self.cache)
            self.compilations += 1
        return made

    def trained(self, request: Request) -> bool:
        """Whether that pair is there."""
        return request in self._trained

    def _first(self, key: Hashable | None, values: Sequence[Any]) -> Any:
        """The first call of a signature: everything is looked at."""
        if in_graph(key, values):
            return self.operators.call(values)
        call = self.checker.check(values)
        wanted = any(getattr(values[i], "requires_grad", False) for i in self.floats)
        if wanted and has_gradient(self.spec.attention):
            start = partial(self._start, call)
            switch = Switch(self.operators, self._scalars, start)
            if key is not None:
                self._remember(key, switch)
            return switch.run(values)
        plan, results = self._start(call, values)
        if key is not None:
            self._remember(key, plan)
        return results

    def _start(self, call: Call, values: Sequence[Any]) -> tuple[Plan, Any]:
        """A plan without gradients, and the results of its first call."""
        boundaries = self.boundaries(call, values)
        request = None if call.empty else self.request_of(call)
        if request is None:
            entry: Entered = partial(self._empty, call)
            descriptors, also = False, tuple[str, ...]()
        else:
            if request not in self._made:
                self.no_capture(call)
            made = self.made(request)
            entry, descriptors = made.entry, made.schedule.loads == "descriptor"
            also = made.emitted.aligned
        plan = self.plan(call, entry, values, boundaries, descriptors, also)
        return plan, self.run_first(plan, request, values)

    def _empty(self, call: Call, *values: Any) -> tuple[Any, ...]:
        from attngen.runtime.empty import empty_results  # noqa: PLC0415 - rarely needed

        return empty_results(self.spec.attention, call, values)

    def boundaries(self, call: Call, values: Sequence[Any]) -> tuple[tuple[int, str, int], ...]:
        """Tensors of sequence boundaries and how they must end; what they hold is looked at."""
        found = packed_boundaries(self.declared, values)
        if found:
            self.no_capture(call)
        for position, name, total in found:
            require_boundaries(name, values[position], total)
        return found

    def run_first(self, plan: Plan, request: Request | None, values: Sequence[Any]) -> Any:
        """The results of a plan, whose later calls go past Triton's look-up where they can."""
        later = plan.entry
        if request is not None and fixed_by_signature(request.target, self.declared):
            plan.entry, later = direct(plan.entry, self._memory)
        results = plan.run(values)
        plan.entry = later
        return results

    def no_capture(self, call: Call) -> None:
        """CallError E518: compiling, looking at boundaries cannot be part of a CUDA graph."""
        if call.device != "cpu" and torch.cuda.is_current_stream_capturing():
            message = f"{self.name} is called with such tensors first while a graph is captured"
            fix = "call it once with tensors of these shapes before the capture"
            raise CallError(Diagnostic("E518", message, help=fix))

    def plan(
        self,
        call: Call,
        entry: Entered,
        values: Sequence[Any],
        boundaries: tuple[tuple[int, str, int], ...],
        descriptors: bool,
        also: Sequence[str] = (),
    ) -> Plan:
        """How `entry` is called; descriptors: it loads streams with them, and the inputs `also`."""
        require_narrow(call, self.declared, values)
        copies = self._copies(call, values, descriptors, also)
        on_cpu = call.device == "cpu"
        several = not on_cpu and torch.cuda.device_count() > 1
        guard = torch.device(call.device).index if several else None
        watched = boundaries if on_cpu else ()  # on a GPU: looked at once per shape, it has to wait
        plain = not (copies or self._scalars or watched or guard is not None)
        return Plan(
            call, entry, len(self.outputs) == 1, plain, copies, self._scalars, watched, guard
        )

    def _copies(
        self, call: Call, values: Sequence[Any], descriptors: bool, also: Sequence[str]
    ) -> tuple[Copy, ...]:
        copies: list[Copy] = []
        for i, (tensor, value) in enumerate(zip(self.declared, values, strict=True)):
            loaded = (descriptors and tensor.is_stream) or tensor.name in also
            if i in call.copies:
                why = f"its feature axis has stride {value.stride(-1)}"
            elif loaded and not aligned(value, broadcast=not tensor.is_stream):
                why = f"no descriptor fits {found(value)}"
            else:
                continue
            self._note(f"{tensor.name} is copied: {why}")
            copies.append((i, align))
        return tuple(copies)

    def _note(self, text: str) -> None:
        self.notes[text] = None

    def _remember(self, key: Hashable, plan: Plan | Switch) -> None:
        if len(self._plans) >= PLANS:
            self._plans.clear()
        self._plans[key] = plan

    def _default_target(self) -> Target:
        named = self.spec.interface.targets
        return self.target or find_target(named[0] if named else DEFAULT_TARGET)

    def _shown(self) -> Specialisation:
        return self.last or self.specialise()
