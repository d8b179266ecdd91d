# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A runner without a Docker engine, for previews in a cluster: it has Compose, and a BuildKit
elsewhere, or images of CI, or another host that builds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from builds import a_builder_apart, docker
from conftest import InCluster
from sshd import a_builder
from test_doctor import ask

NOWHERE = "unix:///nonexistent.sock"
COMPOSE = """\
services:
  web:
    build: .
    command: [sh, -c, "echo serving; exec httpd -f -p 8080 -h /etc"]
    ports: ["8080:8080"]
    x-preview: {health: /hosts}
"""


def pull_request(in_cluster: InCluster, base: str = "busybox:1.37") -> str:
    """The commit of one whose build also leaves something in a cache mount."""
    dockerfile = (
        f"FROM {base}\nRUN --mount=type=cache,target=/c echo one | tee /c/kept >/etc/said\n"
    )
    files: dict[str, str | bytes | None] = {"Dockerfile": dockerfile, "compose.yaml": COMPOSE}
    return in_cluster.repository.pull_request(1, "A change", files=files)


@pytest.fixture
def base(in_cluster: InCluster, tmp_path: Path) -> str:
    """A base image that a BuildKit elsewhere can have, too."""
    return in_cluster.cluster.push("busybox:1.37", "base/busybox:1.37", tmp_path / "docker")


def keeps(environment: dict[str, str]) -> list[str]:
    """What the builder apart keeps of builds: cache mounts and records."""
    env = os.environ | environment
    used = docker("buildx", "du", "--verbose", "--builder", "apart", env=env)
    told = ["--builder", "apart", "--format", "{{.Ref}}"]
    records = docker("buildx", "history", "ls", *told, env=env)
    mounts = [line for line in used.splitlines() if "cached mount" in line]
    return mounts + records.split()


def test_a_buildkit_elsewhere_is_enough(in_cluster: InCluster, base: str, tmp_path: Path) -> None:
    commit = pull_request(in_cluster, base)
    in_cluster.settings["preview_buildx_builder"] = "apart"
    in_cluster.settings["preview_isolation"] = True
    with a_builder_apart(tmp_path) as in_cluster.variables:
        report = ask(in_cluster, "--check")
        assert report.problems == set(), report.out
        assert "The builder apart is one of this machine" in report["buildx"]
        assert {"compose", "registry"} <= report.ids
        untrusted = in_cluster.up(1, commit, preview_trusted=False).refused().sentence
        for sentence in (report["firewall.builder"], untrusted):
            assert "What builds by apart, which preview_buildx_builder names, reach" in sentence
        told = ask(in_cluster, "--check", preview_buildx_isolated=True)
        assert "firewall.builder" not in told.ids
        up = in_cluster.up(1, commit).ok()
        assert up.result["outcome"] == "ready"
        assert in_cluster.get(1, "/said") == (200, "one\n")
        mount, record = keeps(in_cluster.variables)
        assert in_cluster.name(1) in mount
        assert record
        again = in_cluster.up(1, commit).ok()
        assert (again.changed, again.result["outcome"]) == (0, "unchanged")
        assert in_cluster.name(1) in in_cluster.play("list").ok().out
        logs = in_cluster.play("logs", preview_number=1, preview_service="web").ok()
        assert "serving" in logs.out
        in_cluster.down(1).ok()
        assert keeps(in_cluster.variables) == []
    assert in_cluster.traces() == set()


def test_images_of_ci_take_nobody_who_builds(in_cluster: InCluster, base: str) -> None:
    commit = pull_request(in_cluster)
    in_cluster.settings["preview_images"] = {"web": base}
    in_cluster.variables = {"DOCKER_HOST": NOWHERE}
    report = ask(in_cluster, "--check")
    assert report.problems == set(), report.out
    assert "preview_images has to name" in report["engine.spare"]
    in_cluster.up(1, commit).ok()
    assert in_cluster.get(1, "/hosts")[0] == 200
    in_cluster.down(1).ok()
    assert in_cluster.traces() == set()


@pytest.fixture
def builders_state(in_cluster: InCluster, tmp_path: Path) -> Iterator[Path]:
    """Where another host that builds has its state; the app's own has no engine."""
    with a_builder(in_cluster, tmp_path) as state:
        in_cluster.variables = {"DOCKER_HOST": NOWHERE}
        yield state


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
def test_another_host_builds(in_cluster: InCluster, builders_state: Path) -> None:
    previews, name = builders_state / "previews", in_cluster.name(1)
    commit = pull_request(in_cluster)
    in_cluster.up(1, commit).ok()
    assert in_cluster.get(1, "/said") == (200, "one\n")
    assert (previews / name / "source" / commit / "compose.yaml").read_text() == COMPOSE
    assert (previews / name / ".buildx").is_dir()
    # As by a run that was killed before it could push.
    facts = in_cluster.cluster.facts
    left = f"{facts['registry']}/ephemera-preview/{name}/web:{commit[:12]}"
    docker("tag", "busybox:1.37", left)
    mounts = [line for line in in_cluster.traces() if "cached mount" in line]
    assert len(mounts) == 1

    broken = in_cluster.repository.pull_request(2, "Broken", files={"compose.yaml": "nothing: 1\n"})
    in_cluster.up(2, broken).refused()
    assert [each.name for each in previews.iterdir()] == [name]

    in_cluster.down(1).ok()
    assert not list(previews.iterdir())
    assert list(in_cluster.state.iterdir()) == [], "the controller has never had any of it"
    assert in_cluster.traces() == set()


def test_a_builder_that_is_away_is_told(in_cluster: InCluster) -> None:
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    in_cluster.groups = {"builders": {"hosts": {"builder": away}}}
    commit = in_cluster.repository.pull_request(1, "A change", files={})
    said = in_cluster.up(1, commit, preview_builder="builder").refused().sentence
    assert "builder, which preview_builder names, cannot be reached: " in said
    assert in_cluster.namespace(1) == {}
