"""The background worker (`python -m shop.worker`). Any number of them may run.

Every job may run twice or, when a worker dies, be lost: so each is written to be repeated, and the
scheduler asks for `retry_orders` now and then.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from redis.exceptions import RedisError
from sqlalchemy import delete, func, select
from sqlalchemy.exc import DBAPIError

from . import process, queue
from .database import new_session
from .models import CONFIRMED, PENDING, REJECTED, Order, Product, SalesReport

log = logging.getLogger("shop.worker")


async def confirm_order(order_id: int) -> None:
    """Take the goods out of the stock, or reject the order when there are too few."""
    async with new_session.begin() as session:
        order = await session.get(Order, order_id, with_for_update=True)
        if order is None or order.status != PENDING:
            return
        product = await session.get_one(Product, order.product_id, with_for_update=True)
        if product.stock >= order.quantity:
            product.stock -= order.quantity
            order.status = CONFIRMED
        else:
            order.status = REJECTED
        order.processed_at = datetime.now(UTC)
        log.info("order %s %s", order.id, order.status)


async def retry_orders() -> None:
    """Confirm what has been waiting for longer than a job ever takes."""
    async with new_session() as session:
        waiting = await session.scalars(
            select(Order.id).where(
                Order.status == PENDING, Order.created_at < datetime.now(UTC) - timedelta(minutes=1)
            )
        )
    for order_id in waiting:
        await confirm_order(order_id)


async def sales_report() -> None:
    """Count what was sold; keep the reports of a day."""
    async with new_session.begin() as session:
        orders, revenue = (
            await session.execute(
                select(func.count(), func.coalesce(func.sum(Order.total_cents), 0)).where(
                    Order.status == CONFIRMED
                )
            )
        ).one()
        session.add(SalesReport(confirmed_orders=orders, revenue_cents=revenue))
        await session.execute(
            delete(SalesReport).where(
                SalesReport.created_at < datetime.now(UTC) - timedelta(days=1)
            )
        )


JOBS = {job.__name__: job for job in (confirm_order, retry_orders, sales_report)}


async def main(stop: asyncio.Event) -> None:
    log.info("waiting for jobs")
    while not stop.is_set():
        try:
            popped = await queue.pop()
        except RedisError as error:
            log.warning("redis does not answer: %s", error)
            await process.pause(stop, 1)
            continue
        if popped is None:
            continue
        job, arguments = popped
        try:
            await JOBS[job](**arguments)
        except (DBAPIError, OSError) as error:
            log.error("job %s failed: %s", job, getattr(error, "orig", error))
        except Exception:  # one bad job must not end the worker
            log.exception("job %s failed", job)
    log.info("stopped")


if __name__ == "__main__":
    process.run(main)
