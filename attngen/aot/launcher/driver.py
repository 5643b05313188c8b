"""The GPU's driver through ctypes: load a binary, launch it, make tensor descriptors.

One object per process for CUDA (libcuda) or ROCm (libamdhip64). Loading and launching go to the
context of the device of the tensors, which torch uses too.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import torch

from .errors import DriverError, NoBinaryError

CUDA_LIBRARY, HIP_LIBRARY = "libcuda.so.1", "libamdhip64.so"
DEFAULT_SHARED = 49152  # bytes a kernel gets without asking for more
_P, _U, _I = ctypes.c_void_p, ctypes.c_uint, ctypes.c_int
_Out = ctypes.POINTER

_CUDA: dict[str, list[Any]] = {
    "cuInit": [_U],
    "cuDriverGetVersion": [_Out(_I)],
    "cuDeviceGet": [_Out(_I), _I],
    "cuDeviceGetAttribute": [_Out(_I), _I, _I],
    "cuDevicePrimaryCtxRetain": [_Out(_P), _I],
    "cuCtxGetCurrent": [_Out(_P)],
    "cuCtxSetCurrent": [_P],
    "cuModuleLoadData": [_Out(_P), ctypes.c_char_p],
    "cuModuleGetFunction": [_Out(_P), _P, ctypes.c_char_p],
    "cuFuncSetAttribute": [_P, _I, _I],
    "cuFuncGetAttribute": [_Out(_I), _I, _P],
    "cuLaunchKernelEx": [_P, _P, _P, _P],
    "cuGetErrorString": [_I, _Out(ctypes.c_char_p)],
    "cuTensorMapEncodeTiled": [_P, _I, _U, _P, _P, _P, _P, _P, _I, _I, _I, _I],
}
_HIP: dict[str, list[Any]] = {
    "hipInit": [_U],
    "hipModuleLoadData": [_Out(_P), ctypes.c_char_p],
    "hipModuleGetFunction": [_Out(_P), _P, ctypes.c_char_p],
    "hipModuleLaunchKernel": [_P] + [_U] * 7 + [_P, _P, _P],
}
_COOPERATIVE, _CLUSTER, _POLICY, _DEPENDENT = 2, 4, 5, 6  # ids of launch attributes
_MOST_SHARED, _ANY_CLUSTER, _MOST_THREADS = 8, 14, 0  # ids of function attributes


class Attribute(ctypes.Structure):
    """CUlaunchAttribute."""

    _fields_ = (
        ("id", ctypes.c_int),
        ("pad", ctypes.c_char * 4),
        ("value", ctypes.c_uint32 * 16),
    )


class Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("count", ctypes.c_uint),
    )


class Cuda:
    """libcuda."""

    family = "cuda"

    def __init__(self) -> None:
        self.library = _open(CUDA_LIBRARY, _CUDA, "an NVIDIA driver")
        self.check(self.library.cuInit(0), "starting the driver")
        version = _I()
        self.check(self.library.cuDriverGetVersion(ctypes.byref(version)), "asking its version")
        self.version: int = version.value

    def check(self, status: int, doing: str) -> None:
        """DriverError unless the status is 0."""
        if status:
            text = ctypes.c_char_p()
            self.library.cuGetErrorString(status, ctypes.byref(text))
            raise DriverError(f"{doing}: {(text.value or b'unknown').decode()} (error {status})")

    def attribute(self, device: int, number: int) -> int:
        """CuDeviceGetAttribute."""
        found, handle = _I(), _I()
        self.check(self.library.cuDeviceGet(ctypes.byref(handle), device), "finding the device")
        status = self.library.cuDeviceGetAttribute(ctypes.byref(found), number, handle.value)
        self.check(status, "asking the device")
        return found.value

    def describe(self, device: int) -> tuple[str, int]:
        """(architecture such as "sm_90", shared memory a program may have)."""
        major, minor = self.attribute(device, 75), self.attribute(device, 76)
        return f"sm_{major}{minor}", self.attribute(device, 97)

    def enter(self, device: int) -> None:
        """See to it that this thread has a context: torch may not have made one current yet."""
        current = _P()
        self.check(self.library.cuCtxGetCurrent(ctypes.byref(current)), "asking for the context")
        if not current.value:
            context = _P()
            status = self.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
            self.check(status, "finding the context")
            self.check(self.library.cuCtxSetCurrent(context), "entering the context")

    def module(self, image: bytes, kernel: dict[str, Any]) -> int:
        """A binary, loaded into the current context."""
        module = _P()
        what = f"loading {kernel['file']} (driver {self.version})"
        self.check(self.library.cuModuleLoadData(ctypes.byref(module), image), what)
        return int(module.value or 0)

    def load(self, module: int, kernel: dict[str, Any]) -> int:
        """A function of a binary."""
        function = _P()
        symbol = kernel["symbol"].encode()
        status = self.library.cuModuleGetFunction(ctypes.byref(function), module, symbol)
        self.check(status, f"finding {kernel['symbol']} in {kernel['file']}")
        wanted = [(_MOST_SHARED, kernel["shared"])] if kernel["shared"] > DEFAULT_SHARED else []
        wanted += [(_ANY_CLUSTER, 1)] if kernel["clusters"] > 8 else []
        for number, value in wanted:
            status = self.library.cuFuncSetAttribute(function, number, value)
            self.check(status, f"preparing {kernel['symbol']} ({kernel['shared']} bytes shared)")
        most = _I()
        self.library.cuFuncGetAttribute(ctypes.byref(most), _MOST_THREADS, function)
        if most.value < kernel["threads"]:
            raise DriverError(
                f"{kernel['symbol']} needs {kernel['threads']} threads, here {most.value} fit"
            )
        return int(function.value or 0)

    def launcher(
        self, function: int, grid: tuple[int, int, int], kernel: dict[str, Any], parameters: Any
    ) -> Any:
        """A function of the stream that launches; grid: programs, clusters not multiplied in."""
        attributes = _attributes(kernel)
        config = Config()
        config.grid = (grid[0] * kernel["clusters"], grid[1], grid[2])
        config.block, config.shared = (kernel["threads"], 1, 1), kernel["shared"]
        config.attributes, config.count = ctypes.addressof(attributes), len(attributes)
        call, address, check = self.library.cuLaunchKernelEx, ctypes.addressof(config), self.check
        name = kernel["symbol"]
        keep = (config, attributes, parameters)

        def launch(stream: int) -> None:
            keep[0].stream = stream
            status = call(address, function, parameters, None)
            if status:
                check(status, f"launching {name}")

        return launch


class Hip:
    """libamdhip64, the one that torch has loaded."""

    family = "hip"
    version = 0

    def __init__(self) -> None:
        self.library = _open(HIP_LIBRARY, _HIP, "ROCm")
        self.check(self.library.hipInit(0), "starting the driver")

    def check(self, status: int, doing: str) -> None:
        """DriverError unless the status is 0."""
        if status:
            raise DriverError(f"{doing}: HIP error {status}")

    def describe(self, device: int) -> tuple[str, int]:
        """(architecture such as "gfx942", shared memory a program may have)."""
        properties = torch.cuda.get_device_properties(device)
        return str(properties.gcnArchName).split(":")[0], 65536

    def enter(self, device: int) -> None:
        """HIP makes the context of a device by itself."""

    def module(self, image: bytes, kernel: dict[str, Any]) -> int:
        """A binary, loaded on the current device."""
        module = _P()
        status = self.library.hipModuleLoadData(ctypes.byref(module), image)
        self.check(status, f"loading {kernel['file']}")
        return int(module.value or 0)

    def load(self, module: int, kernel: dict[str, Any]) -> int:
        """A function of a binary."""
        function = _P()
        symbol = kernel["symbol"].encode()
        status = self.library.hipModuleGetFunction(ctypes.byref(function), module, symbol)
        self.check(status, f"finding {kernel['symbol']} in {kernel['file']}")
        return int(function.value or 0)

    def launcher(
        self, function: int, grid: tuple[int, int, int], kernel: dict[str, Any], parameters: Any
    ) -> Any:
        """A function of the stream that launches."""
        call, check, name = self.library.hipModuleLaunchKernel, self.check, kernel["symbol"]
        sizes = (*grid, kernel["threads"], 1, 1, kernel["shared"])

        def launch(stream: int) -> None:
            status = call(function, *sizes, stream, parameters, None)
            if status:
                check(status, f"launching {name}")

        return launch


_lock = threading.Lock()
_made: dict[str, Cuda | Hip] = {}


def driver(family: str) -> Cuda | Hip:
    """The driver of a family, "cuda" or "hip"; NoBinaryError if the machine has none."""
    with _lock:
        if family not in _made:
            _made[family] = Cuda() if family == "cuda" else Hip()
        return _made[family]


def _open(name: str, functions: dict[str, list[Any]], what: str) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(name)
    except OSError as error:
        raise NoBinaryError(f"this machine has no {what}: {error}") from None
    for function, arguments in functions.items():
        found = getattr(library, function, None)
        if found is None:
            raise DriverError(f"{name} has no {function}: the driver is too old for this package")
        found.argtypes, found.restype = arguments, _I
    return library


def _attributes(kernel: dict[str, Any]) -> Any:
    wanted: list[tuple[int, tuple[int, ...]]] = []
    if kernel["dependent"]:
        wanted.append((_DEPENDENT, (1,)))
    if kernel["cooperative"]:
        wanted.append((_COOPERATIVE, (1,)))
    if kernel["clusters"] > 1:
        wanted += [(_CLUSTER, (kernel["clusters"], 1, 1)), (_POLICY, (1,))]
    made = (Attribute * len(wanted))()
    for attribute, (number, values) in zip(made, wanted, strict=True):
        attribute.id = number
        for i, value in enumerate(values):
            attribute.value[i] = value
    return made
