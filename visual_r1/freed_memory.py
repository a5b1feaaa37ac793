"""Memory that a program frees and wants again at once.

Glibc gives large pieces back to the system as soon as they are free, or does not, as the heap
happens to lie; a program that takes some such pieces for each picture then pays for every page of
them again. Decoding a figure of 400 x 400 took 1.5 ms in the one case and 3.2 ms in the other. A
training call of the quickstart's size took 15,000 to 24,000 new pages, some 30 ms of 700.
"""

import ctypes

# Of glibc's malloc.h. What is larger than the first is not taken from the heap, and the heap
# shrinks where more than the second is free at its end. The third is the number of heaps.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD, _M_ARENA_MAX = -3, -1, -8
_MOST_PIECE = 32 * 2**20
MOST_FREE = 64 * 2**20


def keep_freed_memory(most_free: int = MOST_FREE, *, one_heap: bool = False) -> None:
    """From here on this process keeps up to `most_free` bytes that are free; glibc's alone.

    With `one_heap` threads that start later share the first one's, where they would else get heaps
    of their own in pieces of 64 MB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MOST_PIECE)
        mallopt(_M_TRIM_THRESHOLD, most_free)
        if one_heap:
            mallopt(_M_ARENA_MAX, 1)
