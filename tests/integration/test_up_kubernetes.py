"""What only a cluster has to hold: enforced policies, hosts of its own, rights that are few."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import Account, eventually
from conftest import InCluster, an_app_in_cluster
from test_canary import open_to_all


@pytest.fixture
def platform(confined: Account, tmp_path: Path) -> Iterator[InCluster]:
    """An app of its own for this test; its account may touch nothing but previews."""
    with an_app_in_cluster(confined, tmp_path) as mine:
        yield mine


def test_nobody_vouches_for_it_so_it_runs_where_network_policies_hold(platform: InCluster) -> None:
    name, untrusted = platform.name(2), {"preview_trusted": False}
    commit = platform.repository.pull_request(2, "First", files={"www/index.html": "first\n"})
    platform.up(2, commit, **untrusted).ok()
    assert platform.get(2) == (200, "first\n")
    platform.cluster.apply(name, open_to_all(name))
    later = platform.repository.pull_request(2, "Second", files={"www/index.html": "second\n"})
    refused = platform.up(2, later, **untrusted).refused()
    assert "does not enforce network policies" in refused.sentence
    makers = "deployments,statefulsets,jobs,horizontalpodautoscalers"
    assert platform.kubectl(2, "get", makers, "-o", "name") == ""
    eventually(lambda: not platform.kubectl(2, "get", "pods", "-o", "name"))


def test_a_host_that_somebody_elses_ingress_has_is_not_taken(platform: InCluster) -> None:
    commit = platform.repository.pull_request(3, "First", files={"www/index.html": "first\n"})
    backend = {"service": {"name": "theirs", "port": {"number": 80}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    rule = {"host": f"{platform.name(3)}.localhost", "http": {"paths": [path]}}
    theirs = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "theirs"},
        "spec": {"rules": [rule]},
    }
    with platform.cluster.namespace() as other:
        platform.cluster.apply(other, theirs)
        said = platform.up(3, commit).refused().sentence
        assert f"the Ingress theirs in the namespace {other} has that host" in said
        assert platform.kubectl(3, "get", "ingresses,pods", "-o", "name") == ""
