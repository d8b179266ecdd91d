"""What a stranger types first: `make demo`, what it says to type next, and `make demo-down`."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from conftest import ROOT, docker, free_port, holdings, wait

GATEWAY = "ephemera-preview-gateway"
NUMBERS = (41, 42)


def make(target: str, port: int) -> str:
    """What a target of the Makefile prints, in the virtual environment that this test runs in."""
    # What `make integration` tells the programs below it is not for this one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--no-print-directory", "--old-file=.venv/stamp", target],
        cwd=ROOT,
        env=environment | {"DEMO_PORT": str(port), "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def ask(port: int, number: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    headers = {"Host": f"shop-pr-{number}.localhost:{port}", "Content-Type": "application/json"}
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def given(port: int, number: int, path: str, body: dict[str, Any] | None = None) -> Any:
    status, text = ask(port, number, path, body)
    assert status < 300, (number, path, status, text)
    return json.loads(text)


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[int, str]]:
    """Where the demo listens, and what it printed; it is taken down in the end."""
    held = docker("ps", "--all", "--quiet", "--filter", f"name=^{GATEWAY}$")
    if held or (ROOT / ".demo").exists():
        pytest.fail("A demo or a gateway is up on this engine: `make demo-down` before the tests.")
    before, port = holdings(), free_port()
    try:
        yield port, make("demo", port)
    finally:
        gone = make("demo-down", port)
    assert "All that the demo made is gone." in gone
    assert holdings() == before
    assert not (ROOT / ".demo").exists()
    with pytest.raises(ConnectionRefusedError):
        ask(port, 41, "/")
    assert "There is nothing of the demo." in make("demo-down", port)


def test_two_pull_requests_of_one_app_live_side_by_side(demo: tuple[int, str]) -> None:
    port, said = demo
    releases, columns = set(), {}
    for number in NUMBERS:
        assert f"http://shop-pr-{number}.localhost:{port}/docs" in said
        assert "swagger-ui" in ask(port, number, "/docs")[1]
        health = given(port, number, "/health/deep")
        assert (health["status"], health["checks"]) == ("ok", {"database": "ok", "redis": "ok"})
        releases.add(health["release"])
        columns[number] = set(given(port, number, "/users")[0])
    assert len(releases) == 2
    # 41 adds a column by its migration, 42 renames one, and neither sees what the other did.
    assert columns[41] == {"id", "email", "phone", "created_at"}
    assert columns[42] == {"id", "email_address", "created_at"}

    # Each writes into its own database, and has a worker of its own.
    new = {"email": "new@example.com", "phone": "+49 30 1234"}
    user = given(port, 41, "/users", new)["id"]
    assert new["email"] in {each["email"] for each in given(port, 41, "/users")}
    assert new["email"] not in {each["email_address"] for each in given(port, 42, "/users")}
    order = {"user_id": user, "product_id": 1, "quantity": 1}
    placed = given(port, 41, "/orders", order)["id"]
    wait(lambda: given(port, 41, f"/orders/{placed}")["status"] == "confirmed", 10)


def test_each_has_exactly_one_scheduler(demo: tuple[int, str]) -> None:
    port, dummy = demo
    for number in NUMBERS:
        name = f"shop-pr-{number}-scheduler"
        assert docker("ps", "--all", "--format", "{{.Names}}", "--filter", f"name={name}") == (
            f"{name}-1"
        )
        wait(lambda number=number: given(port, number, "/reports"), 10)
        # It asks for a report as it starts and each minute from then on: two would ask for more.
        made = [datetime.fromisoformat(r["created_at"]) for r in given(port, number, "/reports")]
        assert all((b - a).total_seconds() > 50 for a, b in pairwise(sorted(made)))


def test_what_it_says_to_type_next_does_what_it_says(demo: tuple[int, str]) -> None:
    """All of it, as printed; the last command takes one of the two down."""
    port, said = demo
    script = said.split("Try next, in this folder:", 1)[1].split("and when you", 1)[0]
    assert script.count("ansible-playbook ") == 4
    typed = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert typed.returncode == 0, typed.stdout + typed.stderr
    assert "shop-pr-41 already serves commit" in typed.stdout
    assert ask(port, 41, "/")[0] == 404
    assert given(port, 42, "/health/deep")["status"] == "ok"
