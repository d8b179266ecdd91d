"""What the API takes and gives."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, EmailStr, Field, PositiveInt


class _Row(BaseModel):
    """Made from a database row."""

    model_config = ConfigDict(from_attributes=True)


class NewUser(BaseModel):
    email: EmailStr


class User(_Row):
    id: int
    email: str
    created_at: datetime


class NewProduct(BaseModel):
    sku: str = Field(min_length=1, max_length=32)
    name: str = Field(min_length=1, max_length=200)
    price_cents: int = Field(ge=0, le=100_000_000)
    stock: int = Field(ge=0, le=1_000_000)


class Product(_Row):
    id: int
    sku: str
    name: str
    price_cents: int
    stock: int


class NewOrder(BaseModel):
    user_id: PositiveInt
    product_id: PositiveInt
    quantity: int = Field(default=1, ge=1, le=20)


class Order(_Row):
    id: int
    user_id: int
    product_id: int
    quantity: int
    total_cents: int
    status: Literal["pending", "confirmed", "rejected"]
    created_at: datetime
    processed_at: datetime | None


class SalesReport(_Row):
    id: int
    confirmed_orders: int
    revenue_cents: int
    created_at: datetime


class Health(BaseModel):
    status: Literal["ok", "failing"]
    release: str
    checks: dict[str, str] = {}
