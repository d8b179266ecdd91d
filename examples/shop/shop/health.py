"""`/health` says that the process answers; `/health/deep` that it could do its work, too."""

import asyncio
import logging

from fastapi import APIRouter, Response

from . import database, queue, schemas
from .settings import settings

router = APIRouter(tags=["health"])
log = logging.getLogger(__name__)

SECONDS = 4
OK = "ok"


@router.get("/health")
async def health() -> schemas.Health:
    return schemas.Health(status="ok", release=settings.release)


@router.get("/health/deep")
async def deep_health(response: Response) -> schemas.Health:
    database_check, redis_check = await asyncio.gather(_check(_database()), _check(_redis()))
    checks = {"database": database_check, "redis": redis_check}
    healthy = all(result == OK for result in checks.values())
    response.status_code = 200 if healthy else 503
    return schemas.Health(
        status="ok" if healthy else "failing", release=settings.release, checks=checks
    )


async def _check(probe) -> str:
    """`ok` or what is wrong. An error's text may hold addresses: that goes to the log only."""
    try:
        async with asyncio.timeout(SECONDS):
            return await probe
    except TimeoutError:
        return f"no answer within {SECONDS} seconds"
    except Exception as error:
        log.warning("health check failed: %s: %s", type(error).__name__, error)
        return f"not reachable ({type(error).__name__})"


async def _database() -> str:
    present, wanted = await database.present_revisions(), database.wanted_revisions()
    if present == wanted:
        return OK
    return f"at revision {_list(present)}, this code needs {_list(wanted)}: alembic upgrade head"


async def _redis() -> str:
    await queue.redis.ping()
    return OK


def _list(revisions: frozenset[str]) -> str:
    return ", ".join(sorted(revisions)) or "none"
