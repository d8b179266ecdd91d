"""The job queue: a Redis list. Whoever wants work done pushes, the worker pops."""

import json
from typing import Any

from redis.asyncio import Redis

from .settings import settings

KEY = "shop:jobs"

# Commands answer within the time limit or fail; only `pop` waits, and asks Redis for less.
redis = Redis.from_url(
    settings.redis_url, decode_responses=True, socket_connect_timeout=3, socket_timeout=5
)


async def push(job: str, **arguments: Any) -> None:
    await redis.rpush(KEY, json.dumps({"job": job, "arguments": arguments}))


async def pop(timeout: float = 1) -> tuple[str, dict[str, Any]] | None:
    """The oldest job's name and arguments, or None when none came within `timeout` seconds."""
    popped = await redis.blpop([KEY], timeout=timeout)
    if popped is None:
        return None
    message = json.loads(popped[1])
    return message["job"], message["arguments"]
