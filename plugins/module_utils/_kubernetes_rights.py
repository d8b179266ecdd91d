# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the account that makes previews has to be allowed in a cluster: ``RIGHTS``, which is also
what ``examples/kubernetes/rbac.yaml`` grants."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    KINDS,
    Cluster,
    at_once,
)

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
TRAEFIK = "traefik.io"


class Right(NamedTuple):
    """A verb of a resource, in all namespaces; or of a subresource, as in ``pods/log``."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        where = "{0}.{1}".format(self.resource, self.group) if self.group else self.resource
        return "{0} {1}".format(self.verb, where)


# What is made of most kinds, and what of the others.
_USUAL = ("get", "list", "create", "patch", "delete")
_OF_KIND: Dict[str, Tuple[str, ...]] = {
    "Event": ("list",),
    "PersistentVolumeClaim": ("get", "list", "create", "patch", "deletecollection"),
    "Pod": ("list", "deletecollection"),
    "ReplicaSet": ("list",),
}
_OTHERS: Dict[Tuple[str, str], Tuple[str, ...]] = {
    ("", "pods/log"): ("get",),
    ("", "pods/exec"): ("get", "create"),
    ("networking.k8s.io", "ingressclasses"): ("list",),
    ("storage.k8s.io", "storageclasses"): ("list",),
    ("discovery.k8s.io", "endpointslices"): ("list",),
}


def _all() -> List[Right]:
    found = []
    for kind, (api, resource) in KINDS.items():
        # /api/v1, or /apis/<group>/<version>
        group = api.split("/")[2] if api.startswith("/apis/") else ""
        found += [Right(group, resource, verb) for verb in _OF_KIND.get(kind, _USUAL)]
    for (group, resource), verbs in _OTHERS.items():
        found += [Right(group, resource, verb) for verb in verbs]
    return found


RIGHTS = _all()


def needed(traefik: bool) -> List[Right]:
    """The rights that all stages and playbooks together need.

    :param traefik: whether Traefik is the ingress controller.
    """
    return [right for right in RIGHTS if traefik or right.group != TRAEFIK]


def missing(cluster: Cluster, traefik: bool) -> List[Right]:
    """Those of ``needed`` that the account has not got.

    :raises ClusterError: the cluster cannot be asked.
    """
    wanted = needed(traefik)
    allowed = at_once(lambda right: _is_allowed(cluster, right), wanted)
    return [right for right, is_allowed in zip(wanted, allowed) if not is_allowed]


def _is_allowed(cluster: Cluster, right: Right) -> bool:
    resource, dummy, subresource = right.resource.partition("/")
    asked = {
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "verb": right.verb,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    return bool(cluster.ask("POST", REVIEWS, review).body["status"]["allowed"])
