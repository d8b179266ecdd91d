# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The platform's certificate beside a preview: an Ingress reads Secrets of its namespace only."""

from __future__ import annotations

from typing import Any, Dict, Mapping

from ansible_collections.ephemera.preview.plugins.module_utils import _kubernetes_apply
from ansible_collections.ephemera.preview.plugins.module_utils._ingress import TLS
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    Cluster,
    ClusterError,
)

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
