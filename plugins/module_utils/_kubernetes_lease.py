# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One writer a preview, in a cluster: the lease and the state are annotations of its namespace.

Every change names the version of the namespace that it was decided on, so that of two writers the
API server lets one through and the other looks again. Its clock is the API server's.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple

from ansible_collections.ephemera.preview.plugins.module_utils import _lease
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    LEASE,
    MERGE,
    STATE,
    Cluster,
    ClusterError,
    find,
    folder,
    labels,
)
from ansible_collections.ephemera.preview.plugins.module_utils._names import PREFIX

ATTEMPTS = 10
"""So often another writer may come first: a person's two runs, not a thousand."""


class Held(Exception):
    """Another run has it. ``line`` is its lease, "" where the namespace is gone."""

    def __init__(self, line: str) -> None:
        super().__init__(line)
        self.line = line


class Writer(NamedTuple):
    """A run that wants to write to a preview.

    :ivar labels: of the preview, its owner among them.
    :ivar holder: the run as the last three fields of a lease, see ``_lease.holder``.
    :ivar dead: an owner known to be gone.
    """

    name: str
    labels: Mapping[str, str]
    run: str
    kind: str
    holder: str
    dead: str = ""

    def line(self, now: int, seconds: int) -> str:
        return "{0} {1} {2} {3}".format(self.run, now + seconds, self.kind, self.holder)


def hold(cluster: Cluster, writer: Writer, action: str, seconds: int, state: str = "") -> str:
    """Take or keep the lease, and replace the state where one is given.

    An ``up`` makes the namespace where it is missing; a ``down`` finds nothing to do then.

    :param action: ``take`` or ``keep``.
    :returns: the run whose lease was ended, or nothing.
    :raises Held: another run has it, or the preview is going.
    :raises ClusterError: the namespace is somebody else's, or the cluster refuses.
    """
    path = "{0}/{1}".format(folder("Namespace"), writer.name)
    for _attempt in range(ATTEMPTS):
        found = find(cluster, path)
        if found is None:
            if action == "keep":
                raise Held("")
            if writer.kind == "down":
                return ""
            if _made(cluster, writer, seconds, state):
                return ""
            continue
        metadata = found.body["metadata"]
        _check(metadata, writer)
        line = (metadata.get("annotations") or {}).get(LEASE, "")
        if "deletionTimestamp" in metadata and writer.kind == "up":
            raise Held(line)
        may, over = _lease.verdict(line, action, writer.run, writer.kind, found.now, writer.dead)
        if not may:
            raise Held(line)
        noted = {LEASE: writer.line(found.now, seconds)}
        if state:
            noted[STATE] = state
        if _patched(cluster, path, metadata["resourceVersion"], noted):
            return over
    raise ClusterError(
        "The lease of {0} could not be written: other runs changed its namespace {1} times in "
        "between. Run again.".format(writer.name, ATTEMPTS)
    )


def drop(cluster: Cluster, writer: Writer, state: str = "") -> None:
    """Let the lease go, and write the last state under it where there is one.

    :raises Held: there is a state, and this run no longer has the lease.
    """
    path = "{0}/{1}".format(folder("Namespace"), writer.name)
    line = ""
    for _attempt in range(ATTEMPTS):
        found = find(cluster, path)
        metadata = found.body["metadata"] if found else {}
        line = (metadata.get("annotations") or {}).get(LEASE, "")
        held = _lease.parse(line)
        if not held or held.owner != writer.run:
            break
        noted: Dict[str, Any] = {LEASE: None}
        if state:
            noted[STATE] = state
        if _patched(cluster, path, metadata["resourceVersion"], noted):
            return
    if state:
        raise Held(line)


def _check(metadata: Mapping[str, Any], writer: Writer) -> None:
    own = labels(metadata)
    for key in ("name", "owner"):
        if own.get(PREFIX + key) != writer.labels[PREFIX + key]:
            raise ClusterError(
                "The namespace {0} is somebody else's: its label {1} is {2!r}, and would be {3!r}. "
                "Nothing of it was changed. Give the app another name (preview_app).".format(
                    writer.name,
                    PREFIX + key,
                    own.get(PREFIX + key, ""),
                    writer.labels[PREFIX + key],
                )
            )


def _made(cluster: Cluster, writer: Writer, seconds: int, state: str) -> bool:
    """Make the namespace under the lease. False where another came first."""
    noted: Dict[str, str] = {STATE: state} if state else {}
    # The server's clock is not known before it has answered.
    now = cluster.ask("GET", "/version").now
    noted[LEASE] = writer.line(now, seconds)
    metadata = {"name": writer.name, "labels": dict(writer.labels), "annotations": noted}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    try:
        cluster.ask("POST", folder("Namespace"), body, [("fieldManager", "ephemera.preview.lease")])
    except ClusterError as refused:
        if refused.status == 409:
            return False
        raise
    return True


def _patched(cluster: Cluster, path: str, version: str, noted: Mapping[str, Any]) -> bool:
    """Change annotations of what was looked at. False where it is another by now."""
    body = {"metadata": {"resourceVersion": version, "annotations": dict(noted)}}
    try:
        cluster.ask("PATCH", path, body, [("fieldManager", "ephemera.preview.lease")], MERGE)
    except ClusterError as refused:
        if refused.status in (404, 409):
            return False
        raise
    return True
