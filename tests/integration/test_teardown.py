"""Nothing of a preview is left, whatever state it was in, and nothing else is touched."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from conftest import TINY, Platform, docker

COMPOSE = str(TINY["compose.yaml"])
KINDS = {"container": ["rm", "--force", "--volumes"], "network": ["rm"], "volume": ["rm"]}


@contextmanager
def made_by_hand(*things: tuple[str, str]) -> Iterator[None]:
    """Containers, networks and volumes of somebody else's, removed in the end."""
    try:
        for kind, name in things:
            if kind == "container":
                docker("run", "--detach", "--name", name, "busybox:1.37", "sleep", "600")
            else:
                docker(kind, "create", name)
        yield
    finally:
        for kind, name in things:
            docker(kind, *KINDS[kind], name, check=False)


def test_foreign_things_and_neighbours_stay(platform: Platform) -> None:
    """Things named like ours, an image that imitates our labels, and pr-12 beside pr-1."""
    before = platform.traces()
    neighbour = platform.repository.pull_request(12, "Neighbour", files={"www/index.html": "12\n"})
    platform.up(12, neighbour).ok()
    with_neighbour = platform.traces()
    commit = platform.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})
    platform.up(1, commit).ok()
    name = platform.name(1)
    labels = docker("inspect", "--format", "{{json .Config.Labels}}", f"{name}-web-1")
    image = f"{platform.app}-imitation"
    text = "FROM busybox:1.37\n" + "".join(
        f"LABEL {part}\n" for part in labels.strip("{}").replace('":"', '"="').split(",")
    )
    subprocess.run(
        ["docker", "build", "--quiet", "--tag", image, "-"],
        input=text.encode(),
        check=True,
        capture_output=True,
    )
    foreign = [("container", f"{name}-web-2"), ("network", f"{name}_x"), ("volume", f"{name}_x")]
    imitation = f"{platform.app}-imitation"
    try:
        with made_by_hand(*foreign):
            docker("run", "--detach", "--name", imitation, image, "sleep", "600")
            assert "was not made by it" in platform.up(1, commit, preview_size="medium").sentence
            down = platform.down(1).ok()
            for kind, thing in foreign:
                assert f"{kind} {thing} has its name and is not of it" in down.out
                docker(kind, "inspect", thing)
            assert docker("inspect", "--format", "{{.State.Status}}", imitation) == "running"
    finally:
        docker("rm", "--force", imitation, check=False)
        docker("image", "rm", "--force", image, check=False)
    assert platform.traces() == with_neighbour
    assert platform.get(12) == (200, "12\n")
    platform.down(12).ok()
    assert platform.traces() == before


def test_anonymous_volumes_old_images_and_cache_mounts_go_too(platform: Platform) -> None:
    """An image's VOLUMEs, also those of a service that a redeploy drops: Compose forgets them."""
    before = platform.traces()
    volumes = (
        f"{TINY['Dockerfile']}VOLUME /one /two\n"
        f"RUN --mount=type=cache,target=/c echo {platform.app} > /c/x\n"
    )
    extra = COMPOSE.replace(
        "  cache:\n", '  extra:\n    build: .\n    x-preview: {expose: "off"}\n  cache:\n', 1
    )
    first = platform.repository.pull_request(
        1, "With volumes", files={"Dockerfile": volumes, "compose.yaml": extra}
    )
    second = platform.repository.pull_request(
        1, "One service less", files={"compose.yaml": COMPOSE, "www/index.html": "two\n"}
    )
    records = build_records()
    platform.up(1, first).ok()
    platform.up(1, second).ok()
    assert platform.get(1) == (200, "two\n")
    assert build_records() - records, "for whoever looks into a build"
    mount = f'with id "{platform.name(1)}/'
    assert mount in docker("buildx", "du", "--verbose")
    platform.down(1).ok()
    assert mount not in docker("buildx", "du", "--verbose")
    assert not build_records() - records
    assert platform.traces() == before


def build_records() -> set[str]:
    """The builder's own records of builds; it ends old ones by itself."""
    listed = docker("buildx", "history", "ls", "--builder", "default", "--format", "{{json .}}")
    return {json.loads(line)["ref"] for line in listed.splitlines()}


def test_what_was_half_removed_by_hand_goes(platform: Platform) -> None:
    before = platform.traces()
    for number in (1, 2):
        commit = platform.repository.pull_request(number, "A change", files={})
        platform.up(number, commit).ok()
    shutil.rmtree(platform.state / "previews" / platform.name(1))
    platform.down(1).ok()
    for service in ("web", "cache"):
        docker("rm", "--force", f"{platform.name(2)}-{service}-1")
    assert platform.down(2).ok().changed >= 1
    assert platform.traces() == before


def test_every_step_runs_and_what_is_left_is_named(platform: Platform) -> None:
    before = platform.traces()
    commit = platform.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})
    platform.up(1, commit).ok()
    name, blocker = platform.name(1), f"{platform.app}-blocker"
    mounts = ["--network", f"{name}_default", "--volume", f"{name}_data:/data"]
    docker("run", "--detach", "--name", blocker, *mounts, "busybox:1.37", "sleep", "600")
    try:
        down = platform.down(1).refused()
        sentence = down.sentence
        assert down.result["outcome"] == "failed"
        assert f"{name} is not gone, this is left: network {name}_default, volume {name}_data" in (
            sentence
        )
        assert "has active endpoints" in sentence
        assert "volume is in use" in sentence
        left = {line for line in platform.traces() - before if name in line}
        folder = platform.state / "previews" / name
        assert left == {
            f"network {name}_default",
            f"volume {name}_data",
            f"path {folder}",
            f"path {folder / 'preview.json'}",
        }
        assert platform.get(1)[0] == 404
    finally:
        docker("rm", "--force", blocker)
    platform.down(1).ok()
    assert platform.traces() == before


def test_another_repositorys_preview_is_neither_replaced_nor_removed(platform: Platform) -> None:
    commit = platform.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})
    platform.up(1, commit).ok()
    there = platform.traces()
    theirs = {"preview_repository_id": "somebody-elses"}

    up = platform.up(1, commit, **theirs).refused()
    assert f"{platform.name(1)} cannot be brought up, its name is taken" in up.sentence
    assert "belongs to another repository" in up.sentence
    down = platform.down(1, **theirs).refused()
    assert "belongs to another repository" in down.sentence
    assert "nothing of it was removed" in down.sentence
    for name in ("logs", "run"):
        words = {"preview_command": ["cat", "/etc/hostname"]}
        looked = platform.play(name, preview_number=1, **words, **theirs).refused()
        assert "cannot be looked into, its name is taken" in looked.sentence

    # Where nobody recorded whose it is, its containers tell; also while an up is at work on it.
    state = platform.state / "previews" / platform.name(1) / "preview.json"
    text = state.read_text()
    state.unlink()
    assert "belongs to another" in platform.down(1, **theirs).refused().sentence
    state.write_text(text)
    assert platform.traces() == there
    assert platform.get(1) == (200, "one\n")
