"""What the stand-in for the driver keeps of a launch."""

import ctypes


class Record(ctypes.Structure):
    """`struct record` of fakecuda.c."""

    _fields_ = (
        ("name", ctypes.c_char * 256),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("count", ctypes.c_uint),
        ("stream", ctypes.c_ulonglong),
        ("data", ctypes.c_ubyte * 4096),
        ("bytes", ctypes.c_int),
        ("dependent", ctypes.c_uint),
        ("cooperative", ctypes.c_uint),
        ("others", ctypes.c_uint),
    )
