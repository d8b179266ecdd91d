# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes objects of a preview, written from planned fields: nothing of the author's file is
copied but values at places this module names. Pure. What ``_project`` is for a Docker host."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _data_images,
    _diagnose,
    _external,
    _firewall,
    _ingress,
)
from ansible_collections.ephemera.preview.plugins.module_utils._checks import in_bytes, seconds
from ansible_collections.ephemera.preview.plugins.module_utils._names import (
    HOOK,
    MAIN,
    SERVICE,
    VOLUMES,
    claim_name,
    dns_name,
)
from ansible_collections.ephemera.preview.plugins.module_utils._project import observability

PULL_SECRET = "registries"
GRACE = 10  # seconds, as Compose has it
PERIOD = 5
"""So many seconds pass between two health checks, where a file does not say it. Compose's 30 would
be waited for by each deployment."""
IDLE = 0.1
"""What part of its CPU is set aside for a container."""
DRAIN = 5
"""So many seconds an exposed container serves on while the ingress controller forgets it."""
LATER = 30
"""So many seconds after a run would have ended a job, the cluster does."""
CONTENT_MAX = 1 << 20
"""So many bytes an object of etcd may hold; Kubernetes refuses a larger ConfigMap or Secret."""

# Keys that mean nothing to Kubernetes, and what becomes of them.
_IGNORED = {
    "deploy.resources.limits.pids": "a cluster limits processes by node",
    "dns": "pods ask the cluster's own",
    "healthcheck.start_interval": "a check is always made in its interval",
    "init": "pods have none of Docker's init",
    "pids_limit": "a cluster limits processes by node",
    "stop_signal": "the image's own is sent",
    "ulimits": "those of the node hold",
}
_VERSIONS = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "Job": "batch/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "Ingress": "networking.k8s.io/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "Middleware": "traefik.io/v1alpha1",
    "IngressRoute": "traefik.io/v1alpha1",
    _external.KIND: "external-secrets.io/v1",
}
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_SIZE = re.compile(r"size=(\w+)\Z")
_VARIABLE = re.compile(r"(?!\.\.|\.\Z)[-._a-zA-Z][-._a-zA-Z0-9]{0,252}\Z")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?\Z")


class ManifestsRefused(ValueError):
    """What the app asks for cannot be had in Kubernetes: what, where, and what to do."""


class Manifests(NamedTuple):
    """What is applied. ``secret`` objects are never shown.

    :ivar base: the namespace and what limits it; ``secret``: Secrets; ``claims``: volumes.
    :ivar services: by name the objects of a service, those that others mount first.
    :ivar data: the names of data services in the order in which they are started, in waves: what
        waits for another to be healthy, or to complete, comes in a later one.
    :ivar others: likewise those of all others, which are started after them.
    :ivar hooks: by hook and service what runs it: its files, and a Job at last.
    :ivar notes: what is not as the file asks.
    :ivar copies: Secrets that are copied into the namespace, see ``_kubernetes_tls``.
    :ivar external: what an operator makes Secrets of, see ``_external``.
    """

    base: List[Dict[str, Any]]
    secret: List[Dict[str, Any]]
    claims: List[Dict[str, Any]]
    services: Dict[str, List[Dict[str, Any]]]
    data: List[List[str]]
    others: List[List[str]]
    hooks: Dict[str, Dict[str, List[Dict[str, Any]]]]
    notes: List[str]
    copies: List[str]
    external: List[Dict[str, Any]]


def literal(text: str) -> str:
    """A word as Kubernetes takes it literally: it reads ``$(NAME)`` and ``$$`` in commands."""
    return text.replace("$", "$$")


def _object(
    preview: Mapping[str, Any], kind: str, name: str, known_by: Mapping[str, str], **fields: Any
) -> Dict[str, Any]:
    namespace = preview["names"]["namespace"]
    labels = dict(preview["labels"], **known_by)
    return {
        "apiVersion": _VERSIONS.get(kind, "v1"),
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        **fields,
    }


def _template(
    preview: Mapping[str, Any], known_by: Mapping[str, str], spec: Mapping[str, Any]
) -> Dict[str, Any]:
    """A pod with the labels by which others know it. It bears one that it looks for, too: the first
    of those who share volumes would else find no node."""
    labels = dict(preview["labels"], **known_by, **_sought(spec))
    return {"metadata": {"labels": labels}, "spec": spec}


def job(
    preview: Mapping[str, Any],
    name: str,
    known_by: Mapping[str, str],
    spec: Mapping[str, Any],
    limit: int,
) -> Dict[str, Any]:
    """Run once: a second attempt of half a migration is nobody's wish. The run that waits for it
    tells when it is late; the cluster ends it where that run is gone.

    :param limit: so many seconds it may take once it has started.
    """
    template = _template(preview, known_by, dict(spec, restartPolicy="Never"))
    deadline = _diagnose.start_max(limit) + limit + LATER
    fields = {"backoffLimit": 0, "activeDeadlineSeconds": deadline, "template": template}
    return _object(preview, "Job", name, known_by, spec=fields)


def pull_secret(preview: Mapping[str, Any], logins: Sequence[Mapping[str, str]]) -> Dict[str, Any]:
    """By what the cluster logs in to pull images.

    :param logins: ``preview_registries`` with their passwords.
    """
    auths = {
        each["registry"]: {"username": each["username"], "password": each["password"]}
        for each in logins
    }
    data = base64.b64encode(json.dumps({"auths": auths}).encode()).decode()
    return _object(
        preview,
        "Secret",
        PULL_SECRET,
        {},
        type="kubernetes.io/dockerconfigjson",
        data={".dockerconfigjson": data},
    )


def hook_of(
    preview: Mapping[str, Any],
    hook: str,
    service: str,
    wish: Mapping[str, Any],
    spec: Mapping[str, Any],
) -> Dict[str, Any]:
    """The Job that runs a service's hook, in a pod as the service's own (``spec``)."""
    main = {
        key: value
        for key, value in spec["containers"][0].items()
        if key not in ("readinessProbe", "lifecycle", "ports", "args")
    }
    main["command" if wish.get("whole") else "args"] = [literal(word) for word in wish["command"]]
    name = "{0}-{1}".format(hook.replace("_", "-"), service)
    # Killed at once, as on a Docker host; with 0 s nobody would wait until it is.
    own = dict(spec, containers=[main], terminationGracePeriodSeconds=1)
    return job(preview, name, {HOOK: name}, own, wish["timeout"])


def render(
    preview: Mapping[str, Any],
    services: Mapping[str, Any],
    settings: Mapping[str, Any],
    definition: Mapping[str, Any],
    files: Mapping[str, bytes],
) -> Manifests:
    """All objects of a preview.

    :param services: the chosen services in Compose's normal form, ``$$`` undone.
    :param files: what the checkout holds at the paths that configs, secrets and binds name.
    :raises ManifestsRefused: Kubernetes has no such thing.
    """
    return _Renderer(preview, services, settings, definition, files).render()


def together(claims: Mapping[str, Iterable[str]]) -> Dict[str, List[str]]:
    """By service with volumes all claims of those whose pods have to be on one node, because they
    share a volume, be it by way of others.

    :param claims: by service those that it mounts.
    """
    groups: List[Set[str]] = []
    for own in map(set, claims.values()):
        shared = [group for group in groups if group & own]
        groups = [group for group in groups if group not in shared] + [own.union(*shared)]
    return {
        name: sorted(group) for name, own in claims.items() for group in groups if group & set(own)
    }


def surroundings(preview: Mapping[str, Any], settings: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """What decides where the pods of a namespace may connect to, without any service."""
    renderer = _Renderer(dict(preview, services=[]), {}, settings, {}, {})
    return [renderer.policy()]


class _Renderer:
    def __init__(
        self,
        preview: Mapping[str, Any],
        services: Mapping[str, Any],
        settings: Mapping[str, Any],
        definition: Mapping[str, Any],
        files: Mapping[str, bytes],
    ) -> None:
        self.preview = preview
        self.services = services
        self.settings = settings
        self.definition = definition
        self.files = files
        self.notes: List[str] = []
        self.secret: List[Dict[str, Any]] = []
        self.external = _external.source(preview, settings, self.object)

    def render(self) -> Manifests:
        services = {p["name"]: self.service(p) for p in self.preview["services"]}
        hooks = {
            hook: {
                p["name"]: self.hook(p["name"], hook) for p in self.preview["services"] if p[hook]
            }
            for hook in self.preview["hooks"]
        }
        names = {name for used in self.used().values() for name in used}
        claims = [self.claim(name) for name in sorted(names)]
        door = _ingress.shared(self.preview, self.settings, self.object)
        return Manifests(
            self.base() + door.objects,
            self.secret + door.secrets,
            claims,
            services,
            self.waves(data=True),
            self.waves(data=False),
            hooks,
            self.notes + door.notes,
            door.copies,
            [self.external.made_by] if self.external else [],
        )

    def service(self, planned: Mapping[str, Any]) -> List[Dict[str, Any]]:
        """The objects of one service."""
        name = planned["name"]
        if not _NAME.match(name):
            raise ManifestsRefused(
                "services.{0}: in Kubernetes a service's name is also its host name: lower case "
                "letters, digits and -, a letter first, 63 at most. Rename it.".format(name)
            )
        service = self.services[name]
        self.note_ignored(planned, service)
        maps, spec = self.pod(planned, service)
        if planned["completes"]:
            limit = int(self.settings["preview_verify_timeout"])
            return [*maps, job(self.preview, name, {SERVICE: name}, spec, limit)]
        made = [*maps, self.address(planned, service), self.workload(planned, service, spec)]
        if planned["autoscale"]:
            made.append(self.autoscaler(planned))
        if planned["expose"]:
            made += self.ingress(planned)
        return made

    def waves(self, data: bool) -> List[List[str]]:
        """The data services, or all others, in the order in which they are started."""
        left = [p["name"] for p in self.preview["services"] if p["data"] == data]
        found = []
        while left:
            # A circle Compose has refused already.
            found.append([name for name in left if not self.awaits(name) & set(left)] or left)
            left = [name for name in left if name not in found[-1]]
        return found

    def awaits(self, name: str) -> Set[str]:
        """The services that have to be healthy, or to be done, before this one may start."""
        needed = self.services[name].get("depends_on") or {}
        conditions = ("service_healthy", "service_completed_successfully")
        return {other for other, how in needed.items() if how.get("condition") in conditions}

    # -- the namespace ------------------------------------------------------------------------

    def object(self, kind: str, name: str, service: str = "", **fields: Any) -> Dict[str, Any]:
        known_by = {SERVICE: service} if service else {}
        return _object(self.preview, kind, name, known_by, **fields)

    def base(self) -> List[Dict[str, Any]]:
        namespace = self.object("Namespace", self.preview["names"]["namespace"])
        del namespace["metadata"]["namespace"]
        level = self.settings["preview_pod_security"]
        for mode in ("enforce", "warn"):
            namespace["metadata"]["labels"]["pod-security.kubernetes.io/" + mode] = level
        limits = [p["resources"] for p in self.preview["services"] for dummy in range(p["most"])]
        # Twice: while a new version starts the old one serves, and jobs run beside both.
        storage = _whole_size(self.settings["preview_ephemeral_storage"])
        quota = {
            "limits.ephemeral-storage": str(2 * storage * len(limits)),
            "limits.cpu": _cpus(2 * sum(float(each["cpus"]) for each in limits)),
            "limits.memory": str(2 * sum(int(each["memory"]) for each in limits)),
            "pods": str(4 * len(limits) + 10),
            "services.loadbalancers": "0",
            "services.nodeports": "0",
        }
        size = self.settings["preview_sizes"][self.settings["preview_size"]]
        default = {
            "cpu": _cpus(float(size["cpus"])),
            "memory": str(in_bytes(size["memory"])),
            "ephemeral-storage": self.settings["preview_ephemeral_storage"],
        }
        return [
            namespace,
            self.object("ResourceQuota", "preview", spec={"hard": quota}),
            self.object(
                "LimitRange",
                "preview",
                spec={"limits": [{"type": "Container", "default": default}]},
            ),
            self.policy(),
        ]

    def policy(self) -> Dict[str, Any]:
        """Nothing in and out but DNS, itself and what is granted. Who comes in to an exposed
        service, its own policy adds."""
        everyone: Dict[str, Any] = {"podSelector": {}}
        dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
        system = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
        egress: List[Dict[str, Any]] = [
            {"to": [everyone]},
            {"to": [{"namespaceSelector": system}], "ports": dns},
        ]
        internet = {
            "cidr": "0.0.0.0/0",
            "except": list(_firewall.CLOSED[4]),
        }
        egress.append({"to": [{"ipBlock": internet}]})
        granted = self.settings["preview_egress_allow"]
        egress += [_granted(destination) for destination in granted]
        return self.object(
            "NetworkPolicy",
            "default",
            spec={
                "podSelector": {},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [everyone]}],
                "egress": egress,
            },
        )

    # -- a service ----------------------------------------------------------------------------

    def note_ignored(self, planned: Mapping[str, Any], service: Mapping[str, Any]) -> None:
        left = [(key, why) for key, why in sorted(_IGNORED.items()) if _at(service, key)]
        if planned["health"] and planned["expose"] and _at(service, "healthcheck.test"):
            left.append(("healthcheck", "its x-preview.health tells when it is ready"))
        waves = [*self.waves(data=True), *self.waves(data=False)]
        turns = {name: turn for turn, wave in enumerate(waves) for name in wave}
        left += [
            ("depends_on." + needed, "both are started at once")
            for needed in service.get("depends_on") or {}
            if turns.get(needed, -1) >= turns[planned["name"]]
        ]
        for kind in ("configs", "secrets"):
            for given in service.get(kind) or []:
                left += [
                    ("{0}.{1}".format(kind, key), "such files are root's")
                    for key in ("uid", "gid")
                    if given.get(key)
                ]
        left += _left_of_mounts(service)
        name = planned["name"]
        for key, why in dict.fromkeys(left):
            self.notes.append("services.{0}.{1} is left out: {2}.".format(name, key, why))
        for volume in service.get("volumes") or []:
            nocopy = _at(volume, "volume.nocopy")
            # An image that is known has nothing there.
            if volume["type"] == "volume" and not nocopy and not _known(planned, service):
                self.notes.append(
                    "services.{0}.volumes: {1} starts empty. A Docker host fills a new volume with "
                    "what the image has there.".format(name, volume["target"])
                )

    def workload(
        self, planned: Mapping[str, Any], service: Mapping[str, Any], pod: Mapping[str, Any]
    ) -> Dict[str, Any]:
        name = planned["name"]
        spec: Dict[str, Any] = {
            "replicas": planned["replicas"],
            "selector": {"matchLabels": {SERVICE: name}},
            "template": _template(self.preview, {SERVICE: name}, pod),
            "revisionHistoryLimit": 1,
        }
        if planned["autoscale"]:
            del spec["replicas"]  # the autoscaler's from the start
        if _claims_of(service):
            # In order, a pod that never becomes well would keep its successor from its place.
            spec.update(serviceName=name, podManagementPolicy="Parallel")
            return self.object("StatefulSet", name, name, spec=spec)
        # All at once beside the old ones: the quota has room for that.
        spec["strategy"] = (
            {"type": "Recreate"}
            if planned.get("exactly_one")
            else {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "100%"},
            }
        )
        return self.object("Deployment", name, name, spec=spec)

    def hook(self, service: str, hook: str) -> List[Dict[str, Any]]:
        """A wish of ``x-preview`` as a Job of the service's own container, after what it mounts."""
        planned = next(p for p in self.preview["services"] if p["name"] == service)
        maps, spec = self.pod(planned, self.services[service])
        return [*maps, hook_of(self.preview, hook, service, planned[hook], spec)]

    def address(self, planned: Mapping[str, Any], service: Mapping[str, Any]) -> Dict[str, Any]:
        """The service's name for the others. Where no port is known, the name leads to the pods
        themselves, so that every port of theirs is reached, as in Compose."""
        ports = self.ports(planned, service)
        spec: Dict[str, Any] = {"selector": {SERVICE: planned["name"]}}
        if ports:
            spec["ports"] = [
                {
                    "name": "{0}{1}".format(protocol[0].lower(), port),
                    "port": port,
                    "protocol": protocol,
                    "targetPort": port,
                }
                for port, protocol in ports
            ]
        else:
            spec["clusterIP"] = "None"
        return self.object("Service", planned["name"], planned["name"], spec=spec)

    def ports(
        self, planned: Mapping[str, Any], service: Mapping[str, Any]
    ) -> List[Tuple[int, str]]:
        found = [(p["target"], p.get("protocol", "tcp")) for p in service.get("ports") or []]
        for text in service.get("expose") or []:
            numbers, dummy, protocol = str(text).partition("/")
            first, dummy, last = numbers.partition("-")
            found += [(n, protocol or "tcp") for n in range(int(first), int(last or first) + 1)]
        if planned["expose"]:
            found.append((planned["expose"]["port"], "tcp"))
        known = _known(planned, service)
        if known and not found:
            found.append((known.port, "tcp"))
        return list(dict.fromkeys((int(port), protocol.upper()) for port, protocol in found))

    def ingress(self, planned: Mapping[str, Any]) -> List[Dict[str, Any]]:
        return _ingress.ingress(self.preview, planned, self.settings, self.object)

    def autoscaler(self, planned: Mapping[str, Any]) -> Dict[str, Any]:
        name, wish = planned["name"], planned["autoscale"]
        # An app's author thinks of the limit, and an autoscaler of what is set aside.
        target = {"type": "Utilization", "averageUtilization": round(wish["cpu"] / IDLE)}
        return self.object(
            "HorizontalPodAutoscaler",
            name,
            name,
            spec={
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "minReplicas": wish["min"],
                "maxReplicas": wish["max"],
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            },
        )

    # -- its pod ------------------------------------------------------------------------------

    def pod(
        self, planned: Mapping[str, Any], service: Mapping[str, Any]
    ) -> Tuple[List[Dict[str, Any]], Dict[str, Any]]:
        """The objects that a pod mounts, and its specification."""
        name = planned["name"]
        maps, volumes, mounts = self.mounts(planned, service)
        container = self.container(planned, service)
        if mounts:
            container["volumeMounts"] = mounts
        spec: Dict[str, Any] = {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": _grace(service, bool(planned["expose"])),
            "securityContext": self.pod_security(planned, service),
            "containers": [container],
        }
        if volumes:
            spec["volumes"] = volumes
        groups = together(self.used())
        if name in groups:
            spec["affinity"] = _beside(groups[name])
        if self.settings["preview_registries"]:
            spec["imagePullSecrets"] = [{"name": PULL_SECRET}]
        hosts = self.host_aliases(name, service)
        if hosts:
            spec["hostAliases"] = hosts
        resolver = _resolver(service)
        if resolver:
            spec["dnsConfig"] = resolver
        return maps, spec

    def container(self, planned: Mapping[str, Any], service: Mapping[str, Any]) -> Dict[str, Any]:
        limits = planned["resources"]
        container: Dict[str, Any] = {
            "name": MAIN,
            "image": planned["image"],
            "resources": {
                "limits": {
                    "cpu": _cpus(float(limits["cpus"])),
                    "memory": str(limits["memory"]),
                    "ephemeral-storage": self.settings["preview_ephemeral_storage"],
                },
                "requests": self.requests(limits),
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"], **_added(service)},
            },
        }
        container.update(_words(planned["name"], service))
        for key, field in (
            ("working_dir", "workingDir"),
            ("tty", "tty"),
            ("stdin_open", "stdin"),
        ):
            if service.get(key):
                container[field] = service[key]
        if service.get("read_only"):
            container["securityContext"]["readOnlyRootFilesystem"] = True
        environment = self.environment(planned, service)
        external = self.from_operator(service)
        if external:
            container["env"] = external
        if environment:
            container["envFrom"] = [{"secretRef": {"name": environment}}]
        ports = self.ports(planned, service)
        if ports:
            container["ports"] = [
                {"containerPort": port, "protocol": protocol} for port, protocol in ports
            ]
        probe = self.probe(planned, service)
        if probe:
            container["readinessProbe"] = probe
        if planned["expose"]:
            container["lifecycle"] = {"preStop": {"sleep": {"seconds": DRAIN}}}
        return container

    def environment(self, planned: Mapping[str, Any], service: Mapping[str, Any]) -> str:
        """The Secret that holds a service's environment; another one where that is another."""
        where = "services.{0}.environment".format(planned["name"])
        for variable in service.get("environment") or {}:
            if not _VARIABLE.match(variable):
                raise ManifestsRefused(
                    "{0}: {1!r} is no name of a variable to Kubernetes: letters, digits, _ - and "
                    "dots, no digit first. Rename it (.NET reads A__B as A:B).".format(
                        where, variable
                    )
                )
        own = {
            k: v
            for k, v in (service.get("environment") or {}).items()
            if v is not None and not self.reference(v)
        }
        if not planned["data"]:
            own = dict(observability(self.preview, planned["name"], self.settings), **own)
        known = _known(planned, service)
        targets = [v["target"] for v in service.get("volumes") or [] if v["type"] == "volume"]
        held = _data_images.held(known, targets) if known else None
        if known and held:
            # A claim's own folder is root's: nobody else may make it its own.
            own.setdefault(known.folder, held.rstrip("/") + "/own")
        if not own:
            return ""
        content = {k: str(v).encode() for k, v in own.items()}
        return self.keep_secret(planned["name"], where, content)

    def reference(self, value: Any) -> Optional[Dict[str, str]]:
        """Where a pod finds a value that an operator brings."""
        return self.external.reference(value) if self.external else None

    def from_operator(self, service: Mapping[str, Any]) -> List[Dict[str, Any]]:
        """The variables of a service whose values an operator brings."""
        given = (service.get("environment") or {}).items()
        found = {key: self.reference(value) for key, value in given}
        return [
            {"name": key, "valueFrom": {"secretKeyRef": where}}
            for key, where in found.items()
            if where
        ]

    def keep_secret(self, service: str, where: str, content: Mapping[str, bytes]) -> str:
        """Note a Secret of what stands somewhere. Its name tells whether its content is another,
        but not which: who may list names and not read secrets could otherwise try out what a
        short one is."""
        _refuse_large(where, content, "a Secret", "Let the service fetch what is long")
        key = (self.settings["preview_secret_key"] or self.preview["owner"]).encode()
        digest = hmac.new(key, _canonical(content), hashlib.sha256).hexdigest()[:10]
        name = "{0}-{1}".format(service[:50], digest)
        data = {k: base64.b64encode(v).decode() for k, v in content.items()}
        if all(each["metadata"]["name"] != name for each in self.secret):
            self.secret.append(self.object("Secret", name, service, immutable=True, data=data))
        return name

    def requests(self, limits: Mapping[str, Any]) -> Dict[str, str]:
        """What is set aside: a tenth of the time, as previews idle, half of the memory, and an
        eighth of the disk."""
        return {
            "cpu": _cpus(float(limits["cpus"]) * IDLE),
            "memory": str(int(limits["memory"]) // 2),
            "ephemeral-storage": str(_whole_size(self.settings["preview_ephemeral_storage"]) // 8),
        }

    def pod_security(
        self, planned: Mapping[str, Any], service: Mapping[str, Any]
    ) -> Dict[str, Any]:
        context: Dict[str, Any] = {"seccompProfile": {"type": "RuntimeDefault"}}
        user = str(service.get("user") or "")
        known = _known(planned, service)
        if known and not user:
            # Without capabilities root can give up nothing, so it is that user from the start.
            user = "{0}:{0}".format(known.user)
        if user:
            name, dummy, group = user.partition(":")
            # The one name that is of the same number everywhere.
            uid, gid = ("0" if each == "root" else each for each in (name, group))
            if not uid.isdigit() or (gid and not gid.isdigit()):
                raise _named(planned["name"], "user", user, "1000:1000")
            context["runAsUser"] = int(uid)
            if gid:
                context["runAsGroup"] = int(gid)
            context["fsGroup"] = int(gid or uid)
        if self.settings["preview_pod_security"] == "restricted":
            if context.get("runAsUser") == 0:
                raise ManifestsRefused(
                    "services.{0}.user: 0 is root, which preview_pod_security: restricted does not "
                    "let run. Write another number, as in 1000:1000.".format(planned["name"])
                )
            context["runAsNonRoot"] = True
        groups = [str(group) for group in service.get("group_add") or []]
        for group in groups:
            if not group.isdigit():
                raise _named(planned["name"], "group_add", group, "1000")
        if groups:
            context["supplementalGroups"] = [int(group) for group in groups]
        kernel = service.get("sysctls") or {}
        if kernel:
            context["sysctls"] = [{"name": k, "value": str(v)} for k, v in sorted(kernel.items())]
        return context

    def probe(
        self, planned: Mapping[str, Any], service: Mapping[str, Any]
    ) -> Optional[Dict[str, Any]]:
        """When others may talk to it. Nothing restarts what is unwell: no more does Compose."""
        health, own = planned["health"], service.get("healthcheck") or {}
        disabled = own.get("disable") or own.get("test") == ["NONE"]
        if disabled:
            own = {}
        wanted = _diagnose.expected(planned)
        if health and planned["expose"] and wanted and all(200 <= s < 400 for s in wanted):
            asked_for = [
                # An app that knows its own name refuses others, and redirects what is no https.
                {"name": "Host", "value": planned["expose"]["host"]},
                {"name": "X-Forwarded-Proto", "value": planned["expose"]["url"].partition(":")[0]},
            ]
            return {
                "httpGet": {
                    "path": health["path"],
                    "port": planned["expose"]["port"],
                    "httpHeaders": asked_for,
                },
                "periodSeconds": max(1, int(health["interval"])),
                "timeoutSeconds": max(1, int(health["timeout"])),
                "failureThreshold": 3,
            }
        test = own.get("test")
        known = _known(planned, service)
        if known and not test and not disabled:
            test = [word.replace("$$", "$") for word in known.probe]
            own = dict({"timeout": "5s"}, **own)
        if test:
            period = max(1, int(seconds(own.get("interval") or "") or PERIOD))
            start = int(seconds(own.get("start_period") or "") or 0)
            return {
                "exec": {"command": _command(test)},
                "periodSeconds": period,
                "timeoutSeconds": max(1, int(seconds(own.get("timeout") or "") or 30)),
                # What fails while it starts does not count, as far as that can be told.
                "failureThreshold": int(own.get("retries") or 3) + start // period,
            }
        if planned["expose"]:
            return {"tcpSocket": {"port": planned["expose"]["port"]}, "periodSeconds": 1}
        return None

    def host_aliases(self, name: str, service: Mapping[str, Any]) -> List[Dict[str, Any]]:
        given = service.get("extra_hosts") or {}
        pairs = given.items() if isinstance(given, dict) else (e.split("=", 1) for e in given)
        found: Dict[str, List[str]] = {}
        for host, addresses in pairs:
            if not dns_name(host):
                raise ManifestsRefused(
                    "services.{0}.extra_hosts: {1!r} is no host name to Kubernetes: lower case "
                    "letters, digits, - and dots. Rename it.".format(name, host)
                )
            for ip in addresses if isinstance(addresses, list) else [addresses]:
                if ip == "host-gateway":
                    raise ManifestsRefused(
                        "services.{0}.extra_hosts: host-gateway is a Docker host's; a pod has "
                        "none. Remove it.".format(name)
                    )
                found.setdefault(ip.strip("[]"), []).append(host)
        # The API server knows an entry by its address.
        return [{"ip": ip, "hostnames": hosts} for ip, hosts in found.items()]

    # -- what it mounts -----------------------------------------------------------------------

    def mounts(
        self, planned: Mapping[str, Any], service: Mapping[str, Any]
    ) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]], List[Dict[str, Any]]]:
        """ConfigMaps of files, the pod's volumes, and the container's mounts."""
        maps: List[Dict[str, Any]] = []
        volumes: List[Dict[str, Any]] = []
        mounts: List[Dict[str, Any]] = []

        def add(source: Dict[str, Any], target: str, **more: Any) -> None:
            name = "v{0}".format(len(volumes))
            volumes.append({"name": name, **source})
            mounts.append({"name": name, "mountPath": target, **more})

        for volume in service.get("volumes") or []:
            target = volume["target"]
            read_only = {"readOnly": True} if volume.get("read_only") else {}
            if volume["type"] == "tmpfs":
                size = (volume.get("tmpfs") or {}).get("size")
                add(_memory(size), target, **read_only)
            elif volume["type"] == "bind":
                made, source, path = self.files_at(planned["name"], volume["source"])
                maps += made
                add(source, target, readOnly=True, **path)
            elif volume.get("source"):
                held = {"claimName": claim_name(volume["source"])}
                add({"persistentVolumeClaim": held}, target, **read_only)
            else:
                add({"emptyDir": {}}, target, **read_only)
        for target in service.get("tmpfs") or []:
            path, dummy, options = target.partition(":")
            sizes = [_SIZE.match(option) for option in options.split(",")]
            size = next((in_bytes(found.group(1)) for found in sizes if found), None)
            add(_memory(size), path)
        if service.get("shm_size"):
            add(_memory(in_bytes(service["shm_size"])), "/dev/shm")
        for kind, folder in (("configs", "/"), ("secrets", "/run/secrets/")):
            for given in service.get(kind) or []:
                one = self.definition[kind][given["source"]]
                content = self.files[one["file"]] if "file" in one else str(one["content"]).encode()
                where = str(given.get("target") or given["source"])
                target = where if where.startswith("/") else folder + where
                mode = {"defaultMode": int(given["mode"], 8)} if given.get("mode") else {}
                key = "file"
                written = "{0}.{1}".format(kind, given["source"])
                # What is no file of the checkout was interpolated, and may hold what is secret.
                if kind == "secrets" or "file" not in one:
                    held = self.reference(one.get("content")) or {
                        "name": self.keep_secret(planned["name"], written, {"file": content}),
                        "key": key,
                    }
                    key = held["key"]
                    source = {"secret": dict(mode, secretName=held["name"])}
                else:
                    one_map, source = self.config_map(planned["name"], {"file": content})
                    maps.append(one_map)
                    source["configMap"].update(mode)
                add(source, target, subPath=key, readOnly=True)
        return maps, volumes, mounts

    def files_at(
        self, service: str, path: str
    ) -> Tuple[List[Dict[str, Any]], Dict[str, Any], Dict[str, Any]]:
        """A file or folder of the checkout: its ConfigMap, the volume, and where to look there."""
        mode = {"defaultMode": 0o555}  # nothing tells here which of them are programs
        if path in self.files:
            made, source = self.config_map(service, {"file": self.files[path]})
            source["configMap"].update(mode)
            return [made], source, {"subPath": "file"}
        below = path.rstrip("/") + "/"
        found = {
            name[len(below) :]: self.files[name] for name in self.files if name.startswith(below)
        }
        made, source = self.config_map(
            service, {"f{0}".format(n): content for n, content in enumerate(found.values())}
        )
        items = [{"key": "f{0}".format(n), "path": name} for n, name in enumerate(found)]
        source["configMap"].update(mode, items=items)
        return [made], source, {}

    def config_map(
        self, service: str, content: Mapping[str, bytes]
    ) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        where = "services.{0}: the files it binds".format(service)
        _refuse_large(where, content, "a ConfigMap", "Put them into the image (COPY)")
        name = "{0}-{1}".format(service[:50], hashlib.sha256(_canonical(content)).hexdigest()[:10])
        data = {k: base64.b64encode(v).decode() for k, v in content.items()}
        made = self.object("ConfigMap", name, service, immutable=True, binaryData=data)
        return made, {"configMap": {"name": name}}

    def used(self) -> Dict[str, List[str]]:
        """By service the claims that it mounts."""
        chosen = [planned["name"] for planned in self.preview["services"]]
        return {name: _claims_of(self.services[name]) for name in chosen}

    def claim(self, name: str) -> Dict[str, Any]:
        spec: Dict[str, Any] = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": self.settings["preview_volume_size"]}},
        }
        if self.settings["preview_storage_class"]:
            spec["storageClassName"] = self.settings["preview_storage_class"]
        return self.object("PersistentVolumeClaim", name, spec=spec)


def _refuse_large(where: str, content: Mapping[str, bytes], kept: str, remedy: str) -> None:
    size = sum(map(len, content.values()))
    if size > CONTENT_MAX:
        raise ManifestsRefused(
            "{0}: {1} KiB, and {2} holds at most {3}. {4}.".format(
                where, -(-size >> 10), kept, CONTENT_MAX >> 10, remedy
            )
        )


def _granted(destination: str) -> Dict[str, Any]:
    """One of ``preview_egress_allow``: a network, and its port if that is not every one."""
    allowed = _firewall.allowed(destination)
    rule: Dict[str, Any] = {"to": [{"ipBlock": {"cidr": str(allowed.network)}}]}
    if allowed.port:
        rule["ports"] = [{"protocol": each, "port": allowed.port} for each in ("TCP", "UDP")]
    return rule


def _at(given: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key."""
    found: Any = given
    for part in key.split("."):
        found = (found or {}).get(part)
    return found


def _left_of_mounts(service: Mapping[str, Any]) -> Iterator[Tuple[str, str]]:
    why = "memory is mounted in the cluster's own way"
    for volume in service.get("volumes") or []:
        if _at(volume, "tmpfs.mode"):
            yield "volumes.tmpfs.mode", why
    for text in service.get("tmpfs") or []:
        for option in text.partition(":")[2].split(","):
            if option and not _SIZE.match(option):
                yield "tmpfs.{0}".format(option), why


def _named(service: str, key: str, name: str, example: str) -> ManifestsRefused:
    return ManifestsRefused(
        "services.{0}.{1}: {2!r} is a name, which only the image can tell the number of, and "
        "Kubernetes does not ask it. Write numbers, as in {3}.".format(service, key, name, example)
    )


def _words(name: str, service: Mapping[str, Any]) -> Dict[str, List[str]]:
    """What is run. Kubernetes takes an empty entry point for the image's own, Docker for none."""
    entry, command = (
        None if service.get(key) is None else [literal(word) for word in service[key]]
        for key in ("entrypoint", "command")
    )
    if entry == []:
        if not command:
            raise ManifestsRefused(
                "services.{0}.entrypoint: without it only the image can tell what is run, and "
                "Kubernetes does not ask it. Write the command, too.".format(name)
            )
        return {"command": command}
    return {
        **({"command": entry} if entry else {}),
        **({"args": command} if command else {}),
    }


def _resolver(service: Mapping[str, Any]) -> Dict[str, Any]:
    """What is added to the cluster's own way of resolving names."""
    found: Dict[str, Any] = {}
    if service.get("dns_search"):
        found["searches"] = list(service["dns_search"])
    if service.get("dns_opt"):
        pairs = [option.partition(":") for option in service["dns_opt"]]
        found["options"] = [
            dict({"name": name}, **({"value": value} if value else {}))
            for name, dummy, value in pairs
        ]
    return found


def _known(
    planned: Mapping[str, Any], service: Mapping[str, Any]
) -> Optional[_data_images.DataImage]:
    return _data_images.known(service) if planned["data"] else None


def _claims_of(service: Mapping[str, Any]) -> List[str]:
    return [
        claim_name(volume["source"])
        for volume in service.get("volumes") or []
        if volume["type"] == "volume" and volume.get("source")
    ]


def _added(service: Mapping[str, Any]) -> Dict[str, List[str]]:
    added = sorted(service.get("cap_add") or [])
    return {"add": added} if added else {}


def _beside(claims: Sequence[str]) -> Dict[str, Any]:
    """Puts pods on one node that share volumes: most storage is of one node at a time. Each bears
    one of their names, and looks for all of them: an earlier commit may have had fewer."""
    pods = {"matchExpressions": [{"key": VOLUMES, "operator": "In", "values": list(claims)}]}
    term = {"labelSelector": pods, "topologyKey": "kubernetes.io/hostname"}
    return {"podAffinity": {_REQUIRED: [term]}}


def _sought(spec: Mapping[str, Any]) -> Dict[str, str]:
    """A label of those beside whom a pod is put."""
    for term in _at(spec, "affinity.podAffinity." + _REQUIRED) or []:
        for asked in _at(term, "labelSelector.matchExpressions") or []:
            if asked["key"] == VOLUMES:
                return {VOLUMES: asked["values"][0]}
    return {}


def _memory(size: Any) -> Dict[str, Any]:
    limit = {"sizeLimit": str(size)} if size else {}
    return {"emptyDir": {"medium": "Memory", **limit}}


def _grace(service: Mapping[str, Any], exposed: bool) -> int:
    asked = seconds(str(service.get("stop_grace_period") or ""))
    return int(GRACE if asked is None else asked) + (DRAIN if exposed else 0)


def _command(test: Sequence[str]) -> List[str]:
    """A health check's command as Compose writes it, as Kubernetes runs it: by no shell of its."""
    how, *given = test
    words = [literal(word) for word in given]
    return ["/bin/sh", "-c", *words] if how == "CMD-SHELL" else words


def _whole_size(amount: str) -> int:
    """Bytes of a size as Kubernetes writes it: 512Mi, 2Gi."""
    return int(amount[:-2]) << {"Mi": 20, "Gi": 30}[amount[-2:]]


def _cpus(amount: float) -> str:
    return "{0}m".format(max(1, round(amount * 1000)))


def _canonical(content: Mapping[str, bytes]) -> bytes:
    return json.dumps(
        {key: base64.b64encode(value).decode() for key, value in content.items()}, sort_keys=True
    ).encode()


def kinds(objects: Iterable[Mapping[str, Any]]) -> List[str]:
    """What there is, as ``Kind/name``."""
    return ["{0}/{1}".format(each["kind"], each["metadata"]["name"]) for each in objects]


def everything(made: Mapping[str, Any]) -> List[str]:
    """All that a preview consists of, as ``Kind/name``.

    :param made: ``Manifests`` as a dictionary.
    """
    services = [each for objects in made["services"].values() for each in objects]
    listed = kinds([*made["base"], *made["secret"], *made["external"], *made["claims"], *services])
    return [*listed, "Secret/" + PULL_SECRET, *["Secret/" + _ingress.TLS][: len(made["copies"])]]
