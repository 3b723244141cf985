"""Tunes glibc's malloc for upload bodies, which come in pieces of about 256 KiB."""

import ctypes
import platform

# The parameter numbers of mallopt(3) in glibc's <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_MIB = 2**20
_OPTIONS = (
    (_M_MMAP_THRESHOLD, 64 * _MIB),
    (_M_TRIM_THRESHOLD, 256 * _MIB),
    (_M_TOP_PAD, 16 * _MIB),
)


def tune_malloc() -> bool:
    """Keep large freed blocks in the process; return whether this C library took the options.

    Above the default threshold of 128 KiB every piece of a body pays mmap, page faults and munmap,
    which halves the rate of an upload. Both thresholds are needed. Harmless where there is no
    glibc: then nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    return all(mallopt(option, value) == 1 for option, value in _OPTIONS)
