# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of pods that a cluster does not let run."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _diagnose,
    _kubernetes_external,
    _kubernetes_pods,
    _kubernetes_tls,
)

LABELS = {"ephemera.preview/service": "web"}
NOW = 1_800_000_000
BORN = "2027-01-15T07:59:55Z"  # five seconds before


def pod(name: str, **status: Any) -> dict[str, Any]:
    owner = {"kind": "ReplicaSet", "uid": "r", "controller": True}
    return {
        "metadata": {
            "name": name,
            "namespace": "shop-pr-1",
            "uid": name,
            "labels": LABELS,
            "creationTimestamp": BORN,
            "ownerReferences": [owner],
        },
        "spec": {"containers": [{"name": "main", "image": "acme/web"}]},
        "status": {"phase": "Pending", **status},
    }


def running(name: str, since: str) -> dict[str, Any]:
    state = {"running": {"startedAt": since}}
    return pod(name, phase="Running", containerStatuses=[{"name": "main", "state": state}])


def items(*pods: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    known = {"labels": LABELS, "annotations": {"deployment.kubernetes.io/revision": "1"}}
    owner = {"kind": "Deployment", "uid": "d", "controller": True}
    deployment = {
        "metadata": {**known, "name": "web", "uid": "d", "generation": 1},
        "spec": {"replicas": 1},
        "status": {"observedGeneration": 1},
    }
    makes = {"metadata": {**known, "name": "web-1", "uid": "r", "ownerReferences": [owner]}}
    return {
        "Pod": list(pods),
        "Deployment": [deployment],
        "ReplicaSet": [makes],
        "StatefulSet": [],
        "Job": [],
    }


FULL = "Pod ephemeral local storage usage exceeds the total limit of containers 2Gi. "


def test_one_that_was_evicted_for_what_it_wrote_tells_of_the_next_one_while_that_is_young() -> None:
    full = pod("a", phase="Failed", reason="Evicted", message=FULL)
    (seen,) = _kubernetes_pods.looked(items(full, running("b", BORN)), NOW)
    assert (seen.ident, seen.held) == ("b", ("no_disk", FULL.rstrip(". ")))
    (seen,) = _kubernetes_pods.looked(items(full, running("b", "2027-01-15T07:59:00Z")), NOW)
    assert seen.held == ("", "")
    # What a node has no room for is not the app's doing.
    pressed = pod("a", phase="Failed", reason="Evicted", message="The node had condition: [Disk].")
    (seen,) = _kubernetes_pods.looked(items(pressed, running("b", BORN)), NOW)
    assert seen.held == ("", "")


@pytest.mark.parametrize(
    ("up", "last", "held"),
    [(2, "07:59:50Z", "no_disk"), (2, "07:59:30Z", ""), (60, "07:59:50Z", "")],
    ids=["just now", "another version", "long ago"],
)
def test_one_of_a_set_is_told_by_events_of_the_one_before(up: float, last: str, held: str) -> None:
    changes = [
        {"time": "2027-01-15T07:59:40Z"},
        {"time": "2027-01-15T07:59:55Z", "subresource": "status"},
    ]
    since = {"db": _kubernetes_pods.changed({"metadata": {"managedFields": changes}})}
    said = {"db-0": _kubernetes_pods.Told(FULL, 1, "2027-01-15T" + last)}
    (seen,) = _kubernetes_pods.remade([_diagnose.Container("db-0", "db", up=up)], since, said)
    assert seen.held[0] == held


@pytest.mark.parametrize(
    ("said", "held"),
    [
        (
            'container has runAsNonRoot and image will run as root (pod: "web-1", container: main)',
            ("root", ""),
        ),
        (
            "container has runAsNonRoot and image has non-numeric user (node), cannot verify user "
            "is non-root",
            ("named_user", "node"),
        ),
        ('secret "x" not found', ("pending", 'secret "x" not found')),
    ],
)
def test_why_a_container_cannot_be_made_is_told(said: str, held: tuple[str, str]) -> None:
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": said}}
    of = pod("a", containerStatuses=[{"name": "main", "state": waiting}])
    assert _kubernetes_pods.looked_at(of, NOW).held == held


@pytest.mark.parametrize(
    "said",
    [
        "pull access denied, repository does not exist: no basic auth credentials",
        "pull access denied: failed to authorize: failed to fetch anonymous token: 403 Forbidden",
    ],
)
def test_a_node_that_has_not_got_the_login_yet_pulls_once_more(said: str) -> None:
    of = pod(
        "a",
        containerStatuses=[
            {"name": "main", "state": {"waiting": {"reason": "ErrImagePull", "message": said}}}
        ],
    )
    assert _kubernetes_pods.looked_at(of, NOW).held == ("pull_denied", "")
    of["spec"]["imagePullSecrets"] = [{"name": "registries"}]
    assert _kubernetes_pods.looked_at(of, NOW).held == ("pull_unknown", "")


@pytest.mark.parametrize(
    ("said", "held"),
    [
        ("0/3 nodes are available: 3 Insufficient cpu.", "no_room"),
        ('persistentvolumeclaim "data" not found', "no_volume"),
        ("1 node(s) didn't find available persistent volumes to bind.", "no_volume"),
        ("pod has unbound immediate PersistentVolumeClaims. not found", "pending"),
    ],
)
def test_a_pod_without_a_volume_is_not_one_without_room(said: str, held: str) -> None:
    of = pod("a", conditions=[{"type": "PodScheduled", "reason": "Unschedulable", "message": said}])
    assert _kubernetes_pods.looked_at(of, NOW).held == (held, said.rstrip(". "))


NOBODY = "Waiting for a volume to be created by the external provisioner 'disks.example.com'"
SLOW = "failed to provision volume: rpc error: code = DeadlineExceeded desc = context deadline"


@pytest.mark.parametrize(
    ("reasons", "why"),
    [
        ({"ProvisioningFailed": 'class "best" not found'}, {"data": 'class "best" not found'}),
        ({"FailedBinding": "no class is set"}, {"data": "no class is set"}),
        ({"ExternalProvisioning": NOBODY}, {"data": NOBODY}),
        ({"ExternalProvisioning": NOBODY, "Provisioning": "begins"}, {}),
        ({"Provisioning": "begins", "ProvisioningFailed": SLOW}, {}),
        ({"WaitForFirstConsumer": "waiting"}, {}),
    ],
)
def test_why_a_claim_gets_no_volume_is_told_and_a_slow_one_waited_for(
    reasons: dict[str, str], why: dict[str, str]
) -> None:
    about = {"involvedObject": {"name": "data"}}
    events = [about | {"reason": reason, "message": m} for reason, m in reasons.items()]
    assert _kubernetes_pods.unbound(events) == why


def told(name: str, second: int, reason: str, api: str = "cert-manager.io/v1") -> dict[str, Any]:
    return {
        "involvedObject": {"name": name, "apiVersion": api},
        "lastTimestamp": f"2026-01-01T00:00:{second:02}Z",
        "reason": reason,
        "message": reason.lower(),
    }


REQUESTED = told("web-tls", 5, "Requested")
PRESENTED = told("web-tls-1-300-20", 5, "Presented", "acme.cert-manager.io/v1")


@pytest.mark.parametrize(
    ("events", "last"),
    [
        ([], ""),
        ([REQUESTED], "Requested"),
        ([PRESENTED, REQUESTED], "Presented"),
        ([PRESENTED, told("web-tls", 9, "Failed")], "Failed"),
        ([told("web-tls-1", 5, "IssuerNotFound"), told("web-tls-1", 6, "cert-manager.io")],
         "IssuerNotFound"),
        ([REQUESTED, told("web-tls-two", 6, "Other"), told("web-tls", 7, "Copied", "v1")],
         "Requested"),
    ],
)  # fmt: skip
def test_of_a_certificate_the_last_is_told_that_is_farthest_on_the_way(
    events: list[dict[str, Any]], last: str
) -> None:
    assert _kubernetes_tls.last_word(events, "web-tls") == (last, last.lower())


def external(**condition: str) -> dict[str, Any]:
    store = {"kind": "ClusterSecretStore", "name": "vault"}
    conditions = [{"type": "Ready", **condition}] if condition else []
    return {
        "metadata": {"namespace": "shop-pr-1"},
        "spec": {"secretStoreRef": store},
        "status": {"conditions": conditions},
    }


def test_why_a_store_gives_no_secret_is_told() -> None:
    assert _kubernetes_external.is_ready(external(status="True"))
    denied = external(status="False", message="permission denied.", reason="SecretSyncedError")
    assert not _kubernetes_external.is_ready(denied)
    assert _kubernetes_external.trouble(denied) == (
        "preview_external_secrets: the ClusterSecretStore vault does not give what is asked for: "
        "permission denied. Check the store, and the keys that the setting names."
    )
    assert "nobody fetches the secrets of shop-pr-1" in _kubernetes_external.trouble(external())
