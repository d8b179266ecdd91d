"""Nothing of a preview is left, whatever state it was in, and nothing else is touched."""

from __future__ import annotations

import json
import time

from conftest import TINY, InCluster, Platform, docker

COMPOSE = str(TINY["compose.yaml"])


def test_foreign_things_and_neighbours_stay(anywhere: Platform) -> None:
    """Things named like ours, something that imitates our labels, and pr-12 beside pr-1."""
    before = anywhere.traces()
    neighbour = anywhere.repository.pull_request(12, "Neighbour", files={"www/index.html": "12\n"})
    anywhere.up(12, neighbour).ok()
    with_neighbour = anywhere.traces()
    commit = anywhere.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})
    anywhere.up(1, commit).ok()
    for number, answer in ((1, "+PONG"), (12, "")):
        ask = f"echo PING | nc -w 2 {anywhere.address(number, 'cache')} 6379 || true"
        assert anywhere.exec(1, "web", "sh", "-c", ask) == answer, "neighbours are not reached"
    with anywhere.imitated(1) as runs:
        with anywhere.taken(1) as (number, things):
            refused = anywhere.up(number, commit, preview_size="medium").refused()
            for thing in things:
                assert f"{thing} has a name of this preview but was not made by it" in (
                    refused.sentence
                )
            down = anywhere.down(number).ok()
            for thing in things:
                assert f"{thing} has its name and is not of it" in down.out
                assert anywhere.is_there(thing)
        anywhere.down(1).ok()
        assert runs()
    assert anywhere.traces() == with_neighbour
    assert anywhere.get(12) == (200, "12\n")
    anywhere.down(12).ok()
    assert anywhere.traces() == before


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
    platform.up(1, first).ok()
    platform.up(1, second).ok()
    assert platform.get(1) == (200, "two\n")
    # Others build here, too.
    noted = platform.state / "previews" / platform.name(1) / ".buildx" / "refs" / "default"
    mine = {path.name for path in noted.glob("*/*")}
    assert mine & build_records(), "for whoever looks into a build"
    mount = f'with id "{platform.name(1)}/'
    assert mount in docker("buildx", "du", "--verbose")
    platform.down(1).ok()
    assert mount not in docker("buildx", "du", "--verbose")
    assert not mine & build_records()
    assert platform.traces() == before


def build_records() -> set[str]:
    """The builder's own records of builds; it ends old ones by itself."""
    listed = docker("buildx", "history", "ls", "--builder", "default", "--format", "{{json .}}")
    return {json.loads(line)["ref"].rpartition("/")[2] for line in listed.splitlines()}


def test_what_was_half_removed_by_hand_goes(anywhere: Platform) -> None:
    before = anywhere.traces()
    for number in (1, 2):
        commit = anywhere.repository.pull_request(number, "A change", files={})
        anywhere.up(number, commit).ok()
    anywhere.forget(1)
    anywhere.down(1).ok()
    anywhere.end(2)
    assert anywhere.down(2).ok().changed >= 1
    assert anywhere.traces() == before


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


def test_what_holds_a_namespace_is_named(in_cluster: InCluster) -> None:
    name = in_cluster.name(1)
    in_cluster.lend(1, f"elsewhere {int(time.time()) - 1} up ci-7/0 812 1")
    metadata = {
        "name": "data",
        "labels": {"ephemera.preview/name": name},
        "finalizers": ["example.com/hold"],
    }
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata}
    in_cluster.cluster.apply(name, claim | {"spec": spec})
    try:
        down = in_cluster.down(1).refused()
        assert down.result["outcome"] == "failed"
        assert f"{name} is not gone, this is left: namespace {name}, volume data. " in down.sentence
        assert "example.com/hold in 1 resource instances" in down.sentence
    finally:
        free = '[{"op": "remove", "path": "/metadata/finalizers"}]'
        in_cluster.kubectl(1, "patch", "pvc", "data", "--type=json", "-p", free)
    in_cluster.down(1).ok()
    assert not in_cluster.traces()


def test_another_repositorys_preview_is_neither_replaced_nor_removed(anywhere: Platform) -> None:
    commit = anywhere.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})
    anywhere.up(1, commit).ok()
    there = anywhere.traces()
    theirs = {"preview_repository_id": "somebody-elses"}

    up = anywhere.up(1, commit, **theirs).refused()
    assert f"{anywhere.name(1)} cannot be brought up, its name is taken" in up.sentence
    assert "belongs to another repository" in up.sentence
    down = anywhere.down(1, **theirs).refused()
    assert "belongs to another repository" in down.sentence
    assert "nothing of it was removed" in down.sentence
    for name in ("logs", "run"):
        words = {"preview_command": ["cat", "/etc/hostname"]}
        looked = anywhere.play(name, preview_number=1, **words, **theirs).refused()
        assert "cannot be looked into, its name is taken" in looked.sentence
    assert anywhere.traces() == there

    # Where nobody recorded whose it is, its containers tell; also while an up is at work on it.
    anywhere.forget(1)
    there = anywhere.traces()
    assert "belongs to another" in anywhere.down(1, **theirs).refused().sentence
    assert anywhere.traces() == there
    assert anywhere.get(1) == (200, "one\n")
    anywhere.down(1).ok()
