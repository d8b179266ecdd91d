"""The scheduler (`python -m shop.scheduler`). Exactly one may run: two would ask for all twice."""

import asyncio
import logging

from redis.exceptions import RedisError

from . import process, queue
from .settings import settings

log = logging.getLogger("shop.scheduler")

PERIODIC = ("retry_orders", "sales_report")


async def main(stop: asyncio.Event) -> None:
    log.info("asking for %s every %g seconds", ", ".join(PERIODIC), settings.scheduler_interval)
    while not stop.is_set():
        try:
            for job in PERIODIC:
                await queue.push(job)
        except RedisError as error:
            log.warning("redis does not answer: %s", error)
        await process.pause(stop, settings.scheduler_interval)
    log.info("stopped")


if __name__ == "__main__":
    process.run(main)
