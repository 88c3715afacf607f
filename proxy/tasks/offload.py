"""Long computations, kept off the event loop.

A 24 MiB body takes a second to read, decode, hash and write out. On the loop nobody else would
be served meanwhile, and the store's answers would be taken for late. In a thread the rest goes
on, as long as no single call into C is long: such calls do not let go of the interpreter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Below this the work takes milliseconds at most, and is not worth a thread. 64 KiB may hold
# 20,000 values, the most a body may have.
LARGE_BYTES: Final = 64 * 1024


async def offload(size: int, work: Callable[_P, _T], *args: _P.args, **more: _P.kwargs) -> _T:
    """`work(*args)`, in a thread when it is over `size` bytes and that is large.

    A caller that is cancelled still waits for its end: what the work reads may be given back
    right after.
    """
    if size < LARGE_BYTES:
        return work(*args, **more)
    job = asyncio.ensure_future(asyncio.to_thread(work, *args, **more))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        raise
