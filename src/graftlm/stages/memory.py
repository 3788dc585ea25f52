"""Memory that a training on the processor keeps from one step to the next."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST = 32 * 2**20  # below this glibc may take memory from the heap; larger blocks have mappings of their own
_EARLIER = 2 * _LARGEST  # the trim threshold that a process with large tensors has reached by itself


@contextlib.contextmanager
def kept_heap() -> Iterator[None]:
    """Within, what is freed stays with the process; afterwards it goes back to the system.

    A step frees its activations and gradients to the last, and glibc hands the memory back; the next step gets it page
    by page, each zeroed by the kernel. Elsewhere than on glibc nothing changes.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGEST)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.mallopt(_TRIM_THRESHOLD, _EARLIER)
        library.malloc_trim(0)
