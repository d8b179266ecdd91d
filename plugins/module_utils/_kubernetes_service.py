# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person does with a preview's services in a cluster: read their logs, run a command."""

from __future__ import annotations

import json
import time
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import _diagnose
from ansible_collections.ephemera.preview.plugins.module_utils._checks import seconds
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    Cluster,
    ClusterError,
    at_once,
    folder,
)
from ansible_collections.ephemera.preview.plugins.module_utils._names import MAIN

LOG_MAX, OUTPUT_MAX = 4 << 20, 16 << 20
"""So many bytes are read of a pod's log, and of what a command prints."""
RUN_MAX = 3600
"""So many seconds a command is waited for: as long as one of ``x-preview`` may take at most."""
LOOK_MAX = 5
"""So many seconds a look at a pod's sockets may take."""
_PRINTED, _ERROR = (1, 2), 3
"""The channels on which a command's output and errors come, and at last how it has ended."""
_CUT = "(what comes after these {0} MiB is not shown)"


class Pod(NamedTuple):
    """One of a service's. ``label`` is what Compose would call it, as in ``web-1``."""

    name: str
    service: str
    label: str
    running: bool
    ready: bool


class Ended(NamedTuple):
    """How a command has ended, and what it has printed to its output and its errors."""

    rc: int
    out: str


def of(containers: Iterable[Mapping[str, Any]], service: str = "") -> List[Pod]:
    """The pods of a service, or of all, out of what the observer has seen: the oldest first."""
    found: List[Pod] = []
    count: Dict[str, int] = {}
    for each in sorted(containers, key=lambda c: (c["service"], c["created"], c["name"])):
        own = each["service"]
        if own and own == (service or own) and not each["ending"]:
            count[own] = count.get(own, 0) + 1
            label = "{0}-{1}".format(own, count[own])
            running, ready = each["state"] == "running", each["health"] == "healthy"
            found.append(Pod(each["name"], own, label, running, ready))
    return found


def logs(cluster: Cluster, namespace: str, pods: Sequence[Pod], tail: int, since: str) -> str:
    """The last lines of each pod, as Compose writes them.

    :param since: how far back, as in ``10m``; "" for all that there is.
    :raises ClusterError: they cannot be read.
    """
    if not pods:
        return ""
    query = [("container", MAIN), ("tailLines", str(tail)), ("limitBytes", str(LOG_MAX))]
    if since:
        query.append(("sinceSeconds", str(max(1, round(seconds(since) or 0)))))

    def read(pod: Pod) -> str:
        path = "{0}/{1}/log".format(folder("Pod", namespace), pod.name)
        try:
            return cluster.ask_text(path, query)
        except ClusterError as refused:
            if refused.status in (400, 404):  # it has not started yet, or is gone by now
                return ""
            raise

    texts = at_once(read, pods)
    width = max(len(pod.label) for pod in pods)
    return "".join(
        "{0}  | {1}\n".format(pod.label.ljust(width), line)
        for pod, text in zip(pods, texts)
        for line in _lines(text)
    )


def _lines(text: str) -> List[str]:
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if len(text.encode("utf-8")) >= LOG_MAX:
        lines.append(_CUT.format(LOG_MAX >> 20))
    return lines


def run(
    cluster: Cluster,
    namespace: str,
    pods: Sequence[Pod],
    command: Sequence[str],
    limit: float = RUN_MAX,
) -> Ended:
    """Run a command in one of the pods: one that is ready, else one that runs.

    :raises ClusterError: it cannot be started, or did not end within ``limit`` seconds.
    """
    running = sorted((pod for pod in pods if pod.running), key=lambda pod: not pod.ready)
    if not running:
        raise ClusterError(
            "Nothing was run: no pod of the service runs in {0} now.".format(namespace)
        )
    pod = running[0].name
    talk = _opened(cluster, namespace, pod, command)
    from websocket import WebSocketException

    try:
        out = _printed(talk, time.monotonic() + limit)
        if talk.is_open():
            raise ClusterError(
                "{0} has not ended within {1:g} s in the pod {2}, and may go on there.".format(
                    command[0], limit, pod
                )
            )
        return Ended(_code(talk.read_channel(_ERROR), pod), out)
    except (OSError, WebSocketException) as problem:
        raise ClusterError(
            "The connection to the pod {0} has broken off while {1} ran: {2}".format(
                pod, command[0], problem
            )
        ) from None
    finally:
        talk.close()


def listening(cluster: Cluster, namespace: str, pod: str) -> Optional[List[Tuple[str, int]]]:
    """Who listens in a pod, as (any|loopback|other, port); None where its image cannot tell."""
    tables = ["cat", "/proc/net/tcp", "/proc/net/tcp6"]
    try:
        ended = run(cluster, namespace, [Pod(pod, "", "", True, True)], tables, LOOK_MAX)
    except ClusterError:
        return None
    return _diagnose.listeners(ended.out) if "local_address" in ended.out else None


def _opened(cluster: Cluster, namespace: str, pod: str, command: Sequence[str]) -> Any:
    configuration = cluster.configuration()
    # Not before it is needed: it takes longer to load than most of our calls.
    from kubernetes import client
    from kubernetes.stream import stream

    with client.ApiClient(configuration) as api:
        try:
            return stream(
                client.CoreV1Api(api).connect_get_namespaced_pod_exec,
                pod,
                namespace,
                container=MAIN,
                command=list(command),
                stdin=False,
                stdout=True,
                stderr=True,
                tty=False,
                _preload_content=False,
            )
        except client.ApiException as refused:
            # Behind the status stands all that was sent and received.
            why = str(refused.reason).partition(" -+-+- ")[0]
            raise ClusterError(
                "The cluster runs nothing in the pod {0}: {1}. Check that the account of the "
                "kubeconfig may use pods/exec there.".format(pod, why)
            ) from None


def _printed(talk: Any, deadline: float) -> str:
    """What a command prints until its end, or until nobody waits any more."""
    parts: List[str] = []
    size = 0
    while talk.is_open() and time.monotonic() < deadline:
        talk.update(timeout=max(0.0, deadline - time.monotonic()))
        for channel in _PRINTED:
            said = talk.read_channel(channel)
            size += len(said)
            if size <= OUTPUT_MAX:
                parts.append(said)
    if size > OUTPUT_MAX:
        parts.append("\n" + _CUT.format(OUTPUT_MAX >> 20))
    return "".join(parts)


def _code(said: str, pod: str) -> int:
    """The exit code, out of the ``Status`` that the API server sends at the end."""
    try:
        status = json.loads(said)
    except ValueError:
        raise ClusterError("The connection to the pod {0} has broken off.".format(pod)) from None
    if status["status"] == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise ClusterError("It was not run in the pod {0}: {1}".format(pod, status.get("message")))
