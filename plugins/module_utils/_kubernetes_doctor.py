# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the doctor asks a cluster."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _kubernetes_apply,
    _kubernetes_canary,
    _kubernetes_ingress,
    _kubernetes_rights,
)
from ansible_collections.ephemera.preview.plugins.module_utils._doctor_facts import (
    Cluster as Facts,
)
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    Cluster,
    ClusterError,
    delete,
    place,
)

STORAGE = "/apis/storage.k8s.io/v1/storageclasses"
METRICS = "/apis/metrics.k8s.io/v1beta1"
DEFAULT = "storageclass.kubernetes.io/is-default-class"


def look(cluster: Cluster, params: Mapping[str, Any], check: bool) -> Facts:
    """All that the doctor wants to know of a cluster.

    :param params: ``ingress``, the settings of the controller, and ``trial``: a ``namespace``, the
        ``objects`` that surround its pods, and what of ``_kubernetes_canary.check``.
    :param check: nothing may be made.
    :raises ClusterError: it does not answer, or does not let us in.
    """
    version = cluster.ask("GET", "/version").body["gitVersion"]
    traefik = params["ingress"]["preview_ingress_controller"] == "traefik"
    missing = [str(right) for right in _kubernetes_rights.missing(cluster, traefik)]
    found: Dict[str, Any] = {
        "server": cluster.server,
        "version": version,
        "missing": missing,
        "metrics": _has_metrics(cluster),
    }
    if "list ingressclasses.networking.k8s.io" not in missing:
        try:
            found["ingress"] = _kubernetes_ingress.known(cluster, params["ingress"])
        except ClusterError as problem:
            found["ingress_said"] = str(problem)
    if "list storageclasses.storage.k8s.io" not in missing:
        found["classes"], found["default"] = _storage(cluster)
    if not missing and not check:
        try:
            _try_policies(cluster, params["trial"])
            found["enforced"] = True
        except _kubernetes_canary.Unenforced:
            found["enforced"] = False
        except ClusterError as problem:
            found["policies_said"] = str(problem)
    return Facts(**found)


def _has_metrics(cluster: Cluster) -> bool:
    try:
        cluster.ask("GET", METRICS)
    except ClusterError:
        return False
    return True


def _storage(cluster: Cluster) -> Tuple[List[str], str]:
    """The storage classes, and which of them is the default, if one is."""
    items = cluster.ask("GET", STORAGE).body["items"]
    defaults = [
        each["metadata"]["name"]
        for each in items
        if (each["metadata"].get("annotations") or {}).get(DEFAULT) == "true"
    ]
    return sorted(each["metadata"]["name"] for each in items), "".join(defaults[:1])


def _try_policies(cluster: Cluster, trial: Mapping[str, Any]) -> None:
    namespace = trial["namespace"]
    try:
        _kubernetes_apply.apply(cluster, [namespace])
        _kubernetes_apply.apply(cluster, trial["objects"])
        _kubernetes_canary.check(cluster, trial["job"], trial["egress"])
    finally:
        delete(cluster, place(namespace), {})
