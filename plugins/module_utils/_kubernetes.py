# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Kubernetes cluster holds of our previews: one observer, the shape of ``_docker``'s.

``Cluster`` is the edge. All else is pure.
"""

from __future__ import annotations

import calendar
import hashlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import urlencode

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _diagnose,
    _docker,
    _kubeconfig,
)
from ansible_collections.ephemera.preview.plugins.module_utils._http import Answer as Heard
from ansible_collections.ephemera.preview.plugins.module_utils._names import HOOK, PREFIX, SERVICE
from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact

try:
    from urllib3.exceptions import HTTPError
except ImportError:  # told by _kubeconfig
    pass

LEASE, STATE = PREFIX + "lease", PREFIX + "state"
"""Annotations of a preview's namespace."""

APPLY, MERGE = "application/apply-patch+yaml", "application/merge-patch+json"
"""How a change is written: as what is wanted of an object, or as what is to be another."""

KINDS = {
    "Namespace": ("/api/v1", "namespaces"),
    "Pod": ("/api/v1", "pods"),
    "Event": ("/api/v1", "events"),
    "ResourceQuota": ("/api/v1", "resourcequotas"),
    "LimitRange": ("/api/v1", "limitranges"),
    "Secret": ("/api/v1", "secrets"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims"),
    "Service": ("/api/v1", "services"),
    "ReplicaSet": ("/apis/apps/v1", "replicasets"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "StatefulSet": ("/apis/apps/v1", "statefulsets"),
    "Job": ("/apis/batch/v1", "jobs"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
    "Ingress": ("/apis/networking.k8s.io/v1", "ingresses"),
    "Middleware": ("/apis/traefik.io/v1alpha1", "middlewares"),
    "IngressRoute": ("/apis/traefik.io/v1alpha1", "ingressroutes"),
    "ExternalSecret": ("/apis/external-secrets.io/v1", "externalsecrets"),
}
"""Where the API has each kind: group and version, and resource."""


def folder(kind: str, namespace: str = "") -> str:
    """Where the API has the objects of a kind, of all namespaces where none is given."""
    api, plural = KINDS[kind]
    if not namespace or kind == "Namespace":
        return "{0}/{1}".format(api, plural)
    return "{0}/namespaces/{1}/{2}".format(api, namespace, plural)


def place(thing: Mapping[str, Any]) -> str:
    """Where the API has an object."""
    metadata = thing["metadata"]
    return folder(thing["kind"], metadata.get("namespace", "")) + "/" + str(metadata["name"])


# What a preview is told by.
_LISTED = ("Namespace", "Pod", "PersistentVolumeClaim", "Ingress")
MANAGER = "ephemera.preview"
"""By this name the API server knows which fields of an object were applied by us."""
APPLIED = (
    "ResourceQuota", "LimitRange", "Secret", "ConfigMap", "Service", "Deployment", "StatefulSet",
    "HorizontalPodAutoscaler", "NetworkPolicy", "Ingress", "Middleware", "IngressRoute",
    "ExternalSecret",
)  # fmt: skip
"""The kinds that a preview is made of besides its namespace, what runs once, and its data."""
_ANY = "application/json, */*"
# All that tells whether an object was changed, and nothing of what Secrets hold.
_METADATA = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


class ClusterError(Exception):
    """The cluster does not do as asked. ``status`` is the API server's, 0 where none answered."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Answer(NamedTuple):
    """What the API server says, and its clock (seconds since the epoch)."""

    body: Dict[str, Any]
    now: int


class Cluster:
    """An API server, as a kubeconfig or a pod's own account leads to it.

    :raises ClusterError: there is no such configuration.
    """

    def __init__(self, kubeconfig: str = "", context: str = "") -> None:
        self._named = kubeconfig, context
        try:
            self._access = _kubeconfig.access(kubeconfig, context)
        except _kubeconfig.NoWay as problem:
            raise ClusterError(str(problem)) from None

    @property
    def server(self) -> str:
        """Its address."""
        return self._access.server

    def configuration(self) -> Any:
        """The library's, for what is asked by that.

        :raises ClusterError: it is missing.
        """
        try:
            return _kubeconfig.configuration(*self._named)
        except _kubeconfig.NoWay as problem:
            raise ClusterError(str(problem)) from None

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Sequence[Tuple[str, str]] = (),
        kind: str = "application/json",
        seconds: float = 30,
        accept: str = _ANY,
    ) -> Answer:
        """One call of the API.

        :raises ClusterError: anything but success, by the server's own message.
        """
        said = self._call(method, path, body, query, kind, seconds, accept)
        date = said.headers.get("Date")
        now = int(parsedate_to_datetime(date).timestamp()) if date else 0
        return Answer(json.loads(said.data or b"{}"), now)

    def ask_text(self, path: str, query: Sequence[Tuple[str, str]] = ()) -> str:
        """What the API answers with plain text; see ``ask``."""
        said = self._call("GET", path, None, query, "application/json", 30, _ANY)
        return str(said.data.decode("utf-8", "replace"))

    def _call(
        self,
        method: str,
        path: str,
        body: Any,
        query: Sequence[Tuple[str, str]],
        kind: str,
        seconds: float,
        accept: str,
    ) -> Any:
        headers = {"Accept": accept, "Content-Type": kind, **self._access.login()}
        try:
            said = self._access.pool.request(
                method,
                self.server + path + ("?" + urlencode(query) if query else ""),
                headers=headers,
                body=None if body is None else json.dumps(body),
                timeout=seconds,
                retries=False,
            )
        except HTTPError as problem:
            raise ClusterError(
                "The cluster's API server at {0} does not answer: {1}".format(self.server, problem)
            ) from None
        if said.status >= 300:
            raise ClusterError(_message(said.data, said.status), said.status)
        return said


def _message(body: bytes, status: int) -> str:
    try:
        said = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        said = "status {0}".format(status)
    return "The cluster's API server refuses: {0}".format(said)


def find(
    cluster: Cluster, path: str, query: Sequence[Tuple[str, str]] = (), accept: str = _ANY
) -> Optional[Answer]:
    """An object as it is; None where there is none."""
    try:
        return cluster.ask("GET", path, query=query, accept=accept)
    except ClusterError as refused:
        if refused.status == 404:
            return None
        raise


def listed(
    cluster: Cluster,
    kind: str,
    namespace: str,
    query: Sequence[Tuple[str, str]],
    accept: str = _ANY,
) -> List[Dict[str, Any]]:
    """The objects of a kind in a namespace; none where the cluster does not know the kind."""
    found = find(cluster, folder(kind, namespace), query, accept)
    return list(found.body["items"] or []) if found else []  # of metadata it writes null for none


def delete(cluster: Cluster, path: str, options: Dict[str, Any]) -> None:
    body = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
    try:
        cluster.ask("DELETE", path, body)
    except ClusterError as refused:
        # Gone, or going already.
        if refused.status not in (404, 409):
            raise


def observe(cluster: Cluster, name: str = "") -> Dict[str, Any]:
    """Ask for all that exists of one preview, or of all; see :func:`parse` for the shape.

    :raises ClusterError: the cluster cannot be asked.
    """
    ours = [("labelSelector", PREFIX + "name" + ("=" + name if name else ""))]

    def whole(kind: str) -> Answer:
        # A namespace is looked at by its name: one without our labels takes the name, too.
        by_name = kind == "Namespace" and name
        query = [("fieldSelector", "metadata.name=" + name)] if by_name else ours
        return cluster.ask("GET", folder(kind, name), query=query)

    def made(kind: str) -> List[Dict[str, Any]]:
        return listed(cluster, kind, name, ours, _METADATA)

    kinds = [kind for kind in APPLIED if name and kind not in _LISTED]
    with ThreadPoolExecutor(_kubeconfig.CONNECTIONS) as pool:
        others = pool.map(made, kinds)
        answers = dict(zip(_LISTED, pool.map(whole, _LISTED)))
        items = {kind: list(answer.body["items"]) for kind, answer in answers.items()}
        items.update(zip(kinds, others))
    return parse(items, answers["Namespace"].now, name)


def parse(items: Mapping[str, Sequence[Mapping[str, Any]]], now: int, name: str) -> Dict[str, Any]:
    """The observer's shape out of lists of objects by kind.

    :returns: ``{"previews": {name: as ``_docker.empty``}, "now": seconds}``. ``folder`` is whether
        the namespace is there, ``ending`` whether it is being deleted; ``applied`` has for each
        object that we applied, as ``Kind/name``, what changes when somebody else changes it.
    """
    previews = {name: dict(_docker.empty(name), ending=False)} if name else {}
    for namespace in items["Namespace"]:
        metadata = namespace["metadata"]
        own = labels(metadata)
        key = metadata["name"]
        if own.get(PREFIX + "name") != key:
            if key == name:
                previews[name]["foreign"].append({"kind": "namespace", "name": key, "labels": own})
            continue
        seen = previews.setdefault(key, dict(_docker.empty(key), ending=False))
        noted = metadata.get("annotations") or {}
        seen["folder"] = True
        seen["ending"] = "deletionTimestamp" in metadata
        seen["state"] = _state(noted.get(STATE, ""))
        seen["lease"] = noted.get(LEASE, "")
        seen["labels"] = own
    for pod in items["Pod"]:
        if not is_replaced(pod):
            _add(previews, pod, "containers", _container(pod))
    for claim in items["PersistentVolumeClaim"]:
        metadata = claim["metadata"]
        created = metadata["creationTimestamp"]
        volume = {"name": metadata["name"], "labels": labels(metadata), "created": created}
        _add(previews, claim, "volumes", volume)
    routes: Dict[str, List[Any]] = {}
    for ingress in items["Ingress"]:
        routes.setdefault(ingress["metadata"]["namespace"], []).append(
            [ingress["metadata"]["name"], ingress["spec"]]
        )
    for key, specs in routes.items():
        if key in previews and previews[key]["folder"]:
            previews[key]["route"] = _digest(sorted(specs, key=lambda pair: str(pair[0])))
    if name and previews[name]["folder"]:
        previews[name]["applied"] = {
            "{0}/{1}".format(kind, thing["metadata"]["name"]): fields
            for kind in ("Namespace", *APPLIED)
            for thing in items.get(kind, ())
            for fields in _applied(thing)
        }
    return {"previews": previews, "now": now}


def _applied(thing: Mapping[str, Any]) -> List[str]:
    """In short which fields of an object are as we applied them; nothing where none is. Who gives
    one of them another value takes it from us, by the books of the API server."""
    return [
        _digest(entry.get("fieldsV1"))[:12]
        for entry in thing["metadata"].get("managedFields") or []
        if (entry["manager"], entry["operation"]) == (MANAGER, "Apply")
    ]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


def is_replaced(pod: Mapping[str, Any]) -> bool:
    """Whether another pod takes a pod's place, or has: it goes, or was evicted."""
    lasting = any(each["kind"] != "Job" for each in pod["metadata"].get("ownerReferences") or [])
    failed = (pod.get("status") or {}).get("phase") == "Failed"
    return "deletionTimestamp" in pod["metadata"] or (failed and lasting)


def labels(metadata: Mapping[str, Any]) -> Dict[str, str]:
    """Those that are ours."""
    given = metadata.get("labels") or {}
    return {key: value for key, value in given.items() if key.startswith(PREFIX)}


def _state(text: str) -> Dict[str, Any]:
    try:
        state = json.loads(text)
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}


def _add(
    previews: Mapping[str, Dict[str, Any]],
    thing: Mapping[str, Any],
    kind: str,
    item: Dict[str, Any],
) -> None:
    """What lies in a preview's namespace is the preview's; a label elsewhere proves nothing."""
    seen = previews.get(thing["metadata"]["namespace"])
    if seen and seen["folder"]:
        seen[kind].append(item)


def _container(pod: Mapping[str, Any]) -> Dict[str, Any]:
    metadata, status = pod["metadata"], pod.get("status") or {}
    own = labels(metadata)
    main: Mapping[str, Any] = next(iter(status.get("containerStatuses") or []), {})
    state = main.get("state") or {}
    ended = state.get("terminated") or {}
    ready = any(
        c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or []
    )
    return {
        "id": metadata["uid"],
        "name": metadata["name"],
        "service": own.get(SERVICE, ""),
        "oneoff": HOOK in own,
        "image": pod["spec"]["containers"][0]["image"],
        "image_id": main.get("imageID", ""),
        "state": _word(pod, state),
        "health": "healthy" if ready else "starting",
        "exit_code": ended.get("exitCode"),
        "networks": [],
        "anonymous": [],
        "created": metadata["creationTimestamp"],
        "project": metadata["namespace"],
        "labels": own,
        "why": (state.get("waiting") or {}).get("reason", ""),
        "restarts": main.get("restartCount", 0),
        "ending": "deletionTimestamp" in metadata,
    }


def _word(pod: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """What Docker would call it."""
    ended = "terminated" in state and pod["spec"].get("restartPolicy") == "Never"
    # A pod's phase comes after what its container has done.
    if ended or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return "exited"
    if "running" in state:
        return "running"
    return "restarting" if "terminated" in state or _loops(state) else "created"


def _loops(state: Mapping[str, Any]) -> bool:
    return bool((state.get("waiting") or {}).get("reason") == "CrashLoopBackOff")


# -- for the diagnosis ------------------------------------------------------------------------

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

    with ThreadPoolExecutor(len(_WORKLOADS)) as pool:
        answers = dict(zip(_WORKLOADS, pool.map(listed, _WORKLOADS)))
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
    return found


class Told(NamedTuple):
    """What events say of one object: the last, how often, and when at last."""

    message: str
    times: int
    last: str = ""


def told(cluster: Cluster, name: str, reason: str) -> Dict[str, Told]:
    """The events of one reason by the name of what they are about."""
    query = [("fieldSelector", "reason=" + reason)]
    events = cluster.ask("GET", folder("Event", name), query=query).body["items"]
    events.sort(key=lambda event: str(event.get("lastTimestamp") or ""))
    found: Dict[str, Told] = {}
    for event in events:
        about = event["involvedObject"]["name"]
        before = found[about].times if about in found else 0
        times = before + int(event.get("count") or 1)
        found[about] = Told(event.get("message", ""), times, str(event.get("lastTimestamp") or ""))
    return found


def _unready(container: _diagnose.Container) -> bool:
    heard = container.heard
    return container.health == "starting" or (heard is not None and heard.status != _diagnose.READY)


def _probe(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return dict(pod["spec"]["containers"][0].get("readinessProbe") or {})


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
        if _owner(each) == metadata["uid"]
        and (each["metadata"].get("annotations") or {}).get(_REVISION) == revision
    ]


def _made_by(
    pod: Mapping[str, Any],
    kind: str,
    workload: Mapping[str, Any],
    makers: Sequence[Mapping[str, Any]],
) -> bool:
    if _owner(pod) not in {maker["metadata"]["uid"] for maker in makers}:
        return False
    if kind != "StatefulSet":
        return True
    revision = (pod["metadata"].get("labels") or {}).get("controller-revision-hash")
    return bool(revision == (workload.get("status") or {}).get("updateRevision"))


def _owner(thing: Mapping[str, Any]) -> str:
    owners = thing["metadata"].get("ownerReferences") or []
    return next((str(each["uid"]) for each in owners if each.get("controller")), "")


def refused(said: str, secrets: Sequence[str]) -> Tuple[str, str]:
    """Why a pod may not even be made, out of what the API server told its controller."""
    said = redact(said, secrets)
    return "quota" if "exceeded quota" in said else "forbidden", _brief(said)


def looked_at(pod: Mapping[str, Any], now: int, secrets: Sequence[str] = ()) -> _diagnose.Container:
    """One pod as the diagnosis reads it."""
    status = pod.get("status") or {}
    spec = pod["spec"]["containers"][0]
    main: Mapping[str, Any] = next(iter(status.get("containerStatuses") or []), {})
    state = main.get("state") or {}
    ended = state.get("terminated") or (main.get("lastState") or {}).get("terminated") or {}
    running = "running" in state
    seen = _container(pod)
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
            return "no_room", _brief(redact(condition.get("message", ""), secrets))
    return "pending", _brief(said) or "no node has taken it"


def _brief(said: str) -> str:
    """One line without its end: sentences go on after it."""
    return said.strip().split("\n")[0][:300].rstrip(". ")


def _seconds(stamp: str) -> int:
    return calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"))
