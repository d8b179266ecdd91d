# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The External Secrets Operator of a cluster: it is asked for a preview's secrets, and awaited."""

from __future__ import annotations

import base64
import time
from typing import Any, List, Mapping, Sequence

from ansible_collections.ephemera.preview.plugins.module_utils import _diagnose, _kubernetes_apply
from ansible_collections.ephemera.preview.plugins.module_utils._external import KIND
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    Cluster,
    ClusterError,
    folder,
    knows,
    place,
)
from ansible_collections.ephemera.preview.plugins.module_utils._redact import in_every_form

GROUP = "external-secrets.io/v1"
PATIENCE = 10
"""For so many seconds the operator may say that it has failed: it tries again."""


def provide(cluster: Cluster, wanted: Sequence[Mapping[str, Any]], seconds: float) -> bool:
    """Ask the operator for Secrets and wait until they are there. Whether that is a change.

    :param wanted: ExternalSecrets.
    :raises ClusterError: the cluster has no such operator, or it does not bring them.
    """
    if not wanted:
        return False
    if not knows(cluster, KIND, GROUP):
        raise ClusterError(
            "preview_external_secrets is set, and the cluster knows no {0} of {1}. Install the "
            "External Secrets Operator there, or unset it.".format(KIND, GROUP)
        )
    changed = _kubernetes_apply.apply(cluster, wanted)
    begun = time.monotonic()
    for each in wanted:
        while True:
            seen = cluster.ask("GET", place(each)).body
            if is_ready(seen):
                break
            # While the operator says nothing, it may only be busy.
            patience = min(PATIENCE, seconds) if _condition(seen) else seconds
            if time.monotonic() - begun >= patience:
                raise ClusterError(trouble(seen))
            time.sleep(_diagnose.POLL)
    return changed


def _condition(seen: Mapping[str, Any]) -> Mapping[str, Any]:
    conditions = (seen.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each["type"] == "Ready"), {})


def is_ready(seen: Mapping[str, Any]) -> bool:
    """Whether an ExternalSecret has brought its Secret."""
    return bool(_condition(seen).get("status") == "True")


def trouble(seen: Mapping[str, Any]) -> str:
    """Why an ExternalSecret has not brought its Secret."""
    store, ready = seen["spec"]["secretStoreRef"], _condition(seen)
    if not ready:
        return (
            "preview_external_secrets: nobody fetches the secrets of {0}. Look whether the "
            "External Secrets Operator runs in the cluster.".format(seen["metadata"]["namespace"])
        )
    said = str(ready.get("message") or ready.get("reason") or "it does not say why")
    return (
        "preview_external_secrets: the {0} {1} does not give what is asked for: {2}. Check the "
        "store, and the keys that the setting names.".format(
            store["kind"], store["name"], said.strip().rstrip(". ")[:300]
        )
    )


def values(cluster: Cluster, name: str) -> List[str]:
    """The values that the operator has brought into a preview, which nobody may be shown."""
    held = cluster.ask("GET", folder("Secret", name)).body["items"]
    found = [
        base64.b64decode(value).decode("utf-8", "replace")
        for secret in held
        if any(each["kind"] == KIND for each in secret["metadata"].get("ownerReferences") or [])
        for value in (secret.get("data") or {}).values()
    ]
    return in_every_form(found)
