# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Compose project of a preview, written from planned fields: nothing of the author's file is
copied but values at places this module names, and every platform label is written by us."""

from __future__ import annotations

import posixpath
from typing import Any, Dict, List, Mapping, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import _data_images, _firewall
from ansible_collections.ephemera.preview.plugins.module_utils._interpolate import escape
from ansible_collections.ephemera.preview.plugins.module_utils._names import PREFIX

# Values of the author's service that mean the same in ours. All passed the screen.
_KEPT = (
    "cap_drop",
    "command",
    "entrypoint",
    "extra_hosts",
    "init",
    "read_only",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "working_dir",
    # Only where preview_compose_allow lets them pass the screen.
    "cap_add",
    "dns",
    "dns_opt",
    "dns_search",
    "group_add",
    "sysctls",
)

# Likewise of a mount, by its type.
_MOUNTS: Dict[str, Tuple[str, ...]] = {
    "bind": (),
    "volume": ("nocopy",),
    "tmpfs": ("size", "mode"),
}


def _healthcheck(
    planned: Mapping[str, Any], service: Mapping[str, Any], verified: int
) -> Dict[str, Any]:
    """The service's own check, else the image's, asked twice a second or more while it starts.

    :param verified: the seconds after which nobody waits for it any more.
    """
    own = service.get("healthcheck")
    if own and (own.get("disable") or own.get("test") == ["NONE"]):
        return {"disable": True}
    starting = {"start_period": "60s", "start_interval": "500ms"}
    if own:
        return dict(starting, **escape(own))
    known = _data_images.known(service)
    if planned["data"] and known:
        asked = dict(starting, start_interval="250ms")  # these cost little
        return dict(asked, test=known.probe, interval="10s", timeout="5s", retries=5)
    # What is not said here the engine takes from the image, where that has a check. How long it
    # starts is not seen here, so it may do so for as long as anybody waits.
    return dict(starting, start_period="{0}s".format(max(60, verified)))


def _in_tree(preview: Mapping[str, Any], path: str) -> str:
    """A path relative to the checkout as one of the host, inside the exported tree."""
    return posixpath.normpath(posixpath.join(preview["dir"], "source", preview["commit"], path))


def _files(preview: Mapping[str, Any], given: Mapping[str, Any]) -> Dict[str, Any]:
    """The definition's configs or secrets, by name."""
    return {
        name: {"file": escape(_in_tree(preview, one["file"]))}
        if "file" in one
        else {"content": escape(one["content"])}
        for name, one in given.items()
    }


def _mounts(preview: Mapping[str, Any], service: Mapping[str, Any]) -> List[Dict[str, Any]]:
    mounts = []
    for volume in service.get("volumes") or []:
        mount = {"type": volume["type"], "target": volume["target"]}
        if volume.get("read_only"):
            mount["read_only"] = True
        if volume["type"] == "bind":
            mount["source"] = _in_tree(preview, volume["source"])
            mount["read_only"] = True
            mount["bind"] = {"create_host_path": False}
        elif volume["type"] == "volume" and volume.get("source"):
            mount["source"] = volume["source"]
        own = volume.get(volume["type"]) or {}
        kept = {
            key: own[key] for key in _MOUNTS.get(volume["type"], ()) if own.get(key) is not None
        }
        if kept:
            mount[volume["type"]] = kept
        mounts.append(escape(mount))
    return mounts


def reporting(preview: Mapping[str, Any], settings: Mapping[str, Any]) -> Dict[str, str]:
    """Where errors and traces go, where that is set, tied to the preview and its commit."""
    variables = {}
    if settings.get("preview_sentry_dsn"):
        variables["SENTRY_DSN"] = settings["preview_sentry_dsn"]
        variables["SENTRY_ENVIRONMENT"] = preview["name"]
        variables["SENTRY_RELEASE"] = preview["commit"]
    if settings.get("preview_otel_endpoint"):
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = settings["preview_otel_endpoint"]
        variables["OTEL_RESOURCE_ATTRIBUTES"] = (
            "service.version={0},deployment.environment.name={1}".format(
                preview["commit"], preview["name"]
            )
        )
    return variables


def observability(
    preview: Mapping[str, Any], service: str, settings: Mapping[str, Any]
) -> Dict[str, str]:
    """What every service gets of that, with its name."""
    variables = reporting(preview, settings)
    if "OTEL_EXPORTER_OTLP_ENDPOINT" in variables:
        variables["OTEL_SERVICE_NAME"] = "{0}-{1}".format(preview["name"], service)
    return variables


def _service(
    preview: Mapping[str, Any],
    planned: Mapping[str, Any],
    service: Mapping[str, Any],
    settings: Mapping[str, Any],
    definition: Mapping[str, Any],
) -> Dict[str, Any]:
    own = {k: v for k, v in (service.get("environment") or {}).items() if v is not None}
    if not planned["data"]:
        own = dict(observability(preview, planned["name"], settings), **own)
    limits = planned["resources"]
    rendered = {
        "image": planned["image"],
        "pull_policy": "missing" if planned["source"] == "pull" else "never",
        "environment": escape(own),
        "labels": dict(preview["labels"], **{PREFIX + "service": planned["name"]}),
        "security_opt": ["no-new-privileges:true"],
        "logging": {
            "driver": settings["preview_log_driver"],
            "options": escape(settings["preview_log_options"]),
        },
        "restart": "no" if planned["completes"] else "unless-stopped",
        "deploy": {
            "replicas": planned["replicas"],
            "resources": {
                "limits": {
                    "cpus": str(limits["cpus"]),
                    "memory": str(limits["memory"]),
                    "pids": limits["pids"],
                }
            },
        },
        "volumes": _mounts(preview, service),
        "healthcheck": _healthcheck(planned, service, settings["preview_verify_timeout"]),
        "depends_on": {
            needed: {"condition": how["condition"], "required": how.get("required", True)}
            for needed, how in (service.get("depends_on") or {}).items()
            if any(p["name"] == needed for p in preview["services"])
        },
    }
    rendered.update({k: escape(service[k]) for k in _KEPT if service.get(k) is not None})
    for kind in ("configs", "secrets"):
        rendered[kind] = [
            escape({k: v for k, v in given.items() if k not in _ignored(definition[kind], given)})
            for given in service.get(kind) or []
        ]
    # Nobody answers in another's name on a network, or sends in it.
    rendered["cap_drop"] = sorted({*(rendered.get("cap_drop") or []), "NET_RAW"})
    # An empty entry point says that the image's own is not run.
    return {k: v for k, v in rendered.items() if v not in ({}, [], None) or k == "entrypoint"}


def _ignored(files: Mapping[str, Any], given: Mapping[str, Any]) -> List[str]:
    """What a config or secret asks for in vain: Docker mounts a file as it is."""
    is_file = "file" in files[given["source"]]
    return [key for key in ("uid", "gid", "mode") if is_file and given.get(key)]


def _network(preview: Mapping[str, Any]) -> Dict[str, Any]:
    name = preview["name"] + "_default"
    return {
        "name": name,
        "driver": "bridge",
        # What the firewall knows an app's previews by.
        "driver_opts": {
            "com.docker.network.bridge.name": _firewall.interface(preview["app"], name)
        },
        "enable_ipv6": False,
        "labels": preview["labels"],
        "ipam": {"config": [{"subnet": preview["subnets"]["default"]}]},
    }


def edge(preview: Mapping[str, Any]) -> Dict[str, Any]:
    """The network on which the gateway reaches what is exposed. It is not the project's: Compose
    would give the names of services there too, and the gateway would find what an author named
    like something that it looks for."""
    name = preview["name"] + "_edge"
    return {
        "name": name,
        "subnet": preview["subnets"]["edge"],
        "bridge": _firewall.interface(preview["app"], name),
        "labels": preview["labels"],
        "aliases": {
            service["name"]: service["expose"]["alias"]
            for service in preview["services"]
            if service["expose"]
        },
    }


def render(
    preview: Mapping[str, Any],
    services: Mapping[str, Any],
    settings: Mapping[str, Any],
    definition: Mapping[str, Any],
) -> Dict[str, Any]:
    """The project as Compose reads it. It may hold secrets: write it where only we can read.

    :param services: the chosen services in Compose's normal form, ``$$`` undone.
    """
    used = {
        volume["source"]
        for service in services.values()
        for volume in service.get("volumes") or []
        if volume["type"] == "volume" and volume.get("source")
    }
    return {
        "name": preview["name"],
        "services": {
            planned["name"]: _service(
                preview, planned, services[planned["name"]], settings, definition
            )
            for planned in preview["services"]
        },
        "networks": {
            "default": _network(preview),
        },
        "configs": _files(preview, definition.get("configs") or {}),
        "secrets": _files(preview, definition.get("secrets") or {}),
        "volumes": {
            volume: {
                "name": "{0}_{1}".format(preview["name"], volume),
                "labels": preview["labels"],
            }
            for volume in sorted(used)
        },
    }


def left_out(services: Mapping[str, Any], definition: Mapping[str, Any]) -> List[str]:
    """Notes of what Compose does not do as it is asked."""
    return [
        "services.{0}.{1}.{2} is left out: Docker mounts the file {3} as it is.".format(
            name, kind, key, definition[kind][given["source"]]["file"]
        )
        for name, service in services.items()
        for kind in ("configs", "secrets")
        for given in service.get(kind) or []
        for key in _ignored(definition[kind], given)
    ]
