# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A preview's objects applied to a cluster, waited for, and pruned.

The API server does the work: by server-side apply it keeps which fields are ours. A module of
Ansible's for each part would start Python anew and ask for all kinds of the API each time.
"""

from __future__ import annotations

import re
import time
from fractions import Fraction
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _diagnose,
    _kubernetes_pods,
    _kubernetes_service,
)
from ansible_collections.ephemera.preview.plugins.module_utils._http import Answer
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes import (
    APPLIED,
    APPLY,
    MANAGER,
    MERGE,
    Cluster,
    ClusterError,
    at_once,
    delete,
    find,
    folder,
    listed,
    place,
)
from ansible_collections.ephemera.preview.plugins.module_utils._names import (
    HOOK,
    MAIN,
    PREFIX,
    SERVICE,
)

ANEW = 1.0  # seconds after which a pod's sockets are read anew
LOG = 60  # lines that are looked at of what failed

_WELL = Answer(_diagnose.READY, "")
Object = Dict[str, Any]

# What is removed where it is no longer wanted. A claim is not: it holds data.
_PRUNED = (*APPLIED, "Job")
WORKLOADS = ("Deployment", "StatefulSet", "Job", "HorizontalPodAutoscaler")
"""All that makes pods of a preview run."""


def pinned(thing: Mapping[str, Any], pins: Mapping[str, str]) -> Object:
    """The same with each image by its digest, so that what runs is what was built."""
    template = thing.get("spec", {}).get("template")
    if not template:
        return dict(thing)
    containers = [
        dict(each, image=pins.get(each["image"], each["image"]))
        for each in template["spec"]["containers"]
    ]
    made = dict(template, spec=dict(template["spec"], containers=containers))
    return dict(thing, spec=dict(thing["spec"], template=made))


def apply(cluster: Cluster, objects: Sequence[Mapping[str, Any]]) -> bool:
    """Apply objects that do not depend on each other. Whether one of them has changed.

    :raises ClusterError: the API server refuses one.
    """
    return any(at_once(lambda thing: _applied(cluster, thing), objects))


def _applied(cluster: Cluster, thing: Mapping[str, Any]) -> bool:
    path = place(thing)
    found = find(cluster, path)
    before = found and found.body
    if before and thing["kind"] == "PersistentVolumeClaim":
        return False  # what it is was said when it was made; its data stays
    if before and thing["kind"] == "Job":
        _remove(cluster, {path: before["metadata"]["uid"]})  # a job is run anew
        before = None
    if before and thing["kind"] == "ResourceQuota":
        # What another version has started goes only when this one is verified.
        thing = roomier(thing, before.get("status", {}).get("used", {}))
    try:
        after = write(cluster, thing)
    except ClusterError as refused:
        # Some fields of an object are for life. What is refused as a new one, too, is just wrong.
        if refused.status != 422 or not before or thing["kind"] == "Namespace":
            raise
        if not _would_be_made(cluster, thing):
            raise
        _remove(cluster, {path: before["metadata"]["uid"]})
        after = write(cluster, thing)
    return before is None or _version(before) != _version(after)


def _would_be_made(cluster: Cluster, thing: Mapping[str, Any]) -> bool:
    """Whether the API server would take an object if there was none of its name."""
    other = dict(thing, metadata=dict(thing["metadata"], name=thing["metadata"]["name"] + "-tried"))
    try:
        write(cluster, other, ("dryRun", "All"))
    except ClusterError as refused:
        return refused.status != 422
    return True


def write(cluster: Cluster, thing: Mapping[str, Any], *how: Tuple[str, str]) -> Object:
    """Apply an object just as it is given; what it is then."""
    query = [("fieldManager", MANAGER), ("force", "true"), *how]
    return cluster.ask("PATCH", place(thing), thing, query, APPLY).body


def roomier(quota: Mapping[str, Any], used: Mapping[str, str]) -> Object:
    """A quota that leaves room for all it is made for beside what is in use already."""
    hard = {
        key: _written(_read(limit) + _read(used.get(key, "0")))
        for key, limit in quota["spec"]["hard"].items()
    }
    return dict(quota, spec={"hard": hard})


_SUFFIX = re.compile(r"[A-Za-z]*\Z")
_SUFFIXES = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{suffix: Fraction(1000**n) for n, suffix in enumerate("kMGTPE", 1)},
    **{suffix + "i": Fraction(1024**n) for n, suffix in enumerate("KMGTPE", 1)},
}


def _read(amount: str) -> Fraction:
    """An amount as Kubernetes writes it: 1500m, 6Gi, 1610612736."""
    number = _SUFFIX.sub("", amount)
    return Fraction(number) * _SUFFIXES[amount[len(number) :]]


def _written(amount: Fraction) -> str:
    return str(amount) if amount.denominator == 1 else "{0}m".format(round(amount * 1000))


def _version(thing: Mapping[str, Any]) -> str:
    metadata = thing["metadata"]
    return str(metadata.get("generation") or metadata["resourceVersion"])


def _delete(cluster: Cluster, path: str, policy: str, uid: str) -> None:
    """Delete this object, and no other that has got its name since."""
    delete(cluster, path, {"propagationPolicy": policy, "preconditions": {"uid": uid}})


def _uid(cluster: Cluster, path: str) -> str:
    """Which object has this name now; "" where there is none."""
    found = find(cluster, path)
    return str(found.body["metadata"]["uid"]) if found else ""


def _remove(cluster: Cluster, objects: Mapping[str, str], seconds: float = 60) -> None:
    """Delete objects with what they have made, and wait until they are gone.

    :param objects: their uids by their paths.
    """
    for path, uid in objects.items():
        _delete(cluster, path, "Foreground", uid)
    left = list(objects)
    until = time.monotonic() + seconds
    while left and time.monotonic() < until:
        left = [path for path in left if _uid(cluster, path) == objects[path]]
        if left:
            time.sleep(_diagnose.POLL)
    if left:
        raise ClusterError("{0} is still there after {1:g} s.".format(left[0], seconds))


# -- services ---------------------------------------------------------------------------------


class Wait(NamedTuple):
    """What is waited for: planned services, until all is well or the time is over."""

    name: str
    services: Sequence[Mapping[str, Any]]
    seconds: float
    secrets: Sequence[str] = ()


class Step(NamedTuple):
    """Objects that are applied together, and the planned services that are then waited for."""

    objects: Sequence[Mapping[str, Any]]
    services: Sequence[Mapping[str, Any]] = ()


class Done(NamedTuple):
    """Whether anything has changed; a task's result where services do not become well, and which
    step that was."""

    changed: bool
    failure: Optional[Dict[str, Any]] = None
    step: int = 0


def work(
    cluster: Cluster, name: str, steps: Sequence[Step], seconds: float, secrets: Sequence[str] = ()
) -> Done:
    """Apply step by step, each when the one before is well. All may take so many seconds.

    :raises ClusterError: the API server refuses an object.
    """
    end, changed = time.monotonic() + seconds, False
    for number, step in enumerate(steps):
        changed |= apply(cluster, step.objects)
        for thing in step.objects:
            if thing["kind"] == "HorizontalPodAutoscaler":
                _scale_up(cluster, thing)
        left = max(end - time.monotonic(), 0)
        failure = step.services and wait(cluster, Wait(name, step.services, left, secrets))
        if failure:
            return Done(changed, failure, number)
    return Done(changed)


def _scale_up(cluster: Cluster, autoscaler: Mapping[str, Any]) -> None:
    """Begin with as many pods as an autoscaler wants at least; it would do so within 15 s."""
    target, least = autoscaler["spec"]["scaleTargetRef"], autoscaler["spec"]["minReplicas"]
    where = {"namespace": autoscaler["metadata"]["namespace"], "name": target["name"]}
    path = place({"kind": target["kind"], "metadata": where})
    if cluster.ask("GET", path).body["spec"]["replicas"] < least:
        # By another manager: what is applied says nothing of it.
        query = [("fieldManager", MANAGER + ".scale")]
        cluster.ask("PATCH", path, {"spec": {"replicas": least}}, query, MERGE)


def wait(cluster: Cluster, wanted: Wait) -> Optional[Dict[str, Any]]:
    """Wait until services are well. A task's result where they will not be, as soon as that is
    clear."""
    end, patience = time.monotonic() + wanted.seconds, _diagnose.Patience()
    endpoints = {s["name"]: _diagnose.Endpoint(s) for s in wanted.services if s["expose"]}
    look = Look(cluster, wanted.name, wanted.services, wanted.secrets)
    while True:
        containers = look.all()
        scene = _diagnose.Scene(wanted.services, containers, endpoints=endpoints, whole=False)
        now = time.monotonic()
        for endpoint in endpoints.values():
            if not endpoint.told(scene.of(endpoint.service), now):
                # As a reviewer nobody asks yet.
                endpoint.heard(_diagnose.unseen(endpoint.service, _WELL), now, 0)
        findings = _diagnose.judge(scene)
        if not findings:
            return None
        spent = patience.spent(findings, now)
        if spent or now >= end:
            failed = spent or findings[0]
            return told(cluster, wanted, scene, failed)
        time.sleep(_diagnose.POLL)


class Look:
    """Looks at the containers of services, and at what they listen on where that tells something:
    data services that nobody asks, and what does not answer."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        services: Sequence[Mapping[str, Any]],
        secrets: Sequence[str],
    ) -> None:
        self.cluster = cluster
        self.name = name
        self.secrets = secrets
        self.data = {service["name"] for service in services if service["data"]}
        self.read: Dict[str, Tuple[float, Any]] = {}

    def all(self) -> List[_diagnose.Container]:
        found = _kubernetes_pods.look(self.cluster, self.name, self.secrets)
        return [c._replace(listen=self.sockets(c.ident)) if self.tell(c) else c for c in found]

    def tell(self, container: _diagnose.Container) -> bool:
        if container.status != "running" or container.health:
            return False
        if container.heard is None:
            return container.service in self.data
        return container.heard.status == _kubernetes_pods.NOBODY and container.up >= 1

    def sockets(self, pod: str) -> Any:
        now = time.monotonic()
        when, found = self.read.get(pod, (float("-inf"), None))
        if now - when > ANEW:
            found = _kubernetes_service.listening(self.cluster, self.name, pod)
            self.read[pod] = (now, found)
        return found


def told(
    cluster: Cluster, wanted: Wait, scene: _diagnose.Scene, failed: _diagnose.Finding
) -> Dict[str, Any]:
    """The result of services that do not become well, with what they said at last."""
    guilty = {finding.service for finding in _diagnose.judge(scene)} | {failed.service}
    said = {
        c.ident: _diagnose.Told(logs(cluster, wanted.name, c.ident, wanted.secrets), [], c.oom)
        for c in scene.containers
        if c.service in guilty and c.image
    }
    scene = scene._replace(told=said)
    findings = _diagnose.judge(scene) or [failed]
    findings.sort(key=lambda finding: finding.service != failed.service)
    return _diagnose.refusal(scene, findings, wanted.secrets)


def logs(cluster: Cluster, name: str, pod: str, secrets: Sequence[str]) -> List[str]:
    """The last words of a pod, of its life before, too: this one may have said little yet."""
    path = "{0}/{1}/log".format(folder("Pod", name), pod)
    query = [("container", MAIN), ("tailLines", str(LOG)), ("limitBytes", str(1 << 18))]
    lines: List[str] = []
    for life in ([("previous", "true")], []):
        try:
            text = cluster.ask_text(path, [*query, *life])
        except ClusterError:
            continue
        # Of a container that is just being replaced a kubelet says so in place of its log.
        if text.strip() and not text.startswith("unable to retrieve container logs for "):
            lines += text.rstrip("\n").split("\n")
    return _diagnose.presentable(lines, secrets) if lines else []


# -- one-offs ---------------------------------------------------------------------------------


_ELSEWHERE = _diagnose.Ended(None, [])
"""Somebody else has ended it."""


def run_job(
    cluster: Cluster, objects: Sequence[Mapping[str, Any]], seconds: float, secrets: Sequence[str]
) -> Optional[_diagnose.Ended]:
    """Run the job that is the last of these objects. How it ended where that was not well; nothing
    of it stays.

    :param seconds: how long it may take once it has started.
    """
    *mounted, job = objects
    apply(cluster, mounted)
    apply(cluster, [job])
    # Of one name there may be others: of a run before this one, and of one that has taken over.
    uid = _uid(cluster, place(job))
    if not uid:
        return _ELSEWHERE
    ended = None
    try:
        ended = _run_to_end(cluster, job, uid, seconds, secrets)
        return ended if ended.late or ended.code != 0 else None
    finally:
        if ended and ended.code is not None and not ended.late:
            _delete(cluster, place(job), "Background", uid)
        else:
            _remove(cluster, {place(job): uid})


def _run_to_end(
    cluster: Cluster, job: Mapping[str, Any], uid: str, seconds: float, secrets: Sequence[str]
) -> _diagnose.Ended:
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    selector = [("labelSelector", "{0}={1}".format(HOOK, name))]
    patience = _diagnose.Patience()
    started, end = False, time.monotonic() + _diagnose.start_max(seconds)
    while True:
        answer = cluster.ask("GET", folder("Pod", namespace), query=selector)
        pods = [pod for pod in answer.body["items"] if _kubernetes_pods.owner(pod) == uid]
        if not pods and _uid(cluster, place(job)) != uid:
            return _ELSEWHERE
        looked = [_kubernetes_pods.looked_at(pod, answer.now, secrets) for pod in pods]
        looked = _kubernetes_pods.without_volumes(cluster, namespace, looked, pods, secrets)
        seen = next(iter(looked), None)
        if seen is None:
            refused = _kubernetes_pods.told(cluster, namespace, "FailedCreate").get(name)
            seen = _diagnose.Container(name, name, status="created", held=("pending", "no pod yet"))
            if refused:
                seen = seen._replace(held=_kubernetes_pods.refused(refused.message, secrets))
        if seen.status == "running" and not started:
            started, end = True, time.monotonic() + seconds
        late = time.monotonic() >= end
        ended = _ended(cluster, namespace, seen, late, secrets)
        if ended:
            return ended
        held, said = seen.held
        if held:
            rule = _diagnose.RULES[held]
            sentence = rule.sentence.format(service=name, image=seen.image, said=said)
            found = _diagnose.Finding(held, name, sentence, rule.patience)
            if late or patience.spent([found], time.monotonic()):
                return _diagnose.Ended(None, [], [sentence])
        time.sleep(_diagnose.POLL)


def _ended(
    cluster: Cluster,
    namespace: str,
    seen: _diagnose.Container,
    late: bool,
    secrets: Sequence[str],
) -> Optional[_diagnose.Ended]:
    """How a pod that runs once has ended; nothing while it has not, and still may."""
    if seen.error:
        return _diagnose.Ended(None, [], [seen.error])
    if seen.held[0] == "no_disk":
        return _diagnose.Ended(seen.code, [seen.held[1]])
    if seen.status == "exited" and seen.code == 0:
        return _diagnose.Ended(0, [])
    if seen.status == "exited" or (late and seen.status == "running"):
        said = logs(cluster, namespace, seen.ident, secrets)
        return _diagnose.Ended(seen.code, said, oom=seen.oom, late=late)
    return None


# -- what is no longer wanted -----------------------------------------------------------------


def prune(
    cluster: Cluster, name: str, wanted: Iterable[str], kinds: Sequence[str] = _PRUNED
) -> List[str]:
    """Remove what bears the preview's label and is not wanted any more, but data. What was, as
    ``Kind/name``."""
    kept = set(wanted)
    query = [("labelSelector", "{0}={1}".format(PREFIX + "name", name))]

    def of_ours(kind: str) -> List[Tuple[str, str]]:
        # What a controller has made of ours goes with ours.
        return [
            (each["metadata"]["name"], each["metadata"]["uid"])
            for each in listed(cluster, kind, name, query)
            if not each["metadata"].get("ownerReferences")
        ]

    gone = []
    for kind, found in zip(kinds, at_once(of_ours, kinds)):
        for each, uid in found:
            if "{0}/{1}".format(kind, each) not in kept:
                _delete(cluster, "{0}/{1}".format(folder(kind, name), each), "Background", uid)
                gone.append("{0}/{1}".format(kind, each))
    return gone


def births(cluster: Cluster, name: str, volumes: Iterable[str]) -> Dict[str, str]:
    """When the claims of this name were made: by that, the data that is there is known."""
    found = {}
    for volume in volumes:
        claim = find(cluster, folder("PersistentVolumeClaim", name) + "/" + volume)
        if claim:
            found[volume] = claim.body["metadata"]["creationTimestamp"]
    return found


def end_one_offs(cluster: Cluster, name: str) -> None:
    """A killed run's migration goes on by itself; two of them must not meet."""
    jobs = folder("Job", name)
    items = cluster.ask("GET", jobs, query=[("labelSelector", HOOK)]).body["items"]
    _remove(cluster, {"/".join((jobs, i["metadata"]["name"])): i["metadata"]["uid"] for i in items})


def workloads(cluster: Cluster, name: str) -> Dict[str, Object]:
    """The specifications of the pods that services run now, by service."""
    found = {}
    for kind in ("Deployment", "StatefulSet"):
        items = cluster.ask("GET", folder(kind, name), query=[("labelSelector", SERVICE)])
        for each in items.body["items"]:
            service = each["metadata"]["labels"][SERVICE]
            found[service] = each["spec"]["template"]["spec"]
    return found
