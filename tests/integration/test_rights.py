# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the account of examples/kubernetes may do, at a real API server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _kubernetes,
    _kubernetes_lease,
    _kubernetes_rights,
    _kubernetes_teardown,
)
from ansible_collections.ephemera.preview.plugins.module_utils._names import PREFIX
from clusters import Account, Cluster


@pytest.fixture
def name(cluster: Cluster) -> Iterator[str]:
    """A preview's name, whose namespace is gone afterwards."""
    mine = f"t{uuid.uuid4().hex[:8]}-pr-1"
    yield mine
    cluster.kubectl("delete", "namespace", mine, "--ignore-not-found", "--timeout=60s")


def test_the_account_has_the_rights_that_are_needed_and_no_other(account: Account) -> None:
    api = _kubernetes.Cluster(str(account.kubeconfig))
    assert _kubernetes_rights.missing(api, traefik=True) == []
    for verb, what in (
        ("create", "pods"),
        ("create", "clusterrolebindings"),
        ("create", "serviceaccounts/token"),
        ("delete", "persistentvolumeclaims"),
        ("get", "nodes"),
        ("impersonate", "users"),
    ):
        assert account.kubectl("auth", "can-i", verb, what, "-A").endswith("no"), (verb, what)


def test_it_is_confined_to_namespaces_of_previews(
    confined: Account, cluster: Cluster, name: str
) -> None:
    owner = f"{PREFIX}owner=mine"
    assert "of previews only" in confined.namespace(name)
    assert "of previews only" in confined.namespace(name, f"{PREFIX}name={name}")
    assert "created" in confined.namespace(name, owner)

    api = _kubernetes.Cluster(str(confined.kubeconfig))
    labels = {PREFIX + "name": name, PREFIX + "owner": "mine"}
    writer = _kubernetes_lease.Writer(name, labels, "a", "up", "h/1 1 1")
    _kubernetes_lease.hold(api, writer, "take", 60, "{}")
    assert "created" in confined.kubectl("create", "configmap", "mine", "-n", name)
    stolen = confined.kubectl("label", "namespace", name, "--overwrite", f"{PREFIX}owner=theirs")
    assert "is for life" in stolen

    with cluster.namespace() as other:
        within = "works in the namespaces of previews only"
        assert within in confined.kubectl("create", "configmap", "mine", "-n", other)
        image = ["--image", "busybox:1.37"]
        assert within in confined.kubectl("create", "deployment", "mine", "-n", other, *image)
        cluster.kubectl("create", "configmap", "theirs", "-n", other)
        assert within in confined.kubectl("delete", "configmap", "theirs", "-n", other)
        assert "is not a preview's" in confined.kubectl("label", "namespace", other, owner)
        assert "is not a preview's" in confined.kubectl("delete", "namespace", other)

    # Reviews of its own rights are no objects.
    assert _kubernetes_rights.missing(api, traefik=True) == []
    torn = _kubernetes_teardown.teardown(api, name, "mine", 30)
    assert torn.removed == [f"namespace {name}"] and torn.left == []
