# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who serves the Ingresses of previews. A controller that is not Traefik passes over middlewares,
and a preview that asks for a password would be open."""

from __future__ import annotations

from typing import Any, Collection, Mapping, NamedTuple, Optional, Sequence

from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    Cluster,
    ClusterError,
    folder,
)

CLASSES = "/apis/networking.k8s.io/v1/ingressclasses"
DEFAULT = "ingressclass.kubernetes.io/is-default-class"
TRAEFIK = "traefik.io/ingress-controller"


class Serving(NamedTuple):
    """An ingress class, and the controller that serves it."""

    name: str
    controller: str


def refuse_other(cluster: Cluster, settings: Mapping[str, Any]) -> None:
    """Refuse to take a controller for Traefik that is not.

    :raises ClusterError: the class is another's, or is not there; or the cluster cannot be asked.
    """
    if settings["preview_ingress_controller"] == "traefik":
        known(cluster, settings)


def known(cluster: Cluster, settings: Mapping[str, Any]) -> Serving:
    """Who serves the Ingresses of previews.

    :raises ClusterError: nobody, or another than the settings say; or the cluster cannot be asked.
    """
    classes = cluster.ask("GET", CLASSES).body["items"]
    wanted = settings["preview_ingress_class"]
    found = serving(classes, wanted)
    if found is None or settings["preview_ingress_controller"] == "traefik":
        problem = mismatch(classes, wanted)
        if found is None or problem:
            raise ClusterError(problem)
    return found


def refuse_taken(cluster: Cluster, hosts: Collection[str], namespace: str) -> None:
    """Refuse hosts to which an Ingress outside a preview's namespace leads already: which of two
    is asked is up to the controller.

    :raises ClusterError: there is one; or the cluster cannot be asked.
    """
    problem = taken(cluster.ask("GET", folder("Ingress")).body["items"], hosts, namespace)
    if problem:
        raise ClusterError(problem)


def taken(ingresses: Sequence[Mapping[str, Any]], hosts: Collection[str], namespace: str) -> str:
    """By whom one of the hosts is taken, "" where none is."""
    for each in ingresses:
        metadata = each["metadata"]
        if metadata["namespace"] == namespace:
            continue
        for rule in each["spec"].get("rules") or []:
            host = rule.get("host", "")
            if host in hosts:
                return (
                    "{0} leads to something else already: the Ingress {1} in the namespace {2} has "
                    "that host. Remove it there, or give previews other hosts (preview_domain, "
                    "preview_host_format).".format(host, metadata["name"], metadata["namespace"])
                )
    return ""


def serving(classes: Sequence[Mapping[str, Any]], wanted: str) -> Optional[Serving]:
    """Who serves a class.

    :param wanted: a class's name, or "" for the cluster's default.
    """
    for each in classes:
        name, metadata = each["metadata"]["name"], each["metadata"]
        is_default = (metadata.get("annotations") or {}).get(DEFAULT) == "true"
        if name == wanted or (not wanted and is_default):
            return Serving(name, each["spec"].get("controller", ""))
    return None


def mismatch(classes: Sequence[Mapping[str, Any]], wanted: str) -> str:
    """Why Traefik does not serve a class, "" where it does.

    :param wanted: a class's name, or "" for the cluster's default.
    """
    names = ", ".join(sorted(each["metadata"]["name"] for each in classes)) or "none"
    found = serving(classes, wanted)
    if found and found.controller == TRAEFIK:
        return ""
    if found:
        return (
            "The ingress class {0} is served by {1}, which passes over Traefik's middlewares: "
            "passwords and rates would not be enforced. Set preview_ingress_controller to "
            "other, or preview_ingress_class to a class of Traefik's (there are: {2}).".format(
                found.name, found.controller, names
            )
        )
    if wanted:
        return "preview_ingress_class: there is no ingress class {0} (there are: {1}).".format(
            wanted, names
        )
    return (
        "No ingress class is the cluster's default. Set preview_ingress_class (there are: "
        "{0}).".format(names)
    )
