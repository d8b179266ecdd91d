# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells whether a cluster enforces network policies, in one that does: a policy that lets all
through stands for none."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _identity,
    _kubernetes,
    _kubernetes_apply,
    _kubernetes_canary,
    _kubernetes_lease,
    _manifests,
    _settings,
)
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes_canary import Unenforced
from clusters import Account, Cluster

Check = Callable[..., None]


@pytest.fixture
def app() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def check(cluster: Cluster, account: Account, app: str) -> Iterator[Check]:
    """Surrounds a preview that holds nothing, at the strictest level, and tries its policies."""
    api = _kubernetes.Cluster(str(account.kubeconfig))

    def tried(**given: Any) -> None:
        settings = _settings.resolve(
            {
                "preview_number": 1,
                "preview_target": "kubernetes",
                "preview_registry": cluster.facts["registry"],
                "preview_repository": "https://forge.example.org/acme/shop.git",
                "preview_pod_security": "restricted",
                **given,
            }
        )
        preview = _identity.identity(app, settings, "r", "builder")
        limits = {"cpus": "0.5", "memory": 64 << 20}
        preview.update(
            services=[
                {"name": "web", "expose": None, "replicas": 1, "most": 1, "resources": limits}
            ],
            hooks=[],
        )
        base = _manifests._Renderer(preview, {}, settings, {}, {}).base()
        writer = _kubernetes_lease.Writer(preview["name"], preview["labels"], "r", "up", "h/1 1 1")
        _kubernetes_lease.hold(api, writer, "take", 60, "{}")
        _kubernetes_apply.apply(api, base[:1])
        _kubernetes_apply.apply(api, base[1:])
        canary = _kubernetes_canary.job(preview, settings)
        try:
            _kubernetes_canary.check(api, canary, _kubernetes_canary.egress_of(base))
        finally:
            jobs = cluster.kubectl("get", "jobs", "-n", preview["name"], "-o", "name")
            assert not jobs, "it stays behind"

    yield tried
    cluster.kubectl("delete", "namespace", f"{app}-pr-1", "--ignore-not-found", "--timeout=60s")


def open_to_all(namespace: str) -> dict[str, Any]:
    """A policy that is not the preview's, and lets through what no enforcement would."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "open", "namespace": namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]},
    }


def test_policies_that_hold_and_one_that_lets_all_through(
    check: Check, cluster: Cluster, app: str
) -> None:
    check()
    cluster.apply(f"{app}-pr-1", open_to_all(f"{app}-pr-1"))
    with pytest.raises(Unenforced, match="does not enforce network policies"):
        check()


def test_where_nothing_can_be_told_it_is_said_why(check: Check, cluster: Cluster) -> None:
    address = ["service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}"]
    server = cluster.kubectl("get", *address)
    with pytest.raises(_kubernetes.ClusterError, match=r"preview_egress_allow") as refused:
        check(preview_egress_allow=[server])
    assert not isinstance(refused.value, Unenforced)
    with pytest.raises(_kubernetes.ClusterError, match=r"could not: .*no such tag.*busybox:0.0.1"):
        check(preview_canary_image="busybox:0.0.1")
