"""How long previews take, as ratios against the plain tool doing the same work.

These machines are noisy, so nothing is said in seconds alone: ours and the plain way take turns in
one run, and medians are compared. Usage: bench.py [--rounds N] [--markdown]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "testbed"), str(ROOT / "tests" / "integration")]

from conftest import TINY, Platform, docker, free_port  # noqa: E402
from repositories import Repository  # noqa: E402

EMPTY = "- hosts: all\n  gather_facts: false\n  tasks: []\n"

# What a person would type for the same: fetch the commit, build, start the data service, migrate,
# start the rest, and wait for an answer.
PLAIN_UP = """\
set -eu
repository=$1 commit=$2 folder=$3 project=$4
if [ ! -d "$folder/.git" ]; then git init --quiet "$folder"; fi
git -C "$folder" fetch --quiet --depth 1 "$repository" "$commit"
git -C "$folder" checkout --quiet --force FETCH_HEAD
cd "$folder"
export PREVIEW_NAME=$project
docker compose --project-name "$project" --progress quiet build --quiet
docker compose --project-name "$project" --progress quiet up --detach --wait cache
docker compose --project-name "$project" --progress quiet run --rm --no-TTY web \\
    sh -c 'echo migrated >> /data/log'
docker compose --project-name "$project" --progress quiet up --detach
port=$(docker compose --project-name "$project" port web 8080)
until curl --silent --fail --output /dev/null "http://127.0.0.1:${port##*:}/health"; do
    sleep 0.1
done
"""
PLAIN_DOWN = (
    'cd "$1" && docker compose --project-name "$2" --progress quiet down --volumes --rmi local'
)


class Engine(http.client.HTTPConnection):
    """The engine's own API, without any client."""

    def __init__(self) -> None:
        super().__init__("docker")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")

    def ask(self, method: str, path: str) -> Any:
        self.request(method, path)
        answer = self.getresponse()
        body = answer.read()
        return json.loads(body) if body else None


def raw_list() -> None:
    engine = Engine()
    engine.ask("GET", "/containers/json?all=true")
    engine.ask("GET", "/volumes")
    engine.ask("GET", "/networks")


def raw_down(project: str) -> None:
    engine = Engine()
    label = json.dumps({"label": [f"com.docker.compose.project={project}"]}).replace('"', "%22")
    label = label.replace(" ", "")
    for container in engine.ask("GET", f"/containers/json?all=true&filters={label}"):
        engine.ask("DELETE", f"/containers/{container['Id']}?force=true&v=true")
    for network in engine.ask("GET", f"/networks?filters={label}"):
        engine.ask("DELETE", f"/networks/{network['Id']}")
    for volume in engine.ask("GET", f"/volumes?filters={label}")["Volumes"] or []:
        engine.ask("DELETE", f"/volumes/{volume['Name']}?force=true")


class Clock:
    """Seconds of each kind of work, in the order in which it was done."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}
        self.tasks: dict[str, int] = {}
        self.calls: dict[str, int] = {}

    def time(self, what: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        done = work()
        self.times.setdefault(what, []).append(time.perf_counter() - began)
        return done

    def median(self, what: str) -> float:
        return statistics.median(self.times[what])


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.log = folder / "calls"
        self.platform = Platform(
            folder / "platform",
            folder / "state",
            free_port(),
            "bench",
            Repository.create(folder / "bench.git"),
        )
        self.repository = self.platform.repository
        self.repository.commit("refs/heads/main", "The tiny app", files=self.app("main"))
        self.empty = folder / "empty.yml"
        self.empty.write_text(EMPTY)
        self.count_docker_calls()

    @staticmethod
    def app(text: str) -> dict[str, str | bytes | None]:
        """The tiny app, on a port of its own choice where it is started without us."""
        compose = str(TINY["compose.yaml"]).replace('"8080:8080"', '"127.0.0.1::8080"')
        return TINY | {"compose.yaml": compose, "www/index.html": text + "\n"}

    def count_docker_calls(self) -> None:
        """Put a `docker` in front of the real one that notes each call."""
        real = shutil.which("docker")
        wrapper = self.folder / "bin" / "docker"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\necho "$1 $2" >>{self.log}\nexec {real} "$@"\n')
        wrapper.chmod(0o755)
        os.environ["PATH"] = f"{wrapper.parent}:{os.environ['PATH']}"

    def play(self, what: str, name: str, **settings: Any) -> None:
        self.log.write_text("")
        played = self.clock.time(what, lambda: self.platform.play(name, **settings)).ok()
        self.clock.tasks[what] = played.tasks
        self.clock.calls[what] = len(self.log.read_text().splitlines())

    def plain(self, what: str, script: str, *arguments: str) -> None:
        command = ["sh", "-c", script, "plain", *arguments]
        self.clock.time(what, lambda: subprocess.run(command, check=True, capture_output=True))

    def round(self, number: int) -> None:
        first, second = (
            self.repository.pull_request(number, f"{n}", files=self.app(f"{number} {n}"))
            for n in (1, 2)
        )
        project, checkout = f"plain-{number}", str(self.folder / f"plain{number}")
        path = str(self.repository.path)
        self.clock.time("empty play", lambda: self.platform.play(str(self.empty)).ok())
        self.plain("compose up", PLAIN_UP, path, first, checkout, project)
        self.play("up", "up", preview_number=number, preview_commit=first)
        self.play("no change", "up", preview_number=number, preview_commit=first)
        self.clock.time("raw list", raw_list)
        self.play("list", "list")
        self.plain("compose redeploy", PLAIN_UP, path, second, checkout, project)
        self.play("redeploy", "up", preview_number=number, preview_commit=second)
        self.plain("compose down", PLAIN_DOWN, checkout, project)
        self.play("down", "down", preview_number=number)
        self.plain("raw up", PLAIN_UP, path, first, checkout, project)
        self.clock.time("raw down", lambda: raw_down(project))
        docker("image", "rm", "--force", f"{project}-web", check=False)
        self.clock.time("empty play", lambda: self.platform.play(str(self.empty)).ok())

    def run(self, rounds: int) -> None:
        self.platform.play("gateway").ok()
        try:
            for number in range(1, rounds + 1):
                print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
                self.round(number)
        finally:
            for number in range(1, rounds + 1):
                self.platform.play("down", preview_number=number)
                folder = self.folder / f"plain{number}"
                if folder.exists():
                    subprocess.run(
                        ["sh", "-c", PLAIN_DOWN, "plain", str(folder), f"plain-{number}"],
                        check=False,
                        capture_output=True,
                    )
            self.platform.play("gateway", preview_gateway_state="absent")

    def rows(self) -> list[tuple[str, ...]]:
        clock = self.clock
        compared = (
            ("up", "compose up", "2.0"),
            ("redeploy", "compose redeploy", "2.0"),
            ("down", "compose down", "2.0"),
            ("down", "raw down", ""),
            ("no change", "empty play", "1.5"),
            ("list", "empty play", ""),
            ("list", "raw list", ""),
        )
        return [
            (
                ours,
                f"{clock.median(ours):.2f} s",
                plain,
                f"{clock.median(plain):.2f} s",
                f"{clock.median(ours) / clock.median(plain):.2f}",
                goal,
                str(clock.tasks[ours]),
                str(clock.calls[ours]),
            )
            for ours, plain, goal in compared
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    heading = ("ours", "median", "against", "median", "ratio", "goal", "tasks", "docker calls")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder))
        bench.run(options.rounds)
        rows = [heading, *bench.rows()]
    if options.markdown:
        rows.insert(1, ("---",) * len(heading))
        print("\n".join("| " + " | ".join(row) + " |" for row in rows))
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(heading))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


if __name__ == "__main__":
    main()
