# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why the preview that is observed is not the one that is wanted, and whose it is. Pure."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Sequence

from ansible_collections.ephemera.preview.plugins.module_utils import _docker, _lease, _names
from ansible_collections.ephemera.preview.plugins.module_utils._identity import derive

# Settings that change how a run or the gateway works, not what a preview is. Which host and URL
# a preview has, and which commit, is compared as such.
_TRANSIENT = frozenset(
    "preview_" + name
    for name in """
    number commit
    repository ref_format checkout
    source_token source_user source_key_file source_host_keys source_timeout source_max_size
    compose_timeout builder buildx_builder buildx_isolated
    images_timeout registries registry_mirror proxy ca_file canary_image
    build_timeout build_memory build_pids build_disk image_max_age
    kubeconfig kube_context docker_subnets isolation egress_allow lease verify_timeout hooks_timeout
    domain domain_shared host_format host_ip
    gateway_state gateway_image gateway_address gateway_http_port gateway_https_port gateway_tls
    gateway_certificate gateway_certificate_key gateway_acme_email gateway_acme_server
    gateway_acme_ca gateway_acme_dns_provider gateway_acme_environment gateway_acme_resolvers
    gateway_trusted_proxies gateway_metrics_port
    result_dir step_outputs no_log output service command tail since
    """.split()
)

# In a cluster a policy of the preview's own does what on a Docker host the firewall of all does.
_IN_CLUSTER = frozenset(["preview_egress_allow"])

TOO_OLD = "the images are older than preview_image_max_age"


def fingerprint(preview: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """One value for all that decides what is deployed: commit, owner, grants, settings, key."""
    transient = _TRANSIENT if preview["target"] == "docker" else _TRANSIENT - _IN_CLUSTER
    wanted = {
        "schema": preview["schema"],
        "commit": preview["commit"],
        "url": preview["url"],
        "settings": {k: v for k, v in settings.items() if k not in transient},
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
    edge, on_host = preview["name"] + "_edge", preview["target"] == "docker"
    summary = state.get("wanted", {}).get("services", {})
    running = [c for c in seen["containers"] if not c["oneoff"]]
    for service, wanted in sorted(state.get("services", {}).items()):
        tells = on_host and wanted["image"].startswith(_names.IMAGES + "/")
        if tells and tagged.get(wanted["image"]) != wanted["image_id"]:
            return "{0}: its image is gone or another".format(service)
        mine = [c for c in running if c["service"] == service]
        least, most = wanted["replicas"], wanted.get("most", wanted["replicas"])
        if least < most:
            # One that the cluster has only just made, or finds no place for, is more than needed.
            started = [c for c in mine if c["state"] != "created"]
            mine = started if len(started) >= least else mine
        if not least <= len(mine) <= most:
            return "{0}: {1} of {2} containers exist".format(service, len(mine), least)
        for container in mine:
            if container["image_id"] != wanted["image_id"]:
                return "{0} runs another image".format(service)
            if wanted["completes"]:
                if container["state"] != "exited" or container["exit_code"] != 0:
                    return "{0} has not completed".format(service)
            elif container["state"] != "running" or container["health"] == "unhealthy":
                return "{0} is {1}".format(service, container["health"] or container["state"])
            exposed = summary.get(service, {}).get("url")
            if exposed and on_host and edge not in container["networks"]:
                return "{0} is not attached to the gateway's network".format(service)
    held = {v["name"] for v in seen["volumes"]}
    lost = sorted(set(state.get("volumes", [])) - held)
    if lost:
        return "volume {0} is gone".format(lost[0])
    if seen["route"] != state.get("route"):
        return "the route is not the one that was written"
    applied = seen["applied"]
    others = {k for k, v in state.get("applied", {}).items() if applied.get(k) != v}
    if others:
        return "{0} is gone or was changed".format(min(others))
    gateway = preview["gateway"]
    if on_host and (gateway is None or gateway["state"] != "running"):
        return "the gateway does not run"
    if on_host and edge not in gateway["networks"]:
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


def deployed(
    preview: Mapping[str, Any], seen: Mapping[str, Any], now: int, ttl: int = 0
) -> Dict[str, Any]:
    """What the state records of a preview that was verified: all that ``drift`` compares, and when
    it expires, ``ttl`` seconds from now; with 0 it does not."""
    images = {image["ref"]: image["id"] for image in seen["images"]}
    ran = {c["service"]: c["image_id"] for c in seen["containers"]}
    attached = {"containers": seen["containers"], "state": {}}
    return {
        "commit": preview["commit"],
        "fingerprint": preview["fingerprint"],
        "wanted": preview["wanted"],
        "web": preview["web"],
        "expires": now + ttl if ttl else 0,
        "built": now if preview["rebuild"] else preview["observed"]["state"].get("built", now),
        "route": seen["route"],
        "applied": seen["applied"],
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
                "most": s["most"],
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
