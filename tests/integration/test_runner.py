# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A runner without a Docker engine, for previews in a cluster: it has Compose, and a BuildKit
elsewhere, or images of CI, or another host that builds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from builds import a_builder_apart, docker
from conftest import InCluster
from test_doctor import ask
from tiny import TINY

NOWHERE = "unix:///nonexistent.sock"


@pytest.fixture
def base(in_cluster: InCluster, tmp_path: Path) -> str:
    """A base image that a BuildKit elsewhere can have, too."""
    return in_cluster.cluster.push("busybox:1.37", "base/busybox:1.37", tmp_path / "docker")


def keeps(environment: dict[str, str]) -> list[str]:
    """What the builder apart keeps of builds: cache mounts and records."""
    env = os.environ | environment
    used = docker("buildx", "du", "--verbose", "--builder", "apart", env=env)
    records = docker(
        "buildx", "history", "ls", "--builder", "apart", "--format", "{{.Ref}}", env=env
    )
    mounts = [line for line in used.splitlines() if "cached mount" in line]
    return mounts + records.split()


def test_a_buildkit_elsewhere_is_enough(in_cluster: InCluster, base: str, tmp_path: Path) -> None:
    dockerfile = str(TINY["Dockerfile"]).replace("busybox:1.37", base)
    dockerfile += "RUN --mount=type=cache,target=/c echo kept >/c/file\n"
    files = {"Dockerfile": dockerfile, "www/index.html": "one\n"}
    commit = in_cluster.repository.pull_request(1, "A change", files=files)
    in_cluster.settings["preview_buildx_builder"] = "apart"
    with a_builder_apart(tmp_path) as in_cluster.variables:
        report = ask(in_cluster, "--check")
        assert report.problems == set(), report.out
        assert "The builder apart is one of this machine" in report["buildx"]
        assert {"compose", "registry"} <= report.ids
        up = in_cluster.up(1, commit).ok()
        assert up.result["outcome"] == "ready"
        assert in_cluster.get(1) == (200, "one\n")
        mount, record = keeps(in_cluster.variables)
        assert in_cluster.name(1) in mount
        assert record
        again = in_cluster.up(1, commit).ok()
        assert (again.changed, again.result["outcome"]) == (0, "unchanged")
        assert in_cluster.name(1) in in_cluster.play("list").ok().out
        assert (
            "Ready to accept connections"
            in in_cluster.play("logs", preview_number=1, preview_service="cache").ok().out
        )
        in_cluster.down(1).ok()
        assert keeps(in_cluster.variables) == []
    assert in_cluster.traces() == set()


CALLED: dict[str, str | bytes | None] = {
    "compose.yaml": """\
services:
  web:
    build: .
    command: [httpd, -f, -p, "8080", -h, /etc]
    ports: ["8080:8080"]
    x-preview: {health: /hosts}
"""
}


def test_images_of_ci_take_nobody_who_builds(in_cluster: InCluster, base: str) -> None:
    commit = in_cluster.repository.pull_request(1, "CI builds", files=CALLED)
    in_cluster.settings["preview_images"] = {"web": base}
    in_cluster.variables = {"DOCKER_HOST": NOWHERE}
    report = ask(in_cluster, "--check")
    assert report.problems == set(), report.out
    assert "preview_images has to name" in report["engine.spare"]
    in_cluster.up(1, commit).ok()
    assert in_cluster.get(1, "/hosts")[0] == 200
    in_cluster.down(1).ok()
    assert in_cluster.traces() == set()
