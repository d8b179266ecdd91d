"""What the worker and the scheduler share: they run until they are told to stop."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable

from . import queue
from .database import engine
from .settings import settings


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `main(stop)`; `stop` is set by SIGTERM and SIGINT, after which it should return soon."""
    logging.basicConfig(level=settings.log_level, format="%(levelname)s [%(name)s] %(message)s")
    asyncio.run(_run(main))


async def _run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await main(stop)
    finally:
        await queue.redis.aclose()
        await engine.dispose()


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait, but not longer than until `stop` is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
