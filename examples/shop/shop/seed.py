"""Data to try the shop with (`python -m shop.seed`). Running it again changes nothing."""

import asyncio

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from .database import engine, new_session
from .models import CONFIRMED, Order, Product, User

USERS = [{"email": f"customer-{number}@example.com"} for number in range(1, 6)]
PRODUCTS = [
    {"sku": "MUG-BLUE", "name": "Blue mug", "price_cents": 900, "stock": 40},
    {"sku": "MUG-RED", "name": "Red mug", "price_cents": 900, "stock": 25},
    {"sku": "TEA-GREEN", "name": "Green tea, 100 g", "price_cents": 650, "stock": 120},
    {"sku": "TEAPOT", "name": "Teapot", "price_cents": 3400, "stock": 3},
]


async def seed() -> None:
    async with new_session.begin() as session:
        await session.execute(insert(User).values(USERS).on_conflict_do_nothing())
        await session.execute(insert(Product).values(PRODUCTS).on_conflict_do_nothing())
        if await session.scalar(select(Order.id).limit(1)) is None:
            user = await session.scalar(select(User).order_by(User.id).limit(1))
            product = await session.scalar(select(Product).order_by(Product.id).limit(1))
            session.add(
                Order(
                    user_id=user.id,
                    product_id=product.id,
                    quantity=2,
                    total_cents=2 * product.price_cents,
                    status=CONFIRMED,
                )
            )
    await engine.dispose()
    print(f"The shop has at least {len(USERS)} users, {len(PRODUCTS)} products and an order.")


if __name__ == "__main__":
    asyncio.run(seed())
