# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster's operator runs: the doctor, the list, and the gateway that is not ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from clusters import Account, Cluster
from conftest import InCluster, Platform
from repositories import Repository
from test_doctor import ask
from tiny import TINY


@pytest.fixture
def platform(account: Account, tmp_path: Path) -> Platform:
    repository = Repository.create(tmp_path / "app.git")
    repository.commit("refs/heads/main", "The tiny app", files=TINY)
    return InCluster.of(account, tmp_path, "lonely", repository)


def test_a_healthy_cluster_has_no_problem_and_nothing_stays(
    platform: Platform, cluster: Cluster
) -> None:
    report = ask(platform)
    assert report.problems == set(), report.out
    assert report["cluster"].startswith("Kubernetes v1.")
    assert "traefik is served by traefik.io/ingress-controller" in report["ingress"]
    assert "local-path" in report["storage"]
    assert "enforces network policies" in report["policies"]
    assert {"rights", "metrics", "registry", "repository"} <= report.ids
    assert "connection" in report.ids, "the builder is looked at, too"
    label = ["-l", "ephemera.preview/doctor", "-o", "jsonpath={.items[*].status.phase}"]
    assert cluster.kubectl("get", "namespaces", *label) in ("", "Terminating")


def test_what_settings_break_is_told(platform: Platform) -> None:
    report = ask(
        platform,
        preview_ingress_class="nginx",
        preview_storage_class="best",
        preview_canary_image="busybox:0.0.1",
    )
    assert "there is no ingress class nginx (there are: traefik)" in report["ingress.unserved"]
    assert "is best, and the cluster has no such" in report["storage.unknown"]
    assert "busybox:0.0.1" in report["policies.unknown"]
    assert report.problems == {"ingress.unserved", "storage.unknown"}


def test_who_may_too_little_is_told_what(
    platform: Platform, cluster: Cluster, account: Account, tmp_path: Path
) -> None:
    known = json.loads(account.kubeconfig.read_text())
    token = cluster.kubectl("create", "token", "default", "-n", account.name)
    known["users"] = [{"name": "previews", "user": {"token": token}}]
    file = tmp_path / "kubeconfig"
    file.touch(mode=0o600)
    file.write_text(json.dumps(known))
    report = ask(platform, preview_kubeconfig=str(file))
    assert report.problems == {"rights.missing"}
    for right in ("create namespaces", "get pods/log", "patch middlewares.traefik.io"):
        assert right in report["rights.missing"]
    assert "examples/kubernetes/rbac.yaml" in report["rights.missing"]
    assert "policies.untried" in report.ids


def test_no_cluster_is_told_of_once(platform: Platform) -> None:
    report = ask(platform, preview_kubeconfig="/nowhere")
    assert report.problems == {"cluster.silent"}
    assert "/nowhere does not lead to a cluster" in report["cluster.silent"]


def test_previews_are_listed_and_the_gateway_is_the_clusters(platform: Platform) -> None:
    listed = platform.play("list").ok()
    assert "No previews." in listed.out or "STATUS" in listed.out
    gateway = platform.play("gateway").ok()
    assert "The cluster's ingress controller is the gateway of previews" in gateway.out
    assert "traefik is served by traefik.io/ingress-controller" in gateway.out
    assert gateway.changed == 0
    assert "nothing to remove" in platform.play("gateway", preview_gateway_state="absent").ok().out
    refused = platform.play("gateway", preview_ingress_class="nginx").refused()
    assert "there is no ingress class nginx" in refused.out
