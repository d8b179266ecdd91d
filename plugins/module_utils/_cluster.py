# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that asks a cluster, where Ansible connects for the app: one start for each question,
since starting it takes longer than an API server to answer.

Here is what a run with nothing to do asks; what brings a preview up, and all else, is in
``_cluster_work``, which only a run that asks for it loads.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping

from ansible_collections.ephemera.preview.plugins.module_utils import _kubernetes, _kubernetes_lease

Params = Mapping[str, Any]
Ask = Callable[[_kubernetes.Cluster, Params, bool], Dict[str, Any]]


def run(params: Params, check: bool) -> Dict[str, Any]:
    """What ``params["ask"]`` names, one of ``_ASKED`` or of ``_cluster_work.ASKED``; the rest of
    ``params`` are its own."""
    try:
        cluster = _kubernetes.Cluster(params["kubeconfig"], params["context"])
        # The lease comes first, and its price is one start of all this.
        held = _hold(cluster, params["hold"], check) if params.get("hold") else {}
        return dict({"changed": False}, **held, **_asked(params["ask"])(cluster, params, check))
    except _kubernetes_lease.Held as held_by:
        return {"changed": False, "held": held_by.line}
    except _kubernetes.ClusterError as error:
        return {"failed": True, "changed": False, "msg": str(error)}


def _asked(ask: str) -> Ask:
    if ask in _ASKED:
        return _ASKED[ask]
    from ansible_collections.ephemera.preview.plugins.module_utils import _cluster_work

    return _cluster_work.ASKED[ask]


def _observe(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    return _kubernetes.observe(cluster, params["name"])


def _hold(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    """Take or keep the lease; who takes it ends what a run before it has left at work."""
    writer = _kubernetes_lease.Writer(**params["writer"])
    over = _kubernetes_lease.hold(
        cluster, writer, params["action"], params["seconds"], params["state"]
    )
    if params["action"] == "take":
        from ansible_collections.ephemera.preview.plugins.module_utils import _kubernetes_apply

        _kubernetes_apply.end_one_offs(cluster, writer.name)
    return {"over": over}


def _drop(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    writer = _kubernetes_lease.Writer(**params["writer"])
    _kubernetes_lease.drop(cluster, writer, params["state"])
    return {}


_ASKED: Dict[str, Ask] = {
    "observe": _observe,
    "hold": lambda cluster, params, check: {},
    "drop": _drop,
}
