# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From settings and an app definition to ``preview``, the one dictionary that crosses roles.

``_identity.identity`` starts it, ``complete`` adds what only the definition tells. All pure.
``preview`` never holds a secret: what may hold one (the Compose project) is returned apart.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import ipaddress
import json
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _external,
    _identity,
    _interpolate,
    _manifests,
    _names,
    _project,
    _route,
)
from ansible_collections.ephemera.preview.plugins.module_utils._arguments import HOOKS
from ansible_collections.ephemera.preview.plugins.module_utils._checks import in_bytes, replicas_of
from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact


class PlanRefused(ValueError):
    """What was asked for cannot be planned. The message says what, where and what to do."""


class Grants(NamedTuple):
    """The variables a Compose file may use: those that may be shown, and those that may not."""

    variables: Dict[str, str]
    secrets: Dict[str, str]


def grants(preview: Mapping[str, Any], settings: Mapping[str, Any]) -> Grants:
    """What the platform grants this preview; untrusted pull requests get no ``preview_secrets``."""
    variables = {
        "PREVIEW": "true",
        "PREVIEW_APP": preview["app"],
        "PREVIEW_COMMIT": preview["commit"],
        "PREVIEW_HOST": preview["host"],
        "PREVIEW_NAME": preview["name"],
        "PREVIEW_NUMBER": str(preview["number"]),
        "PREVIEW_URL": preview["url"],
    }
    variables.update(_project.reporting(preview, settings))
    variables.update(settings["preview_environment"])
    variables.update(_external.marks(preview, settings))
    secrets = dict(settings["preview_secrets"]) if preview["trusted"] else {}
    if settings["preview_secret_key"]:
        secrets["PREVIEW_SECRET"] = _identity.derive(settings["preview_secret_key"], preview, "app")
    return Grants(variables, secrets)


class Completed(NamedTuple):
    """What a plan makes: the whole ``preview``; and the Compose project, or the ``Manifests`` of a
    cluster as a dictionary, which may hold secrets."""

    preview: Dict[str, Any]
    project: Dict[str, Any]


def _resources(
    name: str,
    service: Mapping[str, Any],
    size: Optional[str],
    settings: Mapping[str, Any],
    notes: List[str],
) -> Dict[str, Any]:
    """Limits of one service: as its file asks, within the largest size; else of its size."""
    sizes = settings["preview_sizes"]
    base = sizes[size or settings["preview_size"]]
    limits = ((service.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    asked = {
        "cpus": float(limits.get("cpus") or service.get("cpus") or base["cpus"]),
        "memory": in_bytes(limits.get("memory") or service.get("mem_limit") or base["memory"]) or 0,
        "pids": int(limits.get("pids") or service.get("pids_limit") or base["pids"]),
    }
    most = {
        "cpus": max(float(s["cpus"]) for s in sizes.values()),
        "memory": max(in_bytes(s["memory"]) or 0 for s in sizes.values()),
        "pids": max(int(s["pids"]) for s in sizes.values()),
    }
    for key, top in most.items():
        if not 0 < asked[key] <= top:
            notes.append(
                "services.{0}: {1} {2} is more than the largest of preview_sizes; "
                "{3} is used.".format(name, key, asked[key], top)
            )
            asked[key] = top
    return asked


def _data(services: Mapping[str, Any], apps: Set[str]) -> Set[str]:
    """Image-only services that need nothing else: databases, caches, queues."""
    data = set(services) - apps
    while True:
        stay = {name for name in data if data.issuperset(services[name].get("depends_on") or {})}
        if stay == data:
            return data
        data = stay


def allocate(pools: Sequence[str], taken: Sequence[str], seed: str, count: int) -> List[str]:
    """``count`` free /26 networks out of the pools, starting where the name leads.

    :raises PlanRefused: the pools are used up.
    """
    used = [ipaddress.ip_network(t, strict=False) for t in taken if "." in t]
    free: List[str] = []
    for pool in pools:
        whole = ipaddress.ip_network(pool)
        size = 1 << (32 - _route.NETWORK_PREFIX)
        total = whole.num_addresses // size
        start = int(hashlib.sha256(seed.encode("utf-8")).hexdigest()[:8], 16) % max(total, 1)
        for step in range(total):
            at = int(whole.network_address) + ((start + step) % total) * size
            net = ipaddress.ip_network((at, _route.NETWORK_PREFIX))
            if not any(net.overlaps(other) for other in used):
                free.append(str(net))
                if len(free) == count:
                    return free
    raise PlanRefused(
        "No free subnet is left in preview_docker_subnets ({0}): {1} networks exist. Take down "
        "previews that are not needed, or add a subnet.".format(", ".join(pools), len(used))
    )


def _restarts(name: str, asked: Optional[str], completes: bool, notes: List[str]) -> None:
    """Tell where a service is started again, or not, other than it asks to be."""
    same, why = (
        (("no",), "the service has a job to end, and is run once")
        if completes
        else (("always", "unless-stopped"), "the platform restarts what ends")
    )
    if asked and asked not in same:
        notes.append("services.{0}.restart: {1} is left out: {2}.".format(name, asked, why))


def _counts(
    name: str,
    service: Mapping[str, Any],
    scale: Optional[Mapping[str, int]],
    in_cluster: bool,
    completes: bool,
    notes: List[str],
) -> Dict[str, Any]:
    """How many containers a service has, at least and at most."""
    if scale is None:
        count = replicas_of(service)
        if in_cluster and completes and count > 1:
            notes.append(
                "services.{0}.deploy.replicas: {1} is left out: the service has a job to end, and "
                "in a cluster it is run once.".format(name, count)
            )
            count = 1
        return {"replicas": count, "most": count, "autoscale": None}
    if in_cluster:
        return {"replicas": scale["min"], "most": scale["max"], "autoscale": dict(scale)}
    notes.append(
        "services.{0}.x-preview.autoscale is left out: a Docker host does not scale. The service "
        "has {1} of its containers.".format(name, scale["min"])
    )
    return {"replicas": scale["min"], "most": scale["min"], "autoscale": None}


def _hook(
    wish: Optional[Mapping[str, Any]], service: Mapping[str, Any]
) -> Optional[Mapping[str, Any]]:
    """What a service wants to be run. ``whole``: its words are all of it, as the service's entry
    point is empty. Nothing else tells that before a teardown."""
    return dict(wish, whole=True) if wish and service.get("entrypoint") == [] else wish


def complete(
    identity_: Mapping[str, Any],
    definition: Mapping[str, Any],
    settings: Mapping[str, Any],
    taken: Sequence[str] = (),
) -> Completed:
    """The whole of ``preview`` and the Compose project that deploys it.

    :param definition: what ``app_info`` returned.
    :param taken: subnets in use on the host, except this preview's own networks.
    :raises PlanRefused: the definition and the settings do not fit together.
    """
    preview = copy.deepcopy(dict(identity_))
    names = _identity.names_of(preview)
    notes = preview["notes"] + list(definition["notes"])
    services = _interpolate.unescape(definition["services"])
    if not services:
        raise PlanRefused(
            "{0}: every service is in a profile; name one in preview_profiles.".format(
                definition["file"]
            )
        )
    misplaced = _external.misplaced(services, definition, _external.data(preview, settings))
    if misplaced:
        raise PlanRefused(misplaced)
    wishes = definition["x_preview"]
    x = wishes["services"]
    web = wishes["web"]
    in_cluster = preview["target"] == "kubernetes"
    registry = settings["preview_registry"] if in_cluster else None
    exposed = {name: wish["expose"]["port"] for name, wish in x.items() if wish["expose"]}
    prebuilt = settings["preview_images"]
    for name in prebuilt:
        if name not in services:
            raise PlanRefused(
                "preview_images names {0!r}; the services are: {1}.".format(
                    name, ", ".join(sorted(services))
                )
            )
    apps = {
        name
        for name, service in services.items()
        if service.get("build")
        or name in exposed
        or name in prebuilt
        or any(x[name][hook] for hook in HOOKS)
    }
    data = _data(services, apps)
    awaited = {
        needed
        for service in services.values()
        for needed, how in (service.get("depends_on") or {}).items()
        if how.get("condition") == "service_completed_successfully"
    }
    # One that says it is not to be started again, and that nobody talks to, has a job to end.
    completes = awaited | {
        name
        for name, service in services.items()
        if service.get("restart") == "no" and name not in exposed and "healthcheck" not in service
    }
    builders: Dict[str, str] = {}
    planned = []
    for name in sorted(services):
        service, wish = services[name], x[name]
        build = service.get("build") if name not in prebuilt else None
        image = service.get("image", "")
        if name in prebuilt:
            image = _names.image(names, name, preview["commit"], registry)
        elif build:
            first = builders.setdefault(json.dumps(build, sort_keys=True), name)
            image = _names.image(names, first, preview["commit"], registry)
        port = exposed.get(name)
        if wish["autoscale"] and name in completes:
            raise PlanRefused(
                "services.{0}.x-preview.autoscale: the service has a job to end, and is run once. "
                "Remove it.".format(name)
            )
        _restarts(name, service.get("restart"), name in completes, notes)
        planned.append(
            {
                "name": name,
                "image": image,
                "source": "prebuilt" if name in prebuilt else "build" if build else "pull",
                "prebuilt": prebuilt.get(name, "")
                .replace("{commit}", preview["commit"])
                .replace("{number}", str(preview["number"])),
                "build": build and dict(build, digest=definition["digests"].get(name, "")),
                "data": name in data,
                "completes": name in completes,
                **_counts(name, service, wish["autoscale"], in_cluster, name in completes, notes),
                "exactly_one": wish["exactly_one"],
                "resources": _resources(name, service, wish["size"], settings, notes),
                "environment_names": sorted(service.get("environment") or {}),
                "expose": port
                and {
                    "port": port,
                    "host": names.host if name == web else _names.service_host(names, name),
                    "url": names.url if name == web else _names.service_url(names, name),
                    "alias": _names.edge_alias(names, name),
                },
                "health": wish["health"],
                **{hook: _hook(wish[hook], service) for hook in HOOKS},
            }
        )
    preview["web"] = web
    preview["services"] = planned
    preview["hooks"] = [hook for hook in HOOKS if any(service[hook] for service in planned)]

    def called(volume: str) -> str:
        return _names.claim_name(volume) if in_cluster else "{0}_{1}".format(names.project, volume)

    preview["volumes"] = sorted(map(called, definition.get("volumes") or {}))
    preview["data_volumes"] = sorted(
        {
            called(volume["source"])
            for service in planned
            if service["data"]
            for volume in services[service["name"]].get("volumes") or []
            if volume["type"] == "volume" and volume.get("source")
        }
    )
    secrets = _identity.secret_values(preview, settings)
    _refuse_secrets(planned, secrets)
    _refuse_long_hooks(planned, settings["preview_hooks_timeout"])
    preview["notes"] = redact(notes, secrets)
    preview["wanted"] = _summary(preview)
    if in_cluster:
        try:
            held = definition.get("files", {})
            files = {path: base64.b64decode(data) for path, data in held.items()}
            made = _manifests.render(preview, services, settings, definition, files)
        except _manifests.ManifestsRefused as refused:
            raise PlanRefused(str(refused)) from None
        preview["notes"] += redact(made.notes, secrets)
        return Completed(preview, made._asdict())
    preview["notes"] += redact(_project.left_out(services, definition), secrets)
    preview["subnets"] = _subnets(preview, settings, taken)
    preview["edge"] = _project.edge(preview)
    return Completed(preview, _project.render(preview, services, settings, definition))


def _subnets(
    preview: Mapping[str, Any], settings: Mapping[str, Any], taken: Sequence[str]
) -> Dict[str, str]:
    """The subnet of each of the two networks; one that exists keeps its own."""
    wanted = ["default", "edge"]
    mine = {n["name"]: n["subnets"] for n in preview["observed"]["networks"]}
    kept = {
        key: mine[preview["name"] + "_" + key][0]
        for key in wanted
        if mine.get(preview["name"] + "_" + key)
    }
    missing = [key for key in wanted if key not in kept]
    fresh = (
        allocate(
            settings["preview_docker_subnets"],
            list(taken) + list(kept.values()),
            preview["name"],
            len(missing),
        )
        if missing
        else []
    )
    return dict(kept, **dict(zip(missing, fresh)))


def _refuse_long_hooks(planned: Iterable[Mapping[str, Any]], limit: int) -> None:
    seconds = sum(s[hook]["timeout"] for s in planned for hook in HOOKS if s[hook])
    if seconds > limit:
        raise PlanRefused(
            "The hooks of x-preview may take {0} s together, and preview_hooks_timeout is {1} s. "
            "Give them shorter timeouts, or raise the setting.".format(seconds, limit)
        )


def _refuse_secrets(planned: Iterable[Mapping[str, Any]], secrets: Sequence[str]) -> None:
    """Refuse a secret where a plan would show it. What is hidden there would no longer work."""
    for service in planned:
        for hook in HOOKS:
            said = _bare("".join((service[hook] or {}).get("command", [])))
            if any(len(_bare(secret)) > 3 and _bare(secret) in said for secret in secrets):
                raise PlanRefused(
                    "services.{0}.x-preview.{1}.command holds the value of a secret, which would "
                    "stand in the process list. Give it to the service by its environment.".format(
                        service["name"], hook
                    )
                )
        build = service["build"] or {}
        if _holds(build.get("args"), secrets):
            raise PlanRefused(
                "services.{0}.build.args holds the value of a secret, which would stand in the "
                "image's history. Use preview_build_secrets and RUN --mount=type=secret.".format(
                    service["name"]
                )
            )
        shown = {
            "image": service["image"] if service["source"] == "pull" else "",
            "build": {k: v for k, v in build.items() if k != "digest"},
            "x-preview.health": service["health"],
        }
        for key, value in shown.items():
            if _holds(value, secrets):
                raise PlanRefused(
                    "services.{0}.{1} holds the value of a secret, which would be shown. Write "
                    "there what may be seen.".format(service["name"], key)
                )


def _bare(text: str) -> str:
    """A command without what the splitting of a string into words takes away or moves."""
    return re.sub(r"[\s'\"\\]+", "", text)


def _holds(value: Any, secrets: Sequence[str]) -> bool:
    return bool(redact(value, secrets) != value)


def _summary(preview: Mapping[str, Any]) -> Dict[str, Any]:
    """What a person would call the preview: kept in its state, compared by ``--diff``."""
    return {
        "commit": preview["commit"],
        "url": preview["url"],
        "volumes": preview["volumes"],
        "services": {
            service["name"]: {
                "image": service["image"],
                "replicas": service["replicas"],
                "autoscale": service["autoscale"],
                "url": service["expose"]["url"] if service["expose"] else None,
                "resources": service["resources"],
                "environment": service["environment_names"],
                "hooks": {hook: service[hook] for hook in HOOKS if service[hook]},
            }
            for service in preview["services"]
        },
    }
