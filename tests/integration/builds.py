"""Checkouts to build, and a registry with a password to build from and push to."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _build, _docker
from ansible_collections.ephemera.preview.plugins.module_utils._build import (
    BuildFailed,
    Request,
    Result,
    Wanted,
)
from buildkitd import buildkitd
from packages import had, needed

BASE = "busybox:1.37"
PASSWORD = "pull-me-9f3b"
# What `htpasswd -Bbn ci pull-me-9f3b` prints.
HTPASSWD = "ci:$2y$05$ndg8FhfTzfOPx2.mGPucSuWdvsLdkD0C1avon9I8T4Ha6int5a1qu\n"


def docker(*arguments: str, check: bool = True, **options: Any) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=False, **options
    )
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


class Preview:
    """A preview's checkout, and what is asked of its builds."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.app = name.split("-", maxsplit=1)[0]
        self.folder = folder / name
        self.checkout = self.folder / "source"
        self.checkout.mkdir(parents=True)
        self.request = Request(
            name=name, folder=str(self.folder), checkout=str(self.checkout), services=(), timeout=90
        )

    def image(self, service: str = "web", tag: str = "0123456789ab") -> str:
        return f"ephemera-preview/{self.name}/{service}:{tag}"

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.checkout / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def service(self, name: str = "web", tag: str = "0123456789ab", **build: Any) -> Wanted:
        return Wanted(name, self.image(name, tag), "build", {"context": ".", **build})

    def make(self, *services: Wanted, **request: Any) -> Result:
        return _build.make(self.request._replace(services=services or (self.service(),), **request))

    def build(self, dockerfile: str, /, build: dict[str, Any] | None = None, **request: Any) -> str:
        """Build one image out of a Dockerfile. Its id."""
        self.write({"Dockerfile": dockerfile})
        return self.make(self.service(**(build or {})), **request).images["web"].id

    def refused(
        self, dockerfile: str, /, build: dict[str, Any] | None = None, **request: Any
    ) -> BuildFailed:
        with pytest.raises(BuildFailed) as caught:
            self.build(dockerfile, build, **request)
        assert not docker("image", "ls", "--quiet", self.image())
        assert not list(self.folder.glob(".build-*"))
        return caught.value

    def run(self, *command: str, image: str = "") -> str:
        return docker("run", "--rm", "--network=none", image or self.image(), *command)


def new_previews(folder: Path) -> Iterator[Callable[[], Preview]]:
    """Makes previews of one app, whose images and caches are gone afterwards."""
    made: list[Preview] = []
    app = f"t{uuid.uuid4().hex[:6]}"

    def new() -> Preview:
        made.append(Preview(folder, f"{app}-pr-{len(made) + 41}"))
        return made[-1]

    yield new
    for preview in made:
        mine = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter",
                      f"reference=ephemera-preview/{preview.name}/*").split()  # fmt: skip
        if mine:
            docker("image", "rm", "--force", *mine)
        subprocess.run(_docker.cache_prune(preview.name), check=True, capture_output=True)


@dataclasses.dataclass
class Registry:
    host: str
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def login(self) -> tuple[dict[str, str], ...]:
        return ({"registry": self.host, "username": "ci", "password": PASSWORD},)

    def docker(self, *arguments: str) -> str:
        return docker("--config", str(self.folder / "docker"), *arguments)

    def push(self, image: str, name: str) -> str:
        """Push an image under a name, as CI does; the engine forgets the name."""
        docker("tag", image, f"{self.host}/{name}")
        self.docker("push", "--quiet", f"{self.host}/{name}")
        digest = docker(
            "image", "inspect", "--format", "{{json .RepoDigests}}", f"{self.host}/{name}"
        )
        docker("image", "rm", f"{self.host}/{name}")
        return next(each for each in json.loads(digest) if each.startswith(self.host))

    def tag(self, name: str, old: str, new: str) -> None:
        """Give what was pushed another tag, without any engine."""
        place = f"http://{self.host}/v2/{name}/manifests/"
        kind = "application/vnd.docker.distribution.manifest.v2+json"
        password = base64.b64encode(f"ci:{PASSWORD}".encode()).decode()
        login = {"Authorization": f"Basic {password}"}
        asked = urllib.request.Request(place + old, headers=login | {"Accept": kind})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            manifest = answer.read()
        headers = login | {"Content-Type": kind}
        put = urllib.request.Request(place + new, manifest, headers, method="PUT")
        urllib.request.urlopen(put, timeout=10).close()


def start_registry(folder: Path, auth: bool) -> Iterator[Registry]:
    registry = needed("docker-registry", "docker-registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    folder.mkdir(exist_ok=True)
    (folder / "htpasswd").write_text(HTPASSWD)
    config: dict[str, Any] = {
        "version": 0.1,
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "data")},
            "delete": {"enabled": True},
        },
        "http": {"addr": host},
    }
    if auth:
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))
    auths = {host: {"username": "ci", "password": PASSWORD}}
    (folder / "docker").mkdir()
    (folder / "docker/config.json").write_text(json.dumps({"auths": auths}))
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [registry, "serve", str(folder / "config.yml")], stdout=log, stderr=log
        )
    for _attempt in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(host.split(":")[1]))) == 0:
                break
        time.sleep(0.05)
    yield Registry(host, folder)
    server.terminate()
    server.wait()


@contextlib.contextmanager
def a_builder_apart(folder: Path) -> Iterator[dict[str, str]]:
    """A BuildKit daemon, for machines without an engine: what such a one has in its environment,
    where buildx knows it by the name `apart`."""
    program = had(buildkitd)
    address, said = f"unix://{folder}/buildkitd.sock", folder / "buildkitd.log"
    command = [program, "--addr", address, "--root", str(folder / "buildkit")]
    command += ["--config", "/dev/null", "--containerd-worker=false"]
    with said.open("w") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    environment = {
        "DOCKER_CONFIG": str(folder / "client"),
        "DOCKER_HOST": "unix:///nonexistent.sock",
    }
    try:
        create = ["buildx", "create", "--name", "apart", "--driver", "remote", address]
        docker(*create, env=os.environ | environment)
        while "running server" not in said.read_text():
            assert daemon.poll() is None, said.read_text()
            time.sleep(0.1)
        yield environment
    finally:
        daemon.terminate()
        daemon.wait()
        cgroups = Path("/sys/fs/cgroup")
        for group in [*cgroups.glob("*/buildkit"), cgroups / "buildkit"]:
            with contextlib.suppress(OSError):  # another daemon's
                group.rmdir()
