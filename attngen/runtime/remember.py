"""Which compiled kernel a launch took, remembered from one process to the next.

Triton keeps compiled kernels in a cache of its own, but finding one there takes a process half a
second: it hashes its whole library and imports its other language first. So the name of Triton's
entry is remembered beside the kernel file, under everything that could lead to another one: the
text of the file, what Triton looks at in arguments (the key may tell apart more than Triton does,
never less), options, device, Triton's library and environment. Whatever goes wrong here, or is set
to change how Triton compiles, sends the launch through Triton as usual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from attngen.runtime.cache import Cache, Entry
from attngen.runtime.fingerprint import Field, digest, toolchain

GENERATED = "attngen_kernel_"  # module names, which end in a hash of the module's text
OBSERVERS = (
    ("runtime", "debug"),
    ("runtime", "jit_cache_hook"),
    ("runtime", "jit_post_compile_hook"),
    ("runtime", "add_stages_inspection_hook"),
    ("compilation", "always_compile"),
    ("compilation", "instrumentation_mode"),
    ("compilation", "listener"),
    ("compilation", "override"),
)


class Memory:
    """Compiled kernels of this process by key and device, and their names in the cache folder."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.loaded: dict[tuple[str, int], Any] = {}

    def find(self, function: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """The compiled kernel that Triton would choose for this launch, or None if not known."""
        try:
            key = launch_key(function, arguments, options)
            if key is None:
                return None
            place = (key, torch.cuda.current_device())
            if place not in self.loaded and (entry := self.cache.get(key)) is not None:
                self.loaded[place] = _load(function, entry)
            return self.loaded.get(place)
        except Exception:  # these parts of Triton are not promised to stay
            return None

    def keep(
        self, function: Any, arguments: Sequence[Any], options: Mapping[str, Any], compiled: Any
    ) -> None:
        """Remember what a launch through Triton took."""
        try:
            key = launch_key(function, arguments, options)
            entry = _entry(compiled)
        except Exception:  # see `find`
            return
        if key is not None and entry is not None:
            self.loaded[key, torch.cuda.current_device()] = compiled
            if self.cache.get(key) != entry:
                self.cache.put(key, entry)


def launch_key(function: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> str | None:
    """Key of a launch; None where Triton is watched, or an argument is of no known kind."""
    import triton  # noqa: PLC0415 - `import attngen` stays light
    import triton._C.libtriton  # noqa: PLC0415

    active: Any = triton.runtime.driver.active
    compiler: Any = triton._C.libtriton
    if not function.__module__.startswith(GENERATED) or function.pre_run_hooks:
        return None
    if any(getattr(getattr(triton.knobs, group), name, None) for group, name in OBSERVERS):
        return None
    library = Path(compiler.__file__).stat()
    return digest(
        "compiled",
        module=function.__module__,
        name=function.__name__,
        arguments=[_kind(a) for a in arguments],
        options=options,
        target=repr(active.get_current_target()),
        toolchain=toolchain(),
        library=[library.st_size, library.st_mtime_ns],
        environment=compiler.get_cache_invalidating_env_vars(),
    )


def _kind(argument: Any) -> Field:
    """What Triton may look at: types, widths, ones, and divisibility by 16."""
    match argument:
        case bool() | float():
            return type(argument).__name__
        case int():
            return [
                "int",
                argument.bit_length() > 31,
                argument < 0,
                argument == 1,
                argument % 16 == 0,
            ]
        case torch.Tensor():
            return ["tensor", str(argument.dtype), argument.data_ptr() % 16 == 0]
    if type(argument).__name__ != "TensorDescriptor":
        raise TypeError(type(argument).__name__)
    block: list[Field] = [*argument.block_shape]
    return ["descriptor", str(argument.base.dtype), block, argument.padding]


def _entry(compiled: Any) -> Entry | None:
    source = compiled.src
    signature = [[name, kind] for name, kind in source.signature.items()]
    constants = [[list(path), value] for path, value in source.constants.items()]
    plain = all(type(value) in (int, bool, float, type(None)) for _, value in constants)
    plain = plain and all(isinstance(kind, str) for _, kind in signature)
    meta = {"hash": compiled.hash, "name": source.name, "signature": signature}
    return Entry(meta | {"constants": constants}) if plain else None


def _load(function: Any, entry: Entry) -> Any:
    """The kernel as `triton.compile` would take it from Triton's cache; None if it is not there."""
    import triton.compiler  # noqa: PLC0415 - see `launch_key`
    from triton.runtime.cache import get_cache_manager  # noqa: PLC0415

    meta, name = entry.meta, f"{entry.meta['name'][:150]}.json"
    group = get_cache_manager(meta["hash"]).get_group(name)
    if not group or name not in group:
        return None
    constants = {tuple(path): value for path, value in meta["constants"]}
    compiler: Any = triton.compiler
    source = compiler.ASTSource(function, dict(meta["signature"]), constants)
    return compiler.CompiledKernel(source, group, meta["hash"])
