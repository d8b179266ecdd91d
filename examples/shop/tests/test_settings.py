"""Settings need no database: `pytest tests/test_settings.py` runs anywhere."""

import pytest

from shop.settings import Settings


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://shop:shop@db/shop", "postgresql+asyncpg://shop:shop@db/shop"),
        ("postgres://shop@db/shop", "postgresql+asyncpg://shop@db/shop"),
        ("postgresql://db/shop?sslmode=require", "postgresql+asyncpg://db/shop?ssl=require"),
        ("postgresql://shop:a%40b@db/shop", "postgresql+asyncpg://shop:a%40b@db/shop"),
    ],
)
def test_any_postgresql_url_is_used_with_asyncpg(given: str, used: str) -> None:
    assert Settings(database_url=given).database_url == used


def test_the_public_url_is_always_an_allowed_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PUBLIC_URL", "https://shop.example.com/")
    monkeypatch.setenv("SHOP_CORS_ORIGINS", "http://localhost:5173, http://localhost:3000")
    assert Settings().allowed_origins == [
        "https://shop.example.com",
        "http://localhost:5173",
        "http://localhost:3000",
    ]
