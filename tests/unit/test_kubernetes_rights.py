# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What rbac.yaml grants is what the code needs. That it is enough: the integration tests run so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _kubernetes,
    _kubernetes_apply,
    _kubernetes_pods,
    _kubernetes_rights,
)
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes_rights import Right

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "kubernetes"


def objects(name: str) -> dict[str, Any]:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    return {each["kind"]: each for each in yaml.safe_load(text)["items"]}


def test_the_example_grants_exactly_what_is_needed() -> None:
    granted = [
        Right(group, resource, verb)
        for rule in objects("rbac.yaml")["ClusterRole"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]
    assert len(granted) == len(set(granted))
    assert sorted(granted) == sorted(_kubernetes_rights.RIGHTS)


def test_the_example_binds_its_own_account() -> None:
    found = objects("rbac.yaml")
    account, binding = found["ServiceAccount"]["metadata"], found["ClusterRoleBinding"]
    assert binding["roleRef"]["name"] == found["ClusterRole"]["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", **account}]
    assert account["namespace"] == found["Namespace"]["metadata"]["name"]


def test_what_is_pruned_may_be_read_made_and_deleted() -> None:
    verbs: dict[str, set[str]] = {}
    for right in _kubernetes_rights.RIGHTS:
        verbs.setdefault(right.resource, set()).add(right.verb)
    for kind in _kubernetes_apply._PRUNED:
        dummy, resource = _kubernetes.KINDS[kind]
        assert verbs[resource] == {"get", "list", "create", "patch", "delete"}, kind
    for kind in (*_kubernetes._LISTED, *_kubernetes_pods._WORKLOADS):
        assert "list" in verbs[_kubernetes.KINDS[kind][1]], kind


def test_data_and_pods_are_not_written_one_by_one() -> None:
    granted = {(right.resource, right.verb) for right in _kubernetes_rights.RIGHTS}
    assert ("persistentvolumeclaims", "delete") not in granted
    assert ("pods", "create") not in granted
    assert not any(
        verb in ("*", "escalate", "bind", "impersonate", "watch") for _r, verb in granted
    )


def test_rights_of_traefik_are_needed_where_it_serves() -> None:
    assert set(_kubernetes_rights.RIGHTS) - set(_kubernetes_rights.needed(traefik=False)) == {
        right for right in _kubernetes_rights.RIGHTS if right.group == "traefik.io"
    }
    assert str(Right("apps", "deployments", "patch")) == "patch deployments.apps"
    assert str(Right("", "pods/log", "get")) == "get pods/log"
