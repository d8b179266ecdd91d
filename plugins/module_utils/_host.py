# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What previews of a host, and builds, stand behind: a gateway and the firewall. Pure.

Each function yields what is wrong by the key that the doctor has a sentence for, and that
sentence's values. It stands apart from the doctor since each run asks, and few have an answer.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import _docker, _firewall

Troubles = Iterator[Tuple[str, Dict[str, Any]]]


def troubles(seen: Mapping[str, Any], app: str, settings: Mapping[str, Any]) -> Troubles:
    """Of what was observed (``_docker.observe``): the gateway's, else the firewall's.

    The same playbook sets both up, so one of them is said.
    """
    gateway = seen["gateway"]
    found = gateway_troubles(gateway["state"] if gateway else None, (gateway or {}).get("health"))
    first = next(found, None)
    if first:
        yield first
    else:
        yield from firewall_troubles(seen["firewall"], app, settings)


def gateway_troubles(
    state: Optional[str], health: Optional[str] = None, ours: bool = True
) -> Troubles:
    """``state`` and ``health`` are the engine's words for its container; None: there is none."""
    if state is None:
        yield "gateway.absent", {}
    elif not ours:
        yield "gateway.foreign", {}
    elif state != "running":
        yield "gateway.stopped", {"state": state}
    elif health == "unhealthy":
        yield "gateway.unhealthy", {}


def firewall_troubles(seen: _docker.Firewall, app: str, settings: Mapping[str, Any]) -> Troubles:
    """What lacks of the rules around an app's previews, where they are wanted."""
    if not settings["preview_isolation"]:
        return
    if seen.said == "":
        yield "firewall.iptables", {}
    elif seen.said is not None or 4 not in seen.rules:
        yield "firewall.unseen", {"said": seen.said or "no answer."}
    else:
        allow = settings["preview_egress_allow"]
        gaps = [
            gap
            for version, lines in seen.rules.items()
            for gap in _firewall.gaps("\n".join(lines), app, allow, version)
        ]
        if gaps:
            yield "firewall.gaps", {"count": len(gaps), "rule": gaps[0]}


def build_troubles(
    seen: _docker.Firewall,
    builder: str,
    app: str,
    settings: Mapping[str, Any],
    trusted: bool,
) -> Troubles:
    """What lacks of the same around an app's builds, and on a Docker host its previews.

    :param builder: what buildx says of preview_buildx_builder, where that is set.
    """
    if needs_firewall(builder, settings):
        yield from firewall_troubles(seen, app, settings)
    alone = _is_elsewhere(builder, settings) and not settings["preview_buildx_isolated"]
    if alone and settings["preview_isolation"] and not trusted:
        yield "firewall.builder", {"builder": settings["preview_buildx_builder"]}


def needs_firewall(builder: str, settings: Mapping[str, Any]) -> bool:
    """Whether something of an app runs where its images are built, or its previews do."""
    return bool(settings["preview_target"] == "docker" or not _is_elsewhere(builder, settings))


def _is_elsewhere(builder: str, settings: Mapping[str, Any]) -> bool:
    return bool(settings["preview_buildx_builder"] and not _docker.is_on_default_bridge(builder))
