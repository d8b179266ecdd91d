# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A preview leaves a cluster without a trace, or it is said what holds it."""

from __future__ import annotations

import time
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    Cluster,
    at_once,
    delete,
    find,
    folder,
    labels,
    observe,
)
from ansible_collections.ephemera.preview.plugins.module_utils._names import PREFIX

POLL = 0.25
# What a namespace's conditions say while nothing holds it.
_IDLE = ("NamespaceDeletionDiscoveryFailure", "NamespaceDeletionGroupVersionParsingFailure")


class TornDown(NamedTuple):
    """One line a thing: what was removed, what is left, what holds that, what is another's."""

    removed: List[str]
    left: List[str]
    held: List[str]
    foreign: List[str]


def run(cluster: Cluster, params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """The same as the result of a task; see ``_teardown.run``."""
    torn = teardown(cluster, params["name"], params["owner"], params["seconds"], check)
    result = {
        "changed": bool(torn.removed),
        "removed": torn.removed,
        "left": torn.left,
        "foreign": torn.foreign,
        "diff": {"before": "".join(line + "\n" for line in torn.removed), "after": ""},
    }
    if torn.left and not check:
        result["failed"] = True
        result["msg"] = "{0} is not gone, this is left: {1}. {2}".format(
            params["name"], ", ".join(torn.left), " ".join(torn.held)
        ).strip()
    return result


def teardown(
    cluster: Cluster, name: str, owner: str, seconds: float, check: bool = False
) -> TornDown:
    """Delete a preview's namespace, and wait until it is gone with all that it holds.

    :param seconds: after which it is told what is left and why.
    :raises ClusterError: the cluster refuses.
    """
    seen = observe(cluster, name)["previews"][name]
    foreign = ["namespace {0}".format(each["name"]) for each in seen["foreign"]]
    if seen["folder"] and seen["labels"].get(PREFIX + "owner") != owner:
        return TornDown([], [], [], ["namespace {0}".format(name)])
    there = lines(seen)
    if check or not there:
        return TornDown(there if check else [], there if check else [], [], foreign)
    path = folder("Namespace") + "/" + name
    metadata = cluster.ask("GET", path).body["metadata"]
    if labels(metadata).get(PREFIX + "owner") != owner:
        return TornDown([], [], [], ["namespace {0}".format(name)])
    # That very one: another of its name may be made before the call arrives.
    very = {"preconditions": {"uid": metadata["uid"]}, "propagationPolicy": "Background"}
    delete(cluster, path, very)
    going = find(cluster, path)
    if going is None or going.body["metadata"]["uid"] != metadata["uid"]:
        return TornDown(there, [], [], foreign)
    # From now on nothing new is made there, and for five seconds its controller waits. What takes
    # its time to go goes meanwhile: claims wait for their pods, and those for what they still do.
    without: Dict[str, Dict[str, Any]] = {
        "Pod": {"gracePeriodSeconds": 0},
        "PersistentVolumeClaim": {},
    }
    at_once(lambda kind: delete(cluster, folder(kind, name), without[kind]), without)
    namespace = _wait(cluster, path, time.monotonic() + seconds)
    if namespace is None:
        return TornDown(there, [], [], foreign)
    left = lines(observe(cluster, name)["previews"][name])
    return TornDown([line for line in there if line not in left], left, holders(namespace), foreign)


def lines(seen: Dict[str, Any]) -> List[str]:
    """What exists of a preview, one line each; empty when it is gone."""
    if not seen["folder"]:
        return []
    return ["namespace {0}".format(seen["name"])] + [
        "{0} {1}".format(word, item["name"])
        for word, kind in (("pod", "containers"), ("volume", "volumes"))
        for item in seen[kind]
    ]


def holders(namespace: Dict[str, Any]) -> List[str]:
    """Why a namespace that is being deleted is still there, in the API server's words."""
    conditions = namespace.get("status", {}).get("conditions") or []
    return [
        each["message"]
        for each in conditions
        if each.get("status") == "True" and each.get("type") not in _IDLE and each.get("message")
    ]


def _wait(cluster: Cluster, path: str, until: float) -> Optional[Dict[str, Any]]:
    """The namespace as it was last seen, None when it is gone."""
    while True:
        namespace = find(cluster, path)
        if namespace is None or time.monotonic() >= until:
            return namespace and namespace.body
        time.sleep(POLL)
