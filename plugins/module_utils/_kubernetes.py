# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Kubernetes cluster holds of our previews: one observer, the shape of ``_docker``'s.

``Cluster`` is the edge. All else is pure.
"""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)
from urllib.parse import urlencode

from ansible_collections.ephemera.preview.plugins.module_utils import _docker, _kubeconfig
from ansible_collections.ephemera.preview.plugins.module_utils._kubeconfig import AT_ONCE
from ansible_collections.ephemera.preview.plugins.module_utils._names import (
    HOOK,
    MAIN,
    PREFIX,
    SERVICE,
)

_A = TypeVar("_A")
_B = TypeVar("_B")

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
PATIENCE = 30
"""So many seconds a question is asked again that an API server which has answered before does not
answer now: one that is replaced is away for some."""
_PAUSE = 1.0
_PASSING = (500, 502, 503, 504)
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
        self._answered = False

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
        now = int(parsedate_to_datetime(said.date).timestamp()) if said.date else 0
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
    ) -> _kubeconfig.Answer:
        asked = path + ("?" + urlencode(query) if query else "")
        content = None if body is None else json.dumps(body)
        until = time.monotonic() + PATIENCE
        while True:
            # Anew, as a token may be another by now.
            headers = {"Accept": accept, "Content-Type": kind, **self._access.login()}
            try:
                said = self._access.ask(method, asked, content, headers, seconds)
            except _kubeconfig.NoAnswer as problem:
                failed = ClusterError(
                    "The cluster's API server at {0} does not answer: {1}".format(
                        self.server, problem
                    )
                )
                passes = method == "GET" and self._answered
            else:
                self._answered = True
                if said.status < 300:
                    return said
                failed = ClusterError(_message(said.data, said.status), said.status)
                # Who is asked too much has done nothing yet.
                passes = said.status == 429 or (method == "GET" and said.status in _PASSING)
            if not passes or time.monotonic() >= until:
                raise failed
            time.sleep(_PAUSE)


def _message(body: bytes, status: int) -> str:
    try:
        said = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        said = "status {0}".format(status)
    return "The cluster's API server refuses: {0}".format(said)


def at_once(ask: Callable[[_A], _B], each: Iterable[_A]) -> List[_B]:
    """What is asked for each, in the same order; some calls are under way at the same time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, each))


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


def knows(cluster: Cluster, kind: str, group: str) -> bool:
    """Whether a cluster has a kind of objects at all.

    :param group: with its version.
    """
    found = find(cluster, "/apis/" + group)
    return any(each["kind"] == kind for each in (found.body["resources"] if found else ()))


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

    def ask(kind: str) -> Tuple[List[Dict[str, Any]], int]:
        if kind not in _LISTED:
            return listed(cluster, kind, name, ours, _METADATA), 0
        # A namespace is looked at by its name: one without our labels takes the name, too.
        by_name = kind == "Namespace" and name
        query = [("fieldSelector", "metadata.name=" + name)] if by_name else ours
        answer = cluster.ask("GET", folder(kind, name), query=query)
        return list(answer.body["items"]), answer.now

    kinds = [*_LISTED, *(kind for kind in APPLIED if name and kind not in _LISTED)]
    answers = dict(zip(kinds, at_once(ask, kinds)))
    items = {kind: found for kind, (found, dummy) in answers.items()}
    return parse(items, answers["Namespace"][1], name)


def parse(items: Mapping[str, Sequence[Mapping[str, Any]]], now: int, name: str) -> Dict[str, Any]:
    """The observer's shape out of lists of objects by kind.

    :returns: ``{"previews": {name: as ``_docker.empty``}, "now": seconds}``. ``folder`` is whether
        the namespace is there, ``ending`` whether it is being deleted, ``labels`` are ours of those
        it has; ``applied`` has for each object that we applied, as ``Kind/name``, what changes when
        somebody else changes it.
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
            _add(previews, pod, "containers", as_container(pod))
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


def spec_of(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is wanted of our container in a pod."""
    return next(each for each in pod["spec"]["containers"] if each["name"] == MAIN)


def status_of(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is known of it, which may be nothing yet."""
    known = (pod.get("status") or {}).get("containerStatuses") or []
    return next((each for each in known if each["name"] == MAIN), {})


def as_container(pod: Mapping[str, Any]) -> Dict[str, Any]:
    """A pod in the observer's shape of a container."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    own = labels(metadata)
    main = status_of(pod)
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
        "image": spec_of(pod)["image"],
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
