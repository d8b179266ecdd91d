"""The web process."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from . import api, health, queue
from .database import engine
from .settings import settings

logging.basicConfig(level=settings.log_level, format="%(levelname)s [%(name)s] %(message)s")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await queue.redis.aclose()
    await engine.dispose()


# FastAPI with Swagger UI's files served by the app itself.
app = FastAPIOffline(
    title="Shop",
    description="The example app of ephemera.preview.",
    version=settings.release[:12],
    lifespan=lifespan,
)
app.add_middleware(
    CORSMiddleware,
    allow_origins=settings.allowed_origins,
    allow_methods=["*"],
    allow_headers=["*"],
    expose_headers=["Location"],
)
app.include_router(health.router)
app.include_router(api.router)


@app.get("/", include_in_schema=False)
async def index() -> RedirectResponse:
    return RedirectResponse("/docs")
