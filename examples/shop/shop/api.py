"""Users, products, orders and sales reports."""

import logging
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response
from redis.exceptions import RedisError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from . import models, queue, schemas
from .database import Session

router = APIRouter()
log = logging.getLogger(__name__)

Limit = Annotated[int, Query(ge=1, le=200)]


@router.get("/users", tags=["users"], response_model=list[schemas.User])
async def list_users(session: Session, limit: Limit = 50):
    return await session.scalars(select(models.User).order_by(models.User.id).limit(limit))


@router.post("/users", tags=["users"], response_model=schemas.User, status_code=201)
async def create_user(
    user: schemas.NewUser, session: Session, request: Request, response: Response
):
    created = models.User(**user.model_dump())
    session.add(created)
    try:
        await session.commit()
    except IntegrityError as error:
        raise HTTPException(409, "There is a user with this e-mail address already.") from error
    response.headers["Location"] = str(request.url_for("get_user", user_id=created.id))
    return created


@router.get("/users/{user_id}", tags=["users"], response_model=schemas.User)
async def get_user(user_id: int, session: Session):
    return await _get(session, models.User, user_id)


@router.get("/products", tags=["products"], response_model=list[schemas.Product])
async def list_products(session: Session, limit: Limit = 50):
    return await session.scalars(select(models.Product).order_by(models.Product.id).limit(limit))


@router.post("/products", tags=["products"], response_model=schemas.Product, status_code=201)
async def create_product(product: schemas.NewProduct, session: Session):
    created = models.Product(**product.model_dump())
    session.add(created)
    try:
        await session.commit()
    except IntegrityError as error:
        raise HTTPException(409, "There is a product with this SKU already.") from error
    return created


@router.get("/orders", tags=["orders"], response_model=list[schemas.Order])
async def list_orders(session: Session, limit: Limit = 50):
    return await session.scalars(select(models.Order).order_by(models.Order.id.desc()).limit(limit))


@router.post("/orders", tags=["orders"], response_model=schemas.Order, status_code=202)
async def place_order(order: schemas.NewOrder, session: Session):
    """Accepts the order; the worker confirms or rejects it a moment later."""
    await _get(session, models.User, order.user_id)
    product = await _get(session, models.Product, order.product_id)
    placed = models.Order(**order.model_dump(), total_cents=order.quantity * product.price_cents)
    session.add(placed)
    await session.commit()
    try:
        await queue.push("confirm_order", order_id=placed.id)
    except RedisError:
        log.exception("order %s stays pending until the scheduler asks for it again", placed.id)
    return placed


@router.get("/orders/{order_id}", tags=["orders"], response_model=schemas.Order)
async def get_order(order_id: int, session: Session):
    return await _get(session, models.Order, order_id)


@router.get("/reports", tags=["reports"], response_model=list[schemas.SalesReport])
async def list_reports(session: Session, limit: Limit = 10):
    """The newest first; one is made every `SHOP_SCHEDULER_INTERVAL` seconds."""
    return await session.scalars(
        select(models.SalesReport).order_by(models.SalesReport.id.desc()).limit(limit)
    )


async def _get(session: Session, kind: type[models.Base], identity: int) -> models.Base:
    found = await session.get(kind, identity)
    if found is None:
        raise HTTPException(404, f"There is no {kind.__name__.lower()} {identity}.")
    return found
