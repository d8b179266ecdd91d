"""What a stranger types first: `make demo`, what it says to type next, and `make demo-down`; on a
Docker host and in a cluster."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from clusters import Cluster
from conftest import ROOT, docker, free_port, holdings, wait

GATEWAY = "ephemera-preview-gateway"
NUMBERS = (41, 42)


def make(goal: str, target: str, port: int) -> str:
    """What a target of the Makefile prints, in the virtual environment that this test runs in."""
    # What `make integration` tells the programs below it is not for this one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--no-print-directory", "--old-file=.venv/stamp", goal, f"TARGET={target}"],
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


@dataclass(frozen=True)
class Demo:
    """A demo that is up: where it listens, and what it printed."""

    port: int
    said: str
    cluster: Cluster | None

    def url(self, number: int) -> str:
        return f"http://shop-pr-{number}.localhost:{self.port}"

    def ask(self, number: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        host = self.url(number).partition("//")[2]
        headers = {"Host": host, "Content-Type": "application/json"}
        sent = json.dumps(body) if body else None
        connection.request("POST" if body else "GET", path, sent, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def given(self, number: int, path: str, body: dict[str, Any] | None = None) -> Any:
        status, text = self.ask(number, path, body)
        assert status < 300, (number, path, status, text)
        return json.loads(text)

    def running(self, number: int, service: str) -> int:
        """How many of a service there are."""
        name = f"shop-pr-{number}"
        if not self.cluster:
            held = docker("ps", "--all", "--quiet", "--filter", f"name={name}-{service}-")
        else:
            selector = f"ephemera.preview/service={service}"
            held = self.cluster.kubectl("get", "pods", "-n", name, "-l", selector, "-o", "name")
        return len(held.split())


def namespaces(cluster: Cluster | None) -> list[str]:
    held = cluster.kubectl("get", "namespaces", "-o", "name").split() if cluster else []
    return [each for each in held if each.startswith("namespace/shop-pr-")]


@pytest.fixture(scope="module", params=["docker", "kubernetes"])
def demo(request: pytest.FixtureRequest) -> Iterator[Demo]:
    """The demo, which is taken down in the end."""
    target = request.param
    cluster = request.getfixturevalue("cluster") if target == "kubernetes" else None
    held = docker("ps", "--all", "--quiet", "--filter", f"name=^{GATEWAY}$")
    if (ROOT / ".demo").exists() or (target == "docker" and held):
        pytest.fail("A demo or a gateway is up on this engine: `make demo-down` before the tests.")
    before = holdings(), namespaces(cluster)
    port = cluster.facts["ingress_http"] if cluster else free_port()
    try:
        yield Demo(port, make("demo", target, port), cluster)
    finally:
        gone = make("demo-down", target, port)
    assert "All that the demo made is gone." in gone
    assert (holdings(), namespaces(cluster)) == before
    assert not (ROOT / ".demo").exists()
    if not cluster:
        assert not is_listening(port)
    assert "There is nothing of the demo." in make("demo-down", target, port)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_two_pull_requests_of_one_app_live_side_by_side(demo: Demo) -> None:
    releases, columns = set(), {}
    for number in NUMBERS:
        assert f"{demo.url(number)}/docs" in demo.said
        assert "swagger-ui" in demo.ask(number, "/docs")[1]
        health = demo.given(number, "/health/deep")
        assert (health["status"], health["checks"]) == ("ok", {"database": "ok", "redis": "ok"})
        releases.add(health["release"])
        columns[number] = set(demo.given(number, "/users")[0])
    assert len(releases) == 2
    # 41 adds a column by its migration, 42 renames one, and neither sees what the other did.
    assert columns[41] == {"id", "email", "phone", "created_at"}
    assert columns[42] == {"id", "email_address", "created_at"}

    # Each writes into its own database, and has a worker of its own.
    new = {"email": "new@example.com", "phone": "+49 30 1234"}
    user = demo.given(41, "/users", new)["id"]
    assert new["email"] in {each["email"] for each in demo.given(41, "/users")}
    assert new["email"] not in {each["email_address"] for each in demo.given(42, "/users")}
    order = {"user_id": user, "product_id": 1, "quantity": 1}
    placed = demo.given(41, "/orders", order)["id"]
    wait(lambda: demo.given(41, f"/orders/{placed}")["status"] == "confirmed")


def test_each_has_exactly_one_scheduler(demo: Demo) -> None:
    for number in NUMBERS:
        assert demo.running(number, "scheduler") == 1
        wait(lambda number=number: demo.given(number, "/reports"))
        # It asks for a report as it starts and each minute from then on: two would ask for more.
        made = [datetime.fromisoformat(r["created_at"]) for r in demo.given(number, "/reports")]
        assert all((b - a).total_seconds() > 30 for a, b in pairwise(sorted(made)))


def test_what_it_says_to_type_next_does_what_it_says(demo: Demo) -> None:
    """All of it, as printed; the last command takes one of the two down."""
    script = demo.said.split("Try next, in this folder:", 1)[1].split("and when you", 1)[0]
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
    assert demo.ask(41, "/")[0] == 404
    assert demo.given(42, "/health/deep")["status"] == "ok"
