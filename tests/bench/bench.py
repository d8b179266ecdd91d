"""How long previews take, as ratios against plain tools doing the same work.

These machines are noisy, so nothing is said in seconds alone: ours, `docker compose` and the
engine's own API take turns in one run, and medians are compared.
Usage: bench.py [--rounds N] [--markdown]
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "testbed"), str(ROOT / "tests" / "integration")]

from conftest import TINY, Platform, docker, free_port  # noqa: E402
from repositories import Repository  # noqa: E402
from visitors import Visitors  # noqa: E402

SILENCE = "silence of a redeploy"
EMPTY = "- hosts: all\n  gather_facts: false\n  tasks: []\n"

FETCH = """\
set -eu
repository=$1 commit=$2 folder=$3
if [ ! -d "$folder/.git" ]; then git init --quiet "$folder"; fi
git -C "$folder" fetch --quiet --depth 1 "$repository" "$commit"
git -C "$folder" checkout --quiet --force FETCH_HEAD
"""
# What a person would type for the same: fetch the commit, build, start the data service, migrate,
# seed what is new, start the rest, and wait for an answer.
PLAIN_UP = (
    '[ -d "$3" ] && new= || new=yes\n'
    + FETCH
    + """\
project=$4
cd "$folder"
export PREVIEW_NAME=$project
docker compose --project-name "$project" --progress quiet build --quiet
docker compose --project-name "$project" --progress quiet up --detach --wait cache
docker compose --project-name "$project" --progress quiet run --rm --no-TTY web \\
    sh -c 'echo migrated >> /data/log'
[ -z "$new" ] || docker compose --project-name "$project" --progress quiet run --rm --no-TTY web \\
    sh -c 'echo seeded >> /data/log'
docker compose --project-name "$project" --progress quiet up --detach
port=$(docker compose --project-name "$project" port web 8080)
until curl --silent --fail --output /dev/null "http://127.0.0.1:${port##*:}/health"; do
    sleep 0.1
done
"""
)
PLAIN_DOWN = (
    'cd "$1" && docker compose --project-name "$2" --progress quiet down --volumes --rmi local'
)
PLAIN_LIST = "docker compose ls --all"
# A step whose work is the same for everybody, and that a new commit has to do again.
SLOW = "RUN sleep 6\n"


class Engine(http.client.HTTPConnection):
    """The engine's own API, without any client."""

    def __init__(self) -> None:
        super().__init__("docker")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        data = json.dumps(body) if kind == "application/json" and body is not None else body
        self.request(method, path, data, {"Content-Type": kind} if body is not None else {})
        answer = self.getresponse()
        said = answer.read()
        # What is there already, or is not there, is as good.
        if answer.status >= 400 and answer.status not in (404, 409):
            raise RuntimeError(f"{method} {path}: {answer.status} {said!r}")
        try:
            return json.loads(said) if said else None
        except ValueError:
            return None


def raw_list() -> None:
    engine = Engine()
    engine.ask("GET", "/containers/json?all=true")
    engine.ask("GET", "/volumes")
    engine.ask("GET", "/networks")


class Raw:
    """The tiny app by the engine's API."""

    def __init__(self, project: str, folder: str) -> None:
        self.project = project
        self.folder = folder
        self.engine = Engine()
        self.labels = {"com.docker.compose.project": project}

    def build(self) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for name in ("Dockerfile", "www"):
                archive.add(f"{self.folder}/{name}", name)
        path = f"/build?t={self.project}-web&rm=true"
        self.engine.ask("POST", path, packed.getvalue(), "application/x-tar")

    def start(self, name: str, image: str, volume: str, target: str, **more: Any) -> str:
        """Start a container in the place of the one of that name."""
        full = f"{self.project}-{name}"
        self.engine.ask("DELETE", f"/containers/{full}?force=true")
        host = {
            "Binds": [f"{self.project}_{volume}:{target}"],
            "NetworkMode": self.project,
            "PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
            "Init": True,
        }
        wanted = {"Image": image, "Labels": self.labels, "HostConfig": host, **more}
        made = self.engine.ask("POST", f"/containers/create?name={full}", wanted)
        self.engine.ask("POST", f"/containers/{full}/start")
        return str(made["Id"])

    def up(self) -> None:
        self.build()
        self.engine.ask("POST", "/networks/create", {"Name": self.project, "Labels": self.labels})
        for volume in ("data", "cache"):
            named = {"Name": f"{self.project}_{volume}", "Labels": self.labels}
            self.engine.ask("POST", "/volumes/create", named)
        web = f"{self.project}-web"
        hooks = ["migrated"]
        if self.engine.ask("GET", f"/containers/{self.project}-cache/json").get("Id") is None:
            self.start("cache", "redis:8", "cache", "/data")
            hooks.append("seeded")
        for done in hooks:
            command = ["sh", "-c", f"echo {done} >> /data/log"]
            once = self.start("hook", web, "data", "/data", Cmd=command)
            self.engine.ask("POST", f"/containers/{once}/wait")
            self.engine.ask("DELETE", f"/containers/{once}?force=true")
        ident = self.start("web", web, "data", "/data", ExposedPorts={"8080/tcp": {}})
        settings = self.engine.ask("GET", f"/containers/{ident}/json")["NetworkSettings"]
        port = settings["Ports"]["8080/tcp"][0]["HostPort"]
        while True:
            try:
                asked = http.client.HTTPConnection("127.0.0.1", int(port), timeout=5)
                asked.request("GET", "/health")
                if asked.getresponse().status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)

    def down(self) -> None:
        label = f"%7B%22label%22:[%22com.docker.compose.project={self.project}%22]%7D"
        for one in self.engine.ask("GET", f"/containers/json?all=true&filters={label}"):
            self.engine.ask("DELETE", f"/containers/{one['Id']}?force=true&v=true")
        for one in self.engine.ask("GET", f"/networks?filters={label}"):
            self.engine.ask("DELETE", f"/networks/{one['Id']}")
        for one in self.engine.ask("GET", f"/volumes?filters={label}")["Volumes"] or []:
            self.engine.ask("DELETE", f"/volumes/{one['Name']}?force=true")
        self.engine.ask("DELETE", f"/images/{self.project}-web?force=true")


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
        self.salt = uuid.uuid4().hex
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
        self.counting = False

    def app(self, text: str, more: str = "") -> dict[str, str | bytes | None]:
        """The tiny app, on a port of its own choice where it is started without us. No earlier
        bench has built it."""
        compose = str(TINY["compose.yaml"]).replace('"8080:8080"', '"127.0.0.1::8080"')
        return TINY | {
            "Dockerfile": str(TINY["Dockerfile"]) + more,
            "compose.yaml": compose,
            "www/index.html": f"{text} {self.salt}\n",
        }

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Note tasks and each call of `docker`, by one put in front of it; time nothing."""
        folder, path = self.folder / "bin", os.environ["PATH"]
        real = shutil.which("docker")
        folder.mkdir()
        (folder / "docker").write_text(f'#!/bin/sh\necho "$1 $2" >>{self.log}\nexec {real} "$@"\n')
        (folder / "docker").chmod(0o755)
        os.environ["PATH"], self.counting = f"{folder}:{path}", True
        yield
        os.environ["PATH"], self.counting = path, False
        self.clock.times.clear()

    def play(self, what: str, name: str, **settings: Any) -> None:
        self.log.write_text("")
        played = self.clock.time(what, lambda: self.platform.play(name, **settings)).ok()
        if self.counting:
            self.clock.tasks[what] = played.tasks
            self.clock.calls[what] = len(self.log.read_text().splitlines())

    def plain(self, what: str, script: str, *arguments: str) -> None:
        command = ["sh", "-c", script, "plain", *arguments]
        self.clock.time(what, lambda: subprocess.run(command, check=True, capture_output=True))

    def raw(self, what: str, raw: Raw, commit: str) -> None:
        def work() -> None:
            fetch = ["sh", "-c", FETCH, "fetch", str(self.repository.path), commit, raw.folder]
            subprocess.run(fetch, check=True, capture_output=True)
            raw.up()

        self.clock.time(what, work)

    def nothing(self) -> None:
        self.clock.time("empty play", lambda: self.platform.play(str(self.empty)).ok())

    def round(self, number: int) -> None:
        # A commit for each, so that none finds in the builder's cache what another has built.
        first, second, third, plain_first, plain_second, raw_first, raw_second = (
            self.repository.pull_request(number, f"{n}", files=self.app(f"{number} {n}"))
            for n in range(7)
        )
        project, checkout = f"plain-{number}", str(self.folder / f"plain{number}")
        path = str(self.repository.path)
        plain = (path, plain_second, checkout, project)
        raw = Raw(f"raw-{number}", str(self.folder / f"raw{number}"))
        self.nothing()
        self.plain("compose up", PLAIN_UP, path, plain_first, checkout, project)
        self.play("up", "up", preview_number=number, preview_commit=first)
        self.raw("raw up", raw, raw_first)
        self.plain("compose redeploy", PLAIN_UP, *plain)
        self.play("redeploy", "up", preview_number=number, preview_commit=second)
        self.raw("raw redeploy", raw, raw_second)
        self.plain("compose no change", PLAIN_UP, *plain)
        for _again in range(3):
            self.play("no change", "up", preview_number=number, preview_commit=second)
            self.nothing()
        with Visitors(lambda: self.platform.get(number)) as visitors:
            self.platform.up(number, third).ok()
            time.sleep(1)
        self.clock.times.setdefault(SILENCE, []).append(visitors.silence)
        self.plain("compose list", PLAIN_LIST)
        self.play("list", "list")
        self.clock.time("raw list", raw_list)
        self.plain("compose down", PLAIN_DOWN, checkout, project)
        self.play("down", "down", preview_number=number)
        self.clock.time("raw down", raw.down)
        self.slow(number + 100)

    def slow(self, number: int) -> None:
        """An app whose build alone takes the plain way more than five seconds."""
        commit = self.repository.pull_request(number, "s", files=self.app(f"{number}", SLOW))
        project, checkout = f"plain-{number}", str(self.folder / f"plain{number}")
        path = str(self.repository.path)
        self.play("slow up", "up", preview_number=number, preview_commit=commit)
        self.play("down", "down", preview_number=number)
        # Neither finds in the builder's cache what the other has built.
        commit = self.repository.pull_request(number, "t", files=self.app(f"{number} t", SLOW))
        self.plain("compose slow up", PLAIN_UP, path, commit, checkout, project)
        self.plain("compose down", PLAIN_DOWN, checkout, project)

    def run(self, rounds: int) -> None:
        self.platform.play("gateway").ok()
        numbers = [*range(1, rounds + 2), *range(101, rounds + 102)]
        try:
            print("a round to count tasks and calls", file=sys.stderr, flush=True)
            with self.counted():
                self.round(rounds + 1)
            for number in range(1, rounds + 1):
                print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
                self.round(number)
        finally:
            held = docker("ps", "--all", "--format", '{{.Label "com.docker.compose.project"}}')
            for number in numbers:
                name, folder = f"plain-{number}", self.folder / f"plain{number}"
                if self.platform.name(number) in held.splitlines():
                    self.platform.play("down", preview_number=number)
                if name in held.splitlines():
                    down = ["sh", "-c", PLAIN_DOWN, "plain", str(folder), name]
                    subprocess.run(down, check=False, capture_output=True)
                Raw(f"raw-{number}", "").down()
            self.platform.play("gateway", preview_gateway_state="absent")

    def rows(self) -> list[tuple[str, ...]]:
        clock = self.clock
        compared = (
            ("up", "compose up", "2.0"),
            ("up", "raw up", ""),
            ("redeploy", "compose redeploy", "2.0"),
            ("redeploy", "raw redeploy", ""),
            ("slow up", "compose slow up", "1.2"),
            ("down", "compose down", "2.0"),
            ("down", "raw down", ""),
            ("no change", "empty play", "1.5"),
            ("no change", "compose no change", ""),
            ("list", "empty play", ""),
            ("list", "compose list", ""),
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


def options(documentation: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(documentation).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


def show(rows: list[tuple[str, ...]], *, markdown: bool) -> None:
    """Print a table, its heading first."""
    heading = rows[0]
    if markdown:
        rows = [heading, ("---",) * len(heading), *rows[1:]]
        print("\n".join("| " + " | ".join(row) + " |" for row in rows))
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(heading))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def main() -> None:
    chosen = options(__doc__)
    heading = ("ours", "median", "against", "median", "ratio", "goal", "tasks", "docker calls")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder))
        bench.run(chosen.rounds)
        show([heading, *bench.rows()], markdown=chosen.markdown)
        silence = bench.clock.times[SILENCE]
        print(
            f"\nA visitor has no answer for {bench.clock.median(SILENCE):.2f} s of a redeploy ",
            end="",
        )
        print(f"(median; {min(silence):.2f} to {max(silence):.2f} s).")


if __name__ == "__main__":
    main()
