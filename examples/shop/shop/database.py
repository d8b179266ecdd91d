"""The database: one engine a process, one session a request or job."""

from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Annotated

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from .settings import settings

ALEMBIC_INI = Path(__file__).resolve().parent.parent / "alembic.ini"

engine = create_async_engine(
    settings.database_url,
    pool_pre_ping=True,
    connect_args={"timeout": 5, "server_settings": {"application_name": "shop"}},
)
new_session = async_sessionmaker(engine, expire_on_commit=False)


async def session() -> AsyncIterator[AsyncSession]:
    async with new_session() as opened:
        yield opened


Session = Annotated[AsyncSession, Depends(session)]


@cache
def wanted_revisions() -> frozenset[str]:
    """The newest migrations this code carries: one, unless branches were not merged."""
    return frozenset(ScriptDirectory.from_config(Config(ALEMBIC_INI)).get_heads())


async def present_revisions() -> frozenset[str]:
    """The migrations the database is at; empty before the first one."""
    async with engine.connect() as connection:
        return frozenset(
            await connection.run_sync(
                lambda sync: MigrationContext.configure(sync).get_current_heads()
            )
        )
