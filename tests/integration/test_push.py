# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images for a cluster: in a real registry, by the real engine, and by a BuildKit without one."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _build
from ansible_collections.ephemera.preview.plugins.module_utils._build import (
    BuildFailed,
    Made,
    Wanted,
)
from ansible_collections.ephemera.preview.plugins.module_utils._registry import Registries
from builds import (
    BASE,
    PASSWORD,
    Preview,
    Registry,
    a_builder_apart,
    docker,
    new_previews,
    start_registry,
)
from clusters import Cluster

COMMIT, NEXT = "0123456789ab", "ba9876543210"


@dataclasses.dataclass
class Pushed:
    """A preview whose images go to a registry."""

    preview: Preview
    host: str
    login: tuple[dict[str, str], ...]
    builder: str = ""

    @property
    def registries(self) -> Registries:
        return Registries(self.login)

    @property
    def base(self) -> str:
        """A base image that whoever builds can have."""
        return f"{self.host}/acme/base:1"

    def repository(self, service: str = "web") -> str:
        return f"{self.host}/previews/ephemera-preview/{self.preview.name}/{service}"

    def service(self, tag: str = COMMIT, **build: Any) -> Wanted:
        return Wanted("web", f"{self.repository()}:{tag}", "build", {"context": ".", **build})

    def make(self, *services: Wanted, **request: Any) -> dict[str, Made]:
        options = {"registries": self.login, "builder": self.builder, "push": True, **request}
        return self.preview.make(*(services or (self.service(),)), **options).images

    def build(self, dockerfile: str, /, *services: Wanted, **request: Any) -> dict[str, Made]:
        self.preview.write({"Dockerfile": dockerfile})
        return self.make(*services, **request)

    def refused(self, dockerfile: str, /, **request: Any) -> str:
        with pytest.raises(BuildFailed) as caught:
            self.build(dockerfile, **request)
        assert not list(self.preview.folder.glob(".build-*"))
        return str(caught.value)

    def deployed(self, made: Made) -> dict[str, dict[str, str]]:
        """What the state of a preview in a cluster says of it."""
        known_as = f"{self.repository()}@{made.id}"
        return {"web": {"digest": "d1", "image_id": known_as}}


@pytest.fixture
def preview(tmp_path: Path) -> Iterator[Preview]:
    for new in new_previews(tmp_path):
        yield new()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    yield from start_registry(tmp_path / "registry", auth=True)


@pytest.fixture
def pushed(preview: Preview, registry: Registry) -> Pushed:
    registry.push(BASE, "acme/base:1")
    return Pushed(preview, registry.host, registry.login)


@pytest.fixture
def remote(pushed: Pushed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pushed]:
    """The same, built by a BuildKit elsewhere, on a machine without an engine."""
    with a_builder_apart(tmp_path) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield dataclasses.replace(pushed, builder="apart")


@pytest.fixture(params=["by the engine", "by a builder without one"])
def either(request: Any) -> Pushed:
    return request.getfixturevalue("pushed" if request.param == "by the engine" else "remote")


# -- what is built --------------------------------------------------------------------------------


def test_what_is_built_is_pushed_and_pinned(either: Pushed) -> None:
    before = engine_images(either)
    cache = Wanted("cache", "redis.invalid/redis:8", "pull", {})
    text = (
        f"FROM {either.base}\nLABEL said=so\nRUN cat /root/.docker/config.json || echo none >/n\n"
    )
    made = either.build(text, either.service(), cache)
    web, tag = made["web"], f"{either.repository()}:{COMMIT}"
    assert (web.ref, web.how, web.digest) == (tag, "built", f"{tag}@{web.id}")
    assert made["cache"] == Made(cache.image, "", "left", "", 0.0)
    assert either.registries.digest(tag) == web.id
    assert either.registries.config(web.digest)["Labels"]["said"] == "so"
    assert either.registries.tags(either.repository()) == [COMMIT]
    assert engine_images(either) == before
    assert PASSWORD not in "".join(map(read, either.preview.folder.rglob("*")))


def engine_images(pushed: Pushed) -> str:
    format_ = [
        "--format",
        "{{.Repository}}:{{.Tag}}",
        "--filter",
        f"reference={pushed.host}/*/*/*/*",
    ]
    return docker("--host", "unix:///var/run/docker.sock", "image", "ls", *format_)


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def test_what_is_there_is_not_pushed_again(either: Pushed) -> None:
    first = either.build(f"FROM {either.base}\nRUN date +%N >/when\n")["web"]
    again = either.make()["web"]
    assert (again.how, again.id) == ("kept", first.id), "BuildKit has it, and so has the registry"

    previous = either.deployed(first)
    either.preview.write({"Dockerfile": "FROM nothing.invalid\n"})
    kept = either.make(either.service(digest="d1"), previous=previous)["web"]
    assert (kept.how, kept.digest) == ("kept", first.digest)
    named = either.make(either.service(NEXT, digest="d1"), previous=previous)["web"]
    assert (named.how, named.id) == ("retagged", first.id)
    assert either.registries.digest(f"{either.repository()}:{NEXT}") == first.id


def test_a_commit_built_again_leaves_what_was_a_name(either: Pushed) -> None:
    text = f"FROM {either.base}\nRUN date +%N >/when\n"
    first = either.build(text)["web"]
    second = either.build(text, fresh=True)["web"]
    assert (second.how, second.id == first.id) == ("built", False)
    tags = either.registries.tags(either.repository())
    assert sorted(tags) == [COMMIT, f"former-{first.id[7:19]}"]
    removed = either.registries.delete(either.repository())
    assert (sorted(removed.digests), removed.refused) == (sorted([first.id, second.id]), "")
    assert either.registries.tags(either.repository()) == []
    assert either.registries.delete(either.repository()).digests == []


@pytest.mark.parametrize("way", ["pushed", "remote"])
def test_a_step_with_a_cache_mount_of_its_base(
    request: pytest.FixtureRequest, registry: Registry, way: str
) -> None:
    """That is seen as it is built, and built once more; only what counts gets a name."""
    name = f"t{uuid.uuid4().hex[:6]}"
    step = f"FROM {BASE}\nONBUILD RUN --mount=type=cache,target=/c echo {name} >/seen\n"
    docker("build", "-q", "-t", name, "-", input=step)
    registry.push(name, "acme/onbuild:1")
    docker("image", "rm", name)
    pushed = request.getfixturevalue(way)
    made = pushed.build(f"FROM {registry.host}/acme/onbuild:1\n")["web"]
    assert made.how == "built"
    assert pushed.registries.tags(pushed.repository()) == [COMMIT]
    assert pushed.registries.digest(made.ref) == made.id


def test_what_does_harm_is_refused_before_it_has_a_name(either: Pushed) -> None:
    message = either.refused(f"FROM {either.base}\nLABEL ephemera.preview/owner=me\n")
    assert message.startswith(f"{either.repository()}:{COMMIT} carries the label ephemera.preview")
    assert either.registries.tags(either.repository()) == []
    assert engine_images(either) == ""


def test_check_mode_tells_and_does_nothing(pushed: Pushed) -> None:
    request = pushed.preview.request._replace(
        services=(pushed.service(),), registries=pushed.login, push=True
    )
    assert _build.make(request, check=True).images["web"].how == "built"
    assert pushed.registries.tags(pushed.repository()) == []


def test_names_of_others(pushed: Pushed) -> None:
    for image in ("ephemera-preview/other-pr-1/web:1", pushed.preview.image(), "r.org/acme/web:1"):
        with pytest.raises(BuildFailed, match="is no image of"):
            pushed.make(Wanted("web", image, "build", {"context": "."}))


def test_the_image_of_another_preview(remote: Pushed) -> None:
    other = f"{remote.host}/previews/ephemera-preview/other-pr-1/web:1"
    assert "previews don't share images" in remote.refused(f"FROM {other}\n")


# -- what fails -----------------------------------------------------------------------------------


def test_a_push_that_is_refused(either: Pushed) -> None:
    wrong = tuple(each | {"password": "wrong-pass"} for each in either.login)
    message = either.refused("FROM scratch\nCOPY Dockerfile /\n", registries=wrong)
    assert "the registry wants a login for this, or not the one it was given" in message
    assert "preview_registries" in message
    assert engine_images(either) == ""
    assert "wrong-pass" not in message


def test_a_registry_that_is_not_there(pushed: Pushed) -> None:
    away = dataclasses.replace(pushed, host="registry.invalid")
    message = away.refused("FROM nothing.invalid\n")
    assert "services.web: the registry registry.invalid can't be reached" in message


def test_without_an_engine(pushed: Pushed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    assert "preview_buildx_builder may name a remote builder" in pushed.refused(f"FROM {BASE}\n")


# -- images that CI pushes ------------------------------------------------------------------------


def test_an_image_of_ci_is_used_as_ci_named_it(
    pushed: Pushed, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = registry.push(BASE, "acme/shop:5f3c9d2f").partition("@")[2]
    image = f"{registry.host}/acme/shop:5f3c9d2f"
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    planned = Wanted("web", f"{pushed.repository()}:{COMMIT}", "prebuilt", {}, image)
    made = pushed.make(planned)["web"]
    assert made[:4] == (planned.image, digest, "present", f"{image}@{digest}")


def test_an_image_that_ci_does_not_push(pushed: Pushed, registry: Registry) -> None:
    image = f"{registry.host}/acme/shop:1"
    planned = Wanted("web", f"{pushed.repository()}:{COMMIT}", "prebuilt", {}, image)
    with pytest.raises(BuildFailed, match=f"{image} did not appear within 3 seconds"):
        pushed.make(planned, images_timeout=3)
    with pytest.raises(BuildFailed, match="services.web: the registry answers 401"):
        pushed.make(planned, registries=())


# -- where it is for ------------------------------------------------------------------------------


def test_a_pod_runs_what_was_pinned(cluster: Cluster, preview: Preview) -> None:
    facts = cluster.facts
    login = {"registry": facts["registry"], "username": facts["registry_username"],
             "password": facts["registry_password"]}  # fmt: skip
    pushed = Pushed(preview, facts["registry"], (login,))
    word = uuid.uuid4().hex
    preview.write({"Dockerfile": f'FROM {BASE}\nRUN echo {word} >/word\nCMD ["cat", "/word"]\n'})
    asked = pushed.preview.request._replace(
        services=(pushed.service(),), registries=(login,), push=True
    )
    params = {
        **asked._asdict(),
        "services": [pushed.service()._asdict()],
        "memory": 4096,
        "disk": 20,
    }
    result = _build.run(params, check=False)
    try:
        assert result["changed"]
        assert list(result["pins"]) == [f"{pushed.repository()}:{COMMIT}"]
        (pin,) = result["pins"].values()
        with cluster.namespace() as namespace:
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "web"},
                "spec": {
                    "restartPolicy": "Never",
                    "imagePullSecrets": [{"name": "registries"}],
                    "containers": [{"name": "main", "image": pin}],
                },
            }
            cluster.apply(namespace, cluster.pull_secret("registries"), pod)
            done = "--for=jsonpath={.status.phase}=Succeeded"
            cluster.kubectl("wait", "-n", namespace, done, "pod/web", "--timeout=60s")
            assert cluster.kubectl("logs", "-n", namespace, "web") == word
            template = "-o=jsonpath={.status.containerStatuses[0].imageID}"
            image_id = cluster.kubectl("get", "-n", namespace, "pod/web", template)
        # By this id the next run knows it.
        assert image_id.endswith(pin.partition("@")[2])
        previous = {"web": {"digest": "d1", "image_id": image_id}}
        again = _build.run(
            dict(params, services=[pushed.service(digest="d1")._asdict()], previous=previous),
            check=False,
        )
        assert not again["changed"]
        assert again["pins"] == result["pins"]
    finally:
        assert pushed.registries.delete(pushed.repository()).refused == ""
