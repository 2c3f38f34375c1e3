"""Which event loop this thread has."""

from __future__ import annotations

import asyncio
import warnings
from contextlib import suppress


def loop_is_running() -> bool:
    """Whether an event loop runs in this thread, so that nothing here may wait for one."""
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        return True
    return False


def event_loop() -> asyncio.AbstractEventLoop:
    """The running loop, or this thread's; one is made where there is none."""
    with suppress(RuntimeError):  # there is none
        return asyncio.get_running_loop()
    with suppress(RuntimeError), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loop = asyncio.get_event_loop()
        if not loop.is_closed():
            return loop
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop
