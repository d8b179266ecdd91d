"""Everything that differs between a laptop, a preview and production: environment variables."""

from typing import Annotated

from pydantic import field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url


class Settings(BaseSettings):
    """Read from `SHOP_*`; a wrong value stops the app at start with a message naming it."""

    model_config = SettingsConfigDict(env_prefix="SHOP_")

    database_url: str = "postgresql://shop:shop@localhost:5432/shop"
    redis_url: str = "redis://localhost:6379/0"
    public_url: str = "http://localhost:8000"
    """Where browsers reach this app; always allowed as a CORS origin."""
    cors_origins: Annotated[list[str], NoDecode] = []
    """Further allowed origins, separated by commas."""
    release: str = "development"
    scheduler_interval: float = 60
    """Seconds between two runs of the periodic jobs."""
    log_level: str = "INFO"

    @field_validator("database_url")
    @classmethod
    def _use_asyncpg(cls, value: str) -> str:
        url = make_url(value).set(drivername="postgresql+asyncpg")
        if "sslmode" in url.query:  # libpq's word; asyncpg's is `ssl`
            url = url.set(query={**url.query, "ssl": url.query["sslmode"]})
            url = url.difference_update_query(["sslmode"])
        return url.render_as_string(hide_password=False)

    @field_validator("public_url")
    @classmethod
    def _origin(cls, value: str) -> str:
        return value.rstrip("/")

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return value.replace(",", " ").split() if isinstance(value, str) else value

    @property
    def allowed_origins(self) -> list[str]:
        return [self.public_url, *self.cors_origins]


settings = Settings()
