# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pods of a preview's services as the diagnosis reads containers.

``look`` and ``told`` are the edge. All else is pure.
"""

from __future__ import annotations

import calendar
import re
import time
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import _diagnose
from ansible_collections.ephemera.preview.plugins.module_utils._http import Answer as Heard
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    Answer,
    Cluster,
    as_container,
    at_once,
    folder,
    is_replaced,
    labels,
    spec_of,
    status_of,
)
from ansible_collections.ephemera.preview.plugins.module_utils._names import SERVICE
from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact

_PULLS = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
_STARTS = ("StartError", "ContainerCannotRun")
_FORBIDDEN = (
    ("root", r"container has runAsNonRoot and image will run as root()"),
    ("named_user", r"container has runAsNonRoot and image has non-numeric user \(([^)]{1,100})\)"),
)
NOBODY = 502
"""What it says where nothing listens."""
# A gateway's own words then: the diagnosis knows them.
_REFUSED = Heard(NOBODY, "", body=b"Bad Gateway")


# What makes the pods of a preview's services, and those.
_WORKLOADS = ("Pod", "ReplicaSet", "Deployment", "StatefulSet", "Job")
_REVISION = "deployment.kubernetes.io/revision"


def look(cluster: Cluster, name: str, secrets: Sequence[str] = ()) -> List[_diagnose.Container]:
    """The containers of a preview's services as the diagnosis reads them.

    :raises ClusterError: the cluster cannot be asked.
    """

    def listed(kind: str) -> Answer:
        return cluster.ask("GET", folder(kind, name), query=[("labelSelector", SERVICE)])

    answers = dict(zip(_WORKLOADS, at_once(listed, _WORKLOADS)))
    items = {kind: list(answer.body["items"]) for kind, answer in answers.items()}
    found = looked(items, answers["Pod"].now, secrets)
    # Deployments say in their status why they get no pods; the others only in events.
    if any(c.held[0] == "pending" and not c.image for c in found):
        said = told(cluster, name, "FailedCreate")
        found = [
            c._replace(held=refused(said[c.ident].message, secrets)) if c.ident in said else c
            for c in found
        ]
    since = {
        labels(each["metadata"]).get(SERVICE, ""): changed(each) for each in items["StatefulSet"]
    }
    if any(c.service in since and c.up < _diagnose.RESTARTED for c in found):
        found = remade(found, since, told(cluster, name, "Evicted"))
    if any(_unready(c) for c in found):
        said = told(cluster, name, "Unhealthy")
        probes = {pod["metadata"]["name"]: _probe(pod) for pod in items["Pod"]}
        found = [
            _checked(c, said[c.ident], probes[c.ident], secrets) if c.ident in said else c
            for c in found
        ]
    return without_volumes(cluster, name, found, items["Pod"], secrets)


class Told(NamedTuple):
    """What events say of one object: the last, how often, and when at last."""

    message: str
    times: int
    last: str = ""


def told(cluster: Cluster, name: str, reason: str) -> Dict[str, Told]:
    """The events of one reason by the name of what they are about."""
    found: Dict[str, Told] = {}
    for event in events_of(cluster, name, "reason=" + reason):
        about = event["involvedObject"]["name"]
        before = found[about].times if about in found else 0
        times = before + int(event.get("count") or 1)
        found[about] = Told(event.get("message", ""), times, str(event.get("lastTimestamp") or ""))
    return found


def events_of(cluster: Cluster, name: str, selector: str = "") -> List[Mapping[str, Any]]:
    """What is told of the objects of a preview, the last at the end."""
    query = [("fieldSelector", selector)]
    events = list(cluster.ask("GET", folder("Event", name), query=query).body["items"])
    return sorted(events, key=lambda event: str(event.get("lastTimestamp") or ""))


def without_volumes(
    cluster: Cluster,
    name: str,
    found: Sequence[_diagnose.Container],
    pods: Sequence[Mapping[str, Any]],
    secrets: Sequence[str],
) -> List[_diagnose.Container]:
    """Containers in the light of what events say of the claims that they wait for."""
    claims = {pod["metadata"]["name"]: _claims(pod) for pod in pods if _is_unplaced(pod)}
    waiting = {c.ident for c in found if c.held[0] == "pending" and claims.get(c.ident)}
    if not waiting:
        return list(found)
    why = unbound(events_of(cluster, name, "involvedObject.kind=PersistentVolumeClaim"))
    said = {ident: next((why[c] for c in claims[ident] if c in why), "") for ident in waiting}
    return [
        c._replace(held=("no_volume", _brief(redact(said[c.ident], secrets))))
        if said.get(c.ident)
        else c
        for c in found
    ]


def _is_unplaced(pod: Mapping[str, Any]) -> bool:
    return not pod["spec"].get("nodeName")


def _claims(pod: Mapping[str, Any]) -> List[str]:
    mounted = [each.get("persistentVolumeClaim") for each in pod["spec"].get("volumes") or []]
    return [claim["claimName"] for claim in mounted if claim]


def unbound(events: Sequence[Mapping[str, Any]]) -> Dict[str, str]:
    """Why claims get no volume, by their names, out of all events of claims. One that is merely
    slow is none of them."""
    said: Dict[str, Dict[str, str]] = {}
    for event in events:
        mine = said.setdefault(event["involvedObject"]["name"], {})
        mine[event.get("reason", "")] = event.get("message", "")
    found = {}
    for claim, mine in said.items():
        failed = mine.get("ProvisioningFailed") or mine.get("FailedBinding") or ""
        # Whoever makes volumes says that he begins.
        nobody = "" if "Provisioning" in mine else mine.get("ExternalProvisioning", "")
        if nobody or (failed and not _SLOW.search(failed)):
            found[claim] = nobody or failed
    return found


def _unready(container: _diagnose.Container) -> bool:
    heard = container.heard
    return container.health == "starting" or (heard is not None and heard.status != _diagnose.READY)


def _probe(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(spec_of(pod).get("readinessProbe") or {})


def _checked(
    container: _diagnose.Container, told: Told, probe: Mapping[str, Any], secrets: Sequence[str]
) -> _diagnose.Container:
    """The same with what its probe has said."""
    if not _unready(container):
        return container
    if container.heard is not None:
        return container._replace(heard=_heard(told.message))
    said = redact(told.message.partition("failed: ")[2], secrets)
    times = int(probe.get("failureThreshold", 3))
    # After that many events of a pod, kubelets send fewer: then its age tells.
    often, old = told.times >= min(times, 20), (times - 1) * int(probe.get("periodSeconds", 10))
    sick = often and container.up >= old
    return container._replace(check_said=said, health="unhealthy" if sick else "starting")


def _heard(message: str) -> Heard:
    """What a kubelet was answered, by what it says of it."""
    status = re.search(r"HTTP probe failed with statuscode: (\d+)", message)
    if status:
        return Heard(int(status.group(1)), "")
    if "connection refused" in message:
        return _REFUSED
    if "Client.Timeout" in message or "deadline exceeded" in message or "i/o timeout" in message:
        return Heard(0, "", trouble="timeout")
    return Heard(0, "", trouble="closed")


def looked(
    items: Mapping[str, Sequence[Mapping[str, Any]]], now: int, secrets: Sequence[str] = ()
) -> List[_diagnose.Container]:
    """The same out of what there is by kind: of each service the pods of its newest version, and
    for each pod that is still to be made one that has no image."""
    pods = [pod for pod in items["Pod"] if not is_replaced(pod)]
    found: List[_diagnose.Container] = []
    for kind in ("Deployment", "StatefulSet", "Job"):
        for each in items[kind]:
            makers = _makers(kind, each, items["ReplicaSet"])
            mine = [pod for pod in pods if _made_by(pod, kind, each, makers)]
            full = [_full(pod) for pod in items["Pod"] if _made_by(pod, kind, each, makers)]
            found += [_evicted(looked_at(pod, now, secrets), full) for pod in mine]
            wanted = 1 if kind == "Job" else int(each["spec"].get("replicas", 1))
            held = ("pending", "the cluster has not made its pod yet")
            for maker in makers:
                for condition in maker.get("status", {}).get("conditions") or []:
                    if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                        held = refused(condition.get("message", ""), secrets)
            service = labels(each["metadata"]).get(SERVICE, "")
            ident = each["metadata"]["name"]
            missing = _diagnose.Container(ident, service, status="created", held=held)
            found += [missing] * (wanted - len(mine))
    return found


def _full(pod: Mapping[str, Any]) -> str:
    """What the cluster says of a pod that it has evicted for what it wrote, else ""."""
    status = pod.get("status") or {}
    return _overfull(str(status.get("message", "")) if status.get("reason") == "Evicted" else "")


def _overfull(said: str) -> str:
    """Why a pod was evicted, where that is for what it wrote, else ""."""
    return _brief(said) if _diagnose.cause_of([said]) else ""


def _evicted(container: _diagnose.Container, full: Sequence[str]) -> _diagnose.Container:
    """A container in the light of why others of its version had to go."""
    said = max(full, default="")
    if not said or container.up >= _diagnose.RESTARTED:
        return container
    return container._replace(held=("no_disk", said))


def remade(
    found: Sequence[_diagnose.Container], since: Mapping[str, str], said: Mapping[str, Told]
) -> List[_diagnose.Container]:
    """Containers in the light of why others of their name had to go: a Deployment leaves a pod that
    was evicted, but a StatefulSet makes it anew, and only events tell.

    :param since: when what is wanted of each such service last changed.
    """
    return [
        _evicted(c, [_overfull(said[c.ident].message)])
        if c.service in since and c.ident in said and said[c.ident].last >= since[c.service]
        else c
        for c in found
    ]


def changed(thing: Mapping[str, Any]) -> str:
    """When what is wanted of an object last changed."""
    changes = thing["metadata"].get("managedFields") or []
    return max((str(each["time"]) for each in changes if not each.get("subresource")), default="")


def _makers(
    kind: str, workload: Mapping[str, Any], sets: Sequence[Mapping[str, Any]]
) -> List[Mapping[str, Any]]:
    """What makes a workload's pods now: a deployment's newest replica set, else itself; nothing
    while its controller has not seen what is wanted."""
    metadata, status = workload["metadata"], workload.get("status") or {}
    if kind != "Job" and status.get("observedGeneration", 0) < metadata["generation"]:
        return []
    if kind != "Deployment":
        return [workload]
    revision = (metadata.get("annotations") or {}).get(_REVISION)
    return [
        each
        for each in sets
        if owner(each) == metadata["uid"]
        and (each["metadata"].get("annotations") or {}).get(_REVISION) == revision
    ]


def _made_by(
    pod: Mapping[str, Any],
    kind: str,
    workload: Mapping[str, Any],
    makers: Sequence[Mapping[str, Any]],
) -> bool:
    if owner(pod) not in {maker["metadata"]["uid"] for maker in makers}:
        return False
    if kind != "StatefulSet":
        return True
    revision = (pod["metadata"].get("labels") or {}).get("controller-revision-hash")
    return bool(revision == (workload.get("status") or {}).get("updateRevision"))


def owner(thing: Mapping[str, Any]) -> str:
    """The id of what controls an object, "" where nothing does."""
    owners = thing["metadata"].get("ownerReferences") or []
    return next((str(each["uid"]) for each in owners if each.get("controller")), "")


def refused(said: str, secrets: Sequence[str]) -> Tuple[str, str]:
    """Why a pod may not even be made, out of what the API server told its controller."""
    said = redact(said, secrets)
    return "quota" if "exceeded quota" in said else "forbidden", _brief(said)


def looked_at(pod: Mapping[str, Any], now: int, secrets: Sequence[str] = ()) -> _diagnose.Container:
    """One pod as the diagnosis reads it."""
    spec, main = spec_of(pod), status_of(pod)
    state = main.get("state") or {}
    ended = state.get("terminated") or (main.get("lastState") or {}).get("terminated") or {}
    running = "running" in state
    seen = as_container(pod)
    error = ""
    if not running and ended.get("reason") in _STARTS:
        error = redact(ended.get("message", ""), secrets)
    word = "created" if error else seen["state"]
    probe = _probe(pod) if running else {}
    asked = Heard(_diagnose.READY, "") if seen["health"] == "healthy" else _REFUSED
    held, full = ("", ""), _full(pod)
    if full:
        held = ("no_disk", full)
    elif word == "created" and not error:
        held = _held(pod, state, secrets)
    return _diagnose.Container(
        pod["metadata"]["name"],
        seen["service"],
        image=spec["image"],
        image_id=main.get("imageID", ""),
        status=word,
        health=seen["health"] if "exec" in probe else "",
        code=int(ended.get("exitCode", 0)),
        error=error,
        oom=ended.get("reason") == "OOMKilled",
        restarts=int(main.get("restartCount", 0)),
        up=float(now - _seconds(state["running"]["startedAt"])) if running else 0.0,
        exposes=bool(spec.get("ports")),
        held=held,
        heard=asked if "httpGet" in probe or "tcpSocket" in probe else None,
    )


# In the words of the scheduler: of a claim that is not there, or not for this pod; of volumes that
# nobody makes, and are used up; and of one that may be on its way.
_NO_VOLUME = re.compile('persistentvolumeclaim "|didn.t find available persistent volumes')
_UNBOUND = "unbound immediate PersistentVolumeClaims"
# In the words of gRPC, which CSI speaks: a provisioner goes on.
_SLOW = re.compile("DeadlineExceeded|Aborted")

# In the words of containerd: to a registry that takes passwords, and to one that gives tokens.
_ANONYMOUS = re.compile("no basic auth credentials|failed to fetch anonymous token")


def _held(
    pod: Mapping[str, Any], state: Mapping[str, Any], secrets: Sequence[str]
) -> Tuple[str, str]:
    """What keeps a pod from running."""
    waiting = state.get("waiting") or {}
    said = redact(str(waiting.get("message") or waiting.get("reason") or ""), secrets)
    if waiting.get("reason") in _PULLS:
        # A node that is slow pulls before it has got the login, and once more after ten seconds.
        anonymous = pod["spec"].get("imagePullSecrets") and _ANONYMOUS.search(said)
        return ("pull_unknown", "") if anonymous else _diagnose.pull_failed(said)
    for code, pattern in _FORBIDDEN:
        match = re.search(pattern, said)
        if match:
            return code, match.group(1)
    for condition in pod["status"].get("conditions") or []:
        if condition.get("reason") == "Unschedulable":
            why = _brief(redact(condition.get("message", ""), secrets))
            if _UNBOUND in why:
                return "pending", why
            return "no_volume" if _NO_VOLUME.search(why) else "no_room", why
    return "pending", _brief(said) or "no node has taken it"


def _brief(said: str) -> str:
    """One line without its end: sentences go on after it."""
    return said.strip().split("\n")[0][:300].rstrip(". ")


def _seconds(stamp: str) -> int:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))
