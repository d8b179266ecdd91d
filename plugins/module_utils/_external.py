# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets that the External Secrets Operator brings into a cluster: ``preview_external_secrets``.

Nobody here knows their values. While a Compose file is read, a mark stands for each; where one
stands alone as a variable of a service, or as a Compose secret, the pod takes the value from the
operator's Secret, and anywhere else it is refused. Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils._refusal import Path, key_path

KIND = "ExternalSecret"
REFRESH = "1h"

_MARK = "(external-secret:{0})"
_MARKED = re.compile(r"\(external-secret:(\w+)\)", re.ASCII)


def data(preview: Mapping[str, Any], settings: Mapping[str, Any]) -> Dict[str, Any]:
    """By variable where its value lies; nothing for pull requests that are not trusted."""
    wanted = settings["preview_external_secrets"] if preview["trusted"] else {}
    return dict(wanted.get("data", {}))


def marks(preview: Mapping[str, Any], settings: Mapping[str, Any]) -> Dict[str, str]:
    """What stands for each value while a Compose file is read."""
    return {name: _MARK.format(name) for name in data(preview, settings)}


def misplaced(
    services: Mapping[str, Any],
    definition: Mapping[str, Any],
    granted: Mapping[str, Any],
) -> str:
    """Why a mark cannot be replaced by its value where it stands; "" where all can."""
    read = {
        "services": services,
        "configs": definition.get("configs", {}),
        "secrets": definition.get("secrets", {}),
        "x-preview": definition["x_preview"]["services"],
    }
    for path, text in _texts(read, ()):
        for name in _MARKED.findall(text):
            alone = text == _MARK.format(name) and _has_place(path)
            if name in granted and not alone:
                return (
                    "{0} holds ${{{1}}}, which preview_external_secrets grants: only the cluster "
                    "knows its value. Write it alone, as a variable of a service (environment: "
                    "{1}: ${{{1}}}), and let the app put it where it belongs.".format(
                        key_path(path), name
                    )
                )
    return ""


def _texts(value: Any, path: Path) -> Iterator[Tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key, path)
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from _texts(item, (*path, at))


def _has_place(path: Path) -> bool:
    """Whether a pod can take from a Secret what stands there: a variable, or a Compose secret."""
    of_service = len(path) == 4 and path[0] == "services" and path[2] == "environment"
    return of_service or (len(path) == 3 and path[0] == "secrets" and path[2] == "content")


class Source(NamedTuple):
    """The operator's Secret of a preview: what makes it, and the variables that it holds."""

    made_by: Dict[str, Any]
    names: List[str]

    def reference(self, value: Any) -> Optional[Dict[str, str]]:
        """Where a pod finds a value, if it is a mark."""
        match = _MARKED.fullmatch(value) if isinstance(value, str) else None
        if match is None or match.group(1) not in self.names:
            return None
        return {"name": self.made_by["metadata"]["name"], "key": match.group(1)}


def source(
    preview: Mapping[str, Any],
    settings: Mapping[str, Any],
    make: Callable[..., Dict[str, Any]],
) -> Optional[Source]:
    """What brings the secrets of a preview into its namespace, if it is granted any.

    Its name tells whether it is another, so that pods are replaced when it is.
    """
    granted = data(preview, settings)
    if not granted:
        return None
    spec = {
        "refreshInterval": REFRESH,
        "secretStoreRef": dict(settings["preview_external_secrets"]["store"]),
        "data": [{"secretKey": name, "remoteRef": dict(granted[name])} for name in sorted(granted)],
    }
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:10]
    name = "external-" + digest
    spec["target"] = {"name": name, "creationPolicy": "Owner"}
    return Source(make(KIND, name, spec=spec), sorted(granted))
