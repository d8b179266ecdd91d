# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From settings and an app definition to ``preview``, the one dictionary that crosses roles.

``identity`` starts it, ``complete`` adds what only the definition tells, ``drift`` says why the
preview that runs is not the one that is wanted. All pure. ``preview`` never holds a secret: what
may hold one (the Compose project) is returned apart.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import hmac
import ipaddress
import json
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _docker,
    _interpolate,
    _lease,
    _names,
    _project,
    _route,
)
from ansible_collections.ephemera.preview.plugins.module_utils._checks import in_bytes
from ansible_collections.ephemera.preview.plugins.module_utils._redact import (
    in_every_form,
    redact,
)
from ansible_collections.ephemera.preview.plugins.module_utils._screen import replicas_of
from ansible_collections.ephemera.preview.plugins.module_utils._xpreview import HOOKS

SCHEMA = 1

# Settings that change how a run or the gateway works, not what a preview is. Which host and URL
# a preview has, and which commit, is compared as such.
_TRANSIENT = frozenset(
    "preview_" + name
    for name in """
    number commit
    repository ref_format checkout
    source_token source_user source_key_file source_host_keys source_timeout source_max_size
    compose_timeout builder buildx_builder images_timeout registries registry_mirror proxy ca_file
    build_timeout build_memory build_pids build_disk image_max_age
    docker_subnets isolation egress_allow lease verify_timeout hooks_timeout
    domain domain_shared host_format host_ip
    gateway_state gateway_image gateway_address gateway_http_port gateway_https_port gateway_tls
    gateway_certificate gateway_certificate_key gateway_acme_email gateway_acme_server
    gateway_acme_ca gateway_acme_dns_provider gateway_acme_environment gateway_acme_resolvers
    gateway_trusted_proxies gateway_metrics_port
    result_dir step_outputs no_log output service command tail since
    """.split()
)

TOO_OLD = "the images are older than preview_image_max_age"


class PlanRefused(ValueError):
    """What was asked for cannot be planned. The message says what, where and what to do."""


def builder(settings: Mapping[str, Any], host: str) -> str:
    """The inventory host that builds for an app of this name in the inventory."""
    named = settings["preview_builder"] or host
    if settings["preview_target"] == "docker" and named != host:
        raise PlanRefused(
            "preview_builder: {0!r} is refused: with preview_target docker images are built where "
            "they run, by {1} itself, as nothing moves them there. Remove it.".format(named, host)
        )
    return str(named)


def derive(key: str, identity: Mapping[str, Any], purpose: str) -> str:
    """A secret of this preview for one purpose: 64 hex digits, the same for the same input.

    The input is length-prefixed, so that no two identities can be read as one.
    """
    parts = [
        identity["forge"],
        identity["repository"],
        identity["app"],
        str(identity["number"]),
        "trusted" if identity["trusted"] else "untrusted",
        purpose,
    ]
    message = b"".join(
        b"%d:%s" % (len(part.encode("utf-8")), part.encode("utf-8")) for part in parts
    )
    return hmac.new(key.encode("utf-8"), message, hashlib.sha256).hexdigest()


def repository_identity(settings: Mapping[str, Any]) -> Tuple[str, str]:
    """(forge, repository) that own a preview: as set, else out of the repository's address."""
    address = settings["preview_repository"]
    match = re.fullmatch(r"(?:[a-z+]+://)?(?:[^@/]*@)?([^/:]+)(?::\d+(?=/))?[:/](.+)", address)
    is_path = address.startswith("/") or match is None
    host, path = ("", address) if is_path or match is None else match.groups()
    path = path.strip("/")
    path = path[: -len(".git")] if path.endswith(".git") else path
    return (
        settings["preview_forge"] or host,
        settings["preview_repository_id"] or path,
    )


def identity(app: str, settings: Mapping[str, Any], run: str, builder: str) -> Dict[str, Any]:
    """The part of ``preview`` that needs no checkout.

    :raises _names.NameRefused: the app, number, domain or host format is not usable.
    """
    tls = settings["preview_gateway_tls"] != "off"
    names = _names.names(
        app,
        settings["preview_number"],
        domain=settings["preview_domain"] or None,
        host_format=settings["preview_host_format"] or None,
        ip=settings["preview_host_ip"] or None,
        domain_shared=settings["preview_domain_shared"],
        scheme="https" if tls else "http",
        port=settings["preview_gateway_https_port" if tls else "preview_gateway_http_port"],
    )
    forge, repository = repository_identity(settings)
    owner = _names.owner_id(forge, repository)
    return {
        "schema": SCHEMA,
        "run": run,
        "name": names.name,
        "app": app,
        "number": names.number,
        "commit": settings["preview_commit"],
        "trusted": settings["preview_trusted"],
        "target": settings["preview_target"],
        "forge": forge,
        "repository": repository,
        "owner": owner,
        "names": dataclasses.asdict(names),
        "labels": _names.labels(names, owner),
        "host": names.host,
        "url": names.url,
        "state_dir": settings["preview_state_dir"],
        "dir": "{0}/previews/{1}".format(settings["preview_state_dir"], names.name),
        "builder": builder,
        "no_log": settings["preview_no_log"],
        "notes": [],
    }


def names_of(preview: Mapping[str, Any]) -> _names.Names:
    """The names of a preview as their own type again."""
    return _names.Names(**preview["names"])


def fingerprint(preview: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """One value for all that decides what is deployed: commit, owner, grants, settings, key."""
    wanted = {
        "schema": preview["schema"],
        "commit": preview["commit"],
        "url": preview["url"],
        "settings": {k: v for k, v in settings.items() if k not in _TRANSIENT},
    }
    text = json.dumps(wanted, sort_keys=True, default=str)
    return derive(settings["preview_secret_key"], preview, "fingerprint:" + text)


def drift(preview: Mapping[str, Any], now: int, max_age: int = 0) -> str:
    """Why the preview that is observed is not the one that is wanted; "" when it is."""
    seen = preview["observed"]
    state = seen["state"]
    if not state:
        return "nothing is deployed"
    if state.get("commit") != preview["commit"]:
        return "commit {0} is deployed".format(str(state.get("commit"))[:12])
    if state.get("fingerprint") != preview["fingerprint"]:
        return "settings or grants have changed"
    if state.get("status") != "ready":
        return "the last run ended as {0}".format(state.get("status"))
    lease = _lease.parse(seen["lease"])
    if lease and lease.kind == "down":
        return "a down has begun to remove it"
    tagged = {image["ref"]: image["id"] for image in seen["images"]}
    edge = preview["name"] + "_edge"
    summary = state.get("wanted", {}).get("services", {})
    running = [c for c in seen["containers"] if not c["oneoff"]]
    for service, wanted in sorted(state.get("services", {}).items()):
        ours = wanted["image"].startswith(_names.IMAGES + "/")
        if ours and tagged.get(wanted["image"]) != wanted["image_id"]:
            return "{0}: its image is gone or another".format(service)
        mine = [c for c in running if c["service"] == service]
        if len(mine) != wanted["replicas"]:
            return "{0}: {1} of {2} containers exist".format(service, len(mine), wanted["replicas"])
        for container in mine:
            if container["image_id"] != wanted["image_id"]:
                return "{0} runs another image".format(service)
            if wanted["completes"]:
                if container["state"] != "exited" or container["exit_code"] != 0:
                    return "{0} has not completed".format(service)
            elif container["state"] != "running" or container["health"] == "unhealthy":
                return "{0} is {1}".format(service, container["health"] or container["state"])
            if summary.get(service, {}).get("url") and edge not in container["networks"]:
                return "{0} is not attached to the gateway's network".format(service)
    held = {v["name"] for v in seen["volumes"]}
    lost = sorted(set(state.get("volumes", [])) - held)
    if lost:
        return "volume {0} is gone".format(lost[0])
    if seen["route"] != state.get("route"):
        return "the route is not the one that was written"
    gateway = preview["gateway"]
    if gateway is None or gateway["state"] != "running":
        return "the gateway does not run"
    if edge not in gateway["networks"]:
        return "the gateway is not attached"
    seeded = state.get("seeded", {})
    if seeded != seed_mark(seen, list(seeded)):
        return "the data is not the data that was seeded"
    return TOO_OLD if too_old(preview, now, max_age) else ""


def too_old(preview: Mapping[str, Any], now: int, max_age: int) -> bool:
    """Whether images were last built from nothing longer ago than they may, by any commit."""
    built = preview["observed"]["state"].get("built")
    return bool(max_age and built is not None and now - int(built) > max_age)


def seed_mark(seen: Mapping[str, Any], volumes: Sequence[str]) -> Dict[str, str]:
    """What a seed is tied to: the volumes that hold the data, each with its time of birth."""
    return {v["name"]: v["created"] for v in seen["volumes"] if v["name"] in volumes}


def deployed(preview: Mapping[str, Any], seen: Mapping[str, Any], now: int) -> Dict[str, Any]:
    """What the state records of a preview that was verified: all that ``drift`` compares."""
    images = {image["ref"]: image["id"] for image in seen["images"]}
    ran = {c["service"]: c["image_id"] for c in seen["containers"]}
    attached = {"containers": seen["containers"], "state": {}}
    return {
        "commit": preview["commit"],
        "fingerprint": preview["fingerprint"],
        "wanted": preview["wanted"],
        "web": preview["web"],
        "built": now if preview["rebuild"] else preview["observed"]["state"].get("built", now),
        "route": seen["route"],
        "volumes": sorted(v["name"] for v in seen["volumes"]),
        # Those of its containers go with them; these nobody else would remember.
        "anonymous": sorted(
            set(_docker.anonymous(preview["observed"])) - set(_docker.anonymous(attached))
        ),
        "services": {
            s["name"]: {
                "image": s["image"],
                "image_id": images.get(s["image"], ran.get(s["name"], "")),
                "digest": (s["build"] or {}).get("digest", ""),
                "replicas": s["replicas"],
                "completes": s["completes"],
            }
            for s in preview["services"]
        },
    }


def ownership(preview: Mapping[str, Any]) -> List[str]:
    """What stands under this preview's name and is not its own, as sentences."""
    problems = []
    seen = preview["observed"]
    for kind in ("containers", "networks", "volumes"):
        for item in seen[kind]:
            owner = item["labels"].get(_names.PREFIX + "owner")
            if owner != preview["owner"]:
                problems.append(
                    "{0} {1} belongs to another repository (owner {2}, this one is {3})".format(
                        kind[:-1], item["name"], owner, preview["owner"]
                    )
                )
    recorded = seen["state"].get("owner", preview["owner"])
    if recorded != preview["owner"]:
        problems.append(
            "{0}/preview.json was written for another repository (owner {1})".format(
                preview["dir"], recorded
            )
        )
    problems += [
        "{0} {1} has a name of this preview but was not made by it: rename or remove it".format(
            item["kind"], item["name"]
        )
        for item in seen["foreign"]
    ]
    return problems


def stranger(preview: Mapping[str, Any]) -> str:
    """Another owner to whom everything under this preview's name belongs; "" where there is none.

    Images, route and folder say nothing themselves: they are of whom the rest is.
    """
    seen = preview["observed"]
    owners = {
        item["labels"].get(_names.PREFIX + "owner", "")
        for kind in ("containers", "networks", "volumes")
        for item in seen[kind]
    }
    owners.add(seen["state"].get("owner", ""))
    owners.discard("")
    return "" if not owners or preview["owner"] in owners else sorted(owners)[0]


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
    secrets = dict(settings["preview_secrets"]) if preview["trusted"] else {}
    if settings["preview_secret_key"]:
        secrets["PREVIEW_SECRET"] = derive(settings["preview_secret_key"], preview, "app")
    return Grants(variables, secrets)


def secret_values(preview: Mapping[str, Any], settings: Mapping[str, Any]) -> List[str]:
    """Every value that must not be shown, as ``redact`` takes them."""
    values = [str(v) for v in settings["preview_secrets"].values()]
    values += [str(v) for v in settings["preview_build_secrets"].values()]
    values += [str(v) for v in settings["preview_auth_users"].values()]
    values += [str(r.get("password", "")) for r in settings["preview_registries"]]
    values += [settings["preview_source_token"], settings["preview_secret_key"]]
    values += [str(v) for v in settings["preview_gateway_acme_environment"].values()]
    values += [str(v) for v in settings["preview_proxy"].values() if "@" in str(v)]
    if settings["preview_secret_key"]:
        values.append(derive(settings["preview_secret_key"], preview, "app"))
    return in_every_form(values)


class Completed(NamedTuple):
    """What a plan makes: the whole ``preview``, and the Compose project, which may hold secrets."""

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
    names = names_of(preview)
    notes = preview["notes"] + list(definition["notes"])
    services = _interpolate.unescape(definition["services"])
    if not services:
        raise PlanRefused(
            "{0}: every service is in a profile; name one in preview_profiles.".format(
                definition["file"]
            )
        )
    wishes = definition["x_preview"]
    x = wishes["services"]
    web = wishes["web"]
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
            image = _names.image(names, name, preview["commit"])
        elif build:
            first = builders.setdefault(json.dumps(build, sort_keys=True), name)
            image = _names.image(names, first, preview["commit"])
        port = exposed.get(name)
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
                "awaited": name in awaited,
                "replicas": replicas_of(service),
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
                **{hook: wish[hook] for hook in HOOKS},
            }
        )
    preview["web"] = web
    preview["services"] = planned
    preview["hooks"] = [hook for hook in HOOKS if any(service[hook] for service in planned)]
    preview["volumes"] = sorted(
        "{0}_{1}".format(names.project, v) for v in definition.get("volumes") or {}
    )
    preview["data_volumes"] = sorted(
        {
            "{0}_{1}".format(names.project, volume["source"])
            for service in planned
            if service["data"]
            for volume in services[service["name"]].get("volumes") or []
            if volume["type"] == "volume" and volume.get("source")
        }
    )
    secrets = secret_values(preview, settings)
    _refuse_secrets(planned, secrets)
    _refuse_long_hooks(planned, settings["preview_hooks_timeout"])
    preview["notes"] = redact(notes, secrets)
    preview["subnets"] = _subnets(preview, settings, taken)
    preview["edge"] = _project.edge(preview)
    preview["wanted"] = _summary(preview)
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
                "url": service["expose"]["url"] if service["expose"] else None,
                "resources": service["resources"],
                "environment": service["environment_names"],
                "hooks": {hook: service[hook] for hook in HOOKS if service[hook]},
            }
            for service in preview["services"]
        },
    }
