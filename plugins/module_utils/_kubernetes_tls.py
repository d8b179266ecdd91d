# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificates of a preview: the platform's, beside it, as an Ingress reads Secrets of its
namespace only; or those that cert-manager issues for it."""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping, Sequence, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _diagnose,
    _kubernetes_apply,
    _kubernetes_pods,
)
from ansible_collections.ephemera.preview.plugins.module_utils._ingress import TLS, certificate
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    Cluster,
    ClusterError,
    find,
    folder,
    knows,
)

ISSUED = ("Certificate", "cert-manager.io/v1")
APPROVED = "cert-manager.io"
"""The reason of its event that says so."""
TYPE = "kubernetes.io/tls"
KEYS = ("tls.crt", "tls.key")
"""All that is copied: what else a Secret holds is nobody's business in a preview."""


def copy_secret(cluster: Cluster, source: str, namespace: str, labels: Mapping[str, str]) -> bool:
    """Copy a certificate and its key to the Secret that a preview's Ingresses name.

    :param source: ``namespace/name``, as ``preview_tls_secret`` has it.
    :param labels: of the preview.
    :returns: whether that is a change.
    :raises ClusterError: the Secret is not there, may not be read, or holds no certificate; or the
        copy may not be written.
    """
    data = _certificate(cluster, source)
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": TYPE,
        "metadata": {"name": TLS, "namespace": namespace, "labels": dict(labels)},
        "data": data,
    }
    return _kubernetes_apply.apply(cluster, [body])


def _certificate(cluster: Cluster, source: str) -> Dict[str, Any]:
    namespace, dummy, name = source.partition("/")
    where = "preview_tls_secret: the Secret {0} in the namespace {1}".format(name, namespace)
    try:
        found = cluster.ask("GET", "/api/v1/namespaces/{0}/secrets/{1}".format(namespace, name))
    except ClusterError as refused:
        why = {
            403: "may not be read by the account that makes previews. Let a Role there allow it to "
            "get this one Secret.",
            404: "does not exist. Make it (kubectl create secret tls), or correct the setting.",
        }.get(refused.status)
        if why is None:
            raise
        raise ClusterError("{0} {1}".format(where, why), refused.status) from None
    kind = found.body.get("type")
    if kind != TYPE:
        raise ClusterError(
            "{0} is of type {1}, and a certificate's is {2}. Name one that kubectl create secret "
            "tls or cert-manager made.".format(where, kind, TYPE)
        )
    data = found.body.get("data") or {}
    if not all(data.get(key) for key in KEYS):
        raise ClusterError(
            "{0} holds no certificate yet: {1} or {2} is empty. Whoever issues it has not done "
            "so.".format(where, *KEYS)
        )
    return {key: data[key] for key in KEYS}


def refuse_missing(cluster: Cluster, issuer: str) -> None:
    """Refuse a cluster where nobody issues certificates.

    :param issuer: the setting.
    :raises ClusterError: cert-manager is missing.
    """
    if issuer and not knows(cluster, *ISSUED):
        raise ClusterError(
            "preview_tls_issuer is set, and the cluster knows no {0} of {1}. Install cert-manager "
            "there, or unset it.".format(*ISSUED)
        )


def unissued(
    cluster: Cluster, namespace: str, issuer: str, services: Sequence[str]
) -> Dict[str, _diagnose.Unissued]:
    """Those of these services whose certificates cert-manager has not issued yet.

    :param issuer: the setting.
    """
    place = folder("Secret", namespace) + "/"
    names = {each: certificate(each) for each in services}
    missing = {each: name for each, name in names.items() if not find(cluster, place + name)}
    events = _kubernetes_pods.events_of(cluster, namespace) if missing else []
    return {
        each: _diagnose.Unissued(
            issuer, "--namespace {0} {1}".format(namespace, name), *last_word(events, name)
        )
        for each, name in missing.items()
    }


def last_word(events: Sequence[Mapping[str, Any]], name: str) -> Tuple[str, str]:
    """What cert-manager said last of a certificate that is to be issued: reason and message.

    :param events: all of a namespace, the last at the end.
    """
    # Its request has its name with a number, the order and the challenge of that have further ones.
    own = re.compile(re.escape(name) + r"(-\d+)*")

    def is_told(event: Mapping[str, Any]) -> bool:
        about = event["involvedObject"]
        theirs = "cert-manager.io/" in about.get("apiVersion", "")
        # That a request is approved may be told after what has come of it.
        news = event.get("reason") != APPROVED
        return theirs and news and bool(own.fullmatch(about["name"]))

    def when(event: Mapping[str, Any]) -> Tuple[str, str]:
        # Of what is told in the same second, the farthest on the way is the last.
        return str(event.get("lastTimestamp") or ""), event["involvedObject"]["name"]

    told = sorted(filter(is_told, events), key=when)
    last = told[-1] if told else {}
    return str(last.get("reason") or ""), str(last.get("message") or "")
