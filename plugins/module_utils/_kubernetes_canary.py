# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a cluster enforces network policies: it takes them from everybody, and many a cluster has
nothing that does as they say. A small pod of ours tries what ours forbid: to reach the API server.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _diagnose,
    _kubernetes_apply,
    _manifests,
    _names,
)
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    Cluster,
    ClusterError,
)

NAME = "canary"
SECONDS = 90
"""How long it may take, with the time to pull its image."""
POLICY = "default"
"""The policy that says where every pod of a preview may connect to."""
SERVICE = "/api/v1/namespaces/default/services/kubernetes"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
OPEN, UNABLE = 42, 43
"""How it ends that got through, and that could not try."""

# A policy may have been made a moment ago, so it gets some time to be obeyed. nc tells by 1 that it
# has not connected, which one of several API servers may be to blame for, but not time and again;
# all else is no answer.
SCRIPT = """
closed=0
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    nc -w 2 "$KUBERNETES_SERVICE_HOST" "$KUBERNETES_SERVICE_PORT" </dev/null
    case $? in
        0) closed=0; sleep 1 ;;
        1) closed=$((closed + 1)); [ $closed -lt 3 ] || exit 0 ;;
        *) exit {unable} ;;
    esac
done
exit {opened}
""".format(unable=UNABLE, opened=OPEN)

_UNKNOWN = (
    "Whether this cluster enforces network policies cannot be told, so that a pull request that is "
    "not trusted (preview_trusted: false) is refused: "
)


class Unenforced(ClusterError):
    """A pod got through where policies forbid it."""


class Destination(NamedTuple):
    """Where something listens."""

    address: str
    port: int


def job(preview: Mapping[str, Any], settings: Mapping[str, Any]) -> Dict[str, Any]:
    """What tries it: under the same policies as the preview's pods, and with no right of its own,
    so that it is let in at any level of Pod Security."""
    container = {
        "name": _names.MAIN,
        "image": settings["preview_canary_image"],
        "command": ["sh", "-c", SCRIPT],
        "resources": {"limits": {"cpu": "50m", "memory": "32Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    spec: Dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "runAsGroup": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    if settings["preview_registries"]:
        spec["imagePullSecrets"] = [{"name": _manifests.PULL_SECRET}]
    return _manifests.job(preview, NAME, {_names.HOOK: NAME}, spec, SECONDS)


def check(cluster: Cluster, canary: Mapping[str, Any], egress: Sequence[Mapping[str, Any]]) -> None:
    """See that policies are enforced in the namespace of a canary.

    :param egress: the rules of the policy that holds there.
    :raises Unenforced: they are not.
    :raises ClusterError: nobody can tell.
    """
    for destination in destinations(cluster):
        if permits(egress, destination):
            raise ClusterError(
                _UNKNOWN
                + "the API server, which is what is tried, may be reached at "
                "{0.address}:{0.port} as the policies are. Take that out of preview_egress_allow; "
                "where it is a public address, this cluster is for pull requests that are "
                "trusted.".format(destination)
            )
    ended = _kubernetes_apply.run_job(cluster, [canary], SECONDS, ())
    if ended:
        image = canary["spec"]["template"]["spec"]["containers"][0]["image"]
        raise failure(ended, image)


def failure(ended: _diagnose.Ended, image: str) -> ClusterError:
    """What a canary's end means, where it was not well."""
    if ended.code == OPEN:
        return Unenforced(
            "This cluster does not enforce network policies: a pod reached the API server, which "
            "the policies of its namespace forbid. A pull request that is not trusted "
            "(preview_trusted: false) would reach all that the cluster does. Install a network "
            "plugin that enforces them, such as Calico or Cilium, or switch that on in yours, and "
            "remove policies from the namespace that are not the preview's."
        )
    last = (ended.said or ended.log)[-1:]
    said = last[0].rstrip(". ") if last else "it ended with code {0}".format(ended.code)
    if ended.late:
        said = "it has not ended within {0} s".format(SECONDS)
    return ClusterError(
        _UNKNOWN
        + "the pod that tries it could not: {0}. Its image, {1} (preview_canary_image), "
        "has to be one that the cluster can pull, with sh and nc.".format(said, image)
    )


def destinations(cluster: Cluster) -> List[Destination]:
    """Where pods find the API server: its service, and what is behind that. Network plugins look at
    the one or at the other.

    :raises ClusterError: it cannot be asked.
    """
    spec = cluster.ask("GET", SERVICE).body["spec"]
    behind = [("labelSelector", "kubernetes.io/service-name=kubernetes")]
    found = [Destination(spec["clusterIP"], port["port"]) for port in spec["ports"]]
    for each in cluster.ask("GET", SLICES, query=behind).body["items"]:
        found += [
            Destination(address, port["port"])
            for endpoint in each.get("endpoints") or []
            for address in endpoint["addresses"]
            for port in each.get("ports") or []
        ]
    return found


def permits(egress: Sequence[Mapping[str, Any]], destination: Destination) -> bool:
    """Whether rules of a policy let TCP through to an address that is no pod's."""
    return any(
        _leads_to(peer.get("ipBlock"), destination.address) and _on(rule, destination.port)
        for rule in egress
        for peer in rule["to"]
    )


def _leads_to(block: Any, address: str) -> bool:
    if not block:
        return False
    ip = ipaddress.ip_address(address)
    return ip in ipaddress.ip_network(block["cidr"]) and not any(
        ip in ipaddress.ip_network(each) for each in block.get("except") or []
    )


def _on(rule: Mapping[str, Any], port: int) -> bool:
    ports = rule.get("ports")
    return ports is None or any(
        each["protocol"] == "TCP" and each.get("port", port) == port for each in ports
    )


def egress_of(base: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The rules of the policy that holds for all pods, out of a preview's objects."""
    (policy,) = [
        each
        for each in base
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == POLICY
    ]
    rules: Sequence[Mapping[str, Any]] = policy["spec"]["egress"]
    return rules
