"""The whole shop, through its URL: `SHOP_URL=http://localhost:8000 pytest tests/test_smoke.py`."""

import os
import time
from collections.abc import Iterator

import httpx
import pytest

URL = os.environ.get("SHOP_URL")

pytestmark = pytest.mark.skipif(URL is None, reason="SHOP_URL is not set")


@pytest.fixture(scope="module")
def shop() -> Iterator[httpx.Client]:
    with httpx.Client(base_url=URL, timeout=10) as client:
        yield client


def wait_for_order(shop: httpx.Client, order_id: int) -> dict:
    for _attempt in range(50):
        order = shop.get(f"/orders/{order_id}").json()
        if order["status"] != "pending":
            return order
        time.sleep(0.2)
    raise AssertionError(f"order {order_id} is still pending after 10 s: does the worker run?")


def new_product(shop: httpx.Client, stock: int) -> dict:
    answer = shop.post(
        "/products",
        json={"sku": f"T-{time.time_ns()}", "name": "Test", "price_cents": 250, "stock": stock},
    )
    assert answer.status_code == 201
    return answer.json()


def test_health(shop: httpx.Client) -> None:
    assert shop.get("/health").json()["status"] == "ok"
    assert shop.get("/health/deep").json()["checks"] == {"database": "ok", "redis": "ok"}


def test_the_documentation_needs_no_other_host(shop: httpx.Client) -> None:
    page = shop.get("/docs").text
    assert "https://" not in page
    assert shop.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_a_browser_may_call_from_the_public_url(shop: httpx.Client) -> None:
    headers = {"Origin": URL, "Access-Control-Request-Method": "POST"}
    answer = shop.options("/orders", headers=headers)
    assert answer.headers["access-control-allow-origin"] == URL


def test_there_are_seeded_users(shop: httpx.Client) -> None:
    assert len(shop.get("/users").json()) >= 5


def test_the_worker_confirms_an_order_and_takes_it_from_the_stock(shop: httpx.Client) -> None:
    product = new_product(shop, stock=5)
    user = shop.get("/users").json()[0]
    placed = shop.post(
        "/orders", json={"user_id": user["id"], "product_id": product["id"], "quantity": 2}
    )
    assert placed.status_code == 202
    assert placed.json()["status"] == "pending"
    order = wait_for_order(shop, placed.json()["id"])
    assert (order["status"], order["total_cents"]) == ("confirmed", 500)
    left = {each["id"]: each["stock"] for each in shop.get("/products?limit=200").json()}
    assert left[product["id"]] == 3


def test_the_worker_rejects_what_is_not_in_stock(shop: httpx.Client) -> None:
    product = new_product(shop, stock=1)
    user = shop.get("/users").json()[0]
    placed = shop.post(
        "/orders", json={"user_id": user["id"], "product_id": product["id"], "quantity": 2}
    )
    assert wait_for_order(shop, placed.json()["id"])["status"] == "rejected"


def test_the_scheduler_asks_for_sales_reports(shop: httpx.Client) -> None:
    assert shop.get("/reports").json()


def test_unknown_things_are_404_and_wrong_ones_422(shop: httpx.Client) -> None:
    assert shop.get("/users/0").status_code == 404
    assert shop.post("/orders", json={"user_id": 0}).status_code == 422
