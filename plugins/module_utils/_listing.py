# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The previews of a host as rows: for people as a table, for programs as a list. All pure."""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Optional

from ansible_collections.ephemera.preview.plugins.module_utils._names import PREFIX

COLUMNS = ("NAME", "PR", "COMMIT", "STATUS", "RUNNING", "AGE", "EXPIRES", "URL")


def age(seconds: int) -> str:
    """Seconds as people say them: 45s, 12m, 5h, 3d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return "{0}{1}".format(seconds // size, unit)
    return "{0}s".format(max(seconds, 0))


def row(seen: Mapping[str, Any], now: int) -> Dict[str, Any]:
    """One preview of the observer's shape, as it is listed.

    ``status`` is what the last run recorded; ``leftovers`` where things exist that no run
    recorded, ``degraded`` where it was ready and a container is not running any more. ``left`` are
    the seconds until it ``expires``, None where it does not.
    """
    state = seen["state"]
    labels: Dict[str, str] = next(
        (
            item["labels"]
            for kind in ("containers", "networks", "volumes")
            for item in seen[kind]
            if item["labels"]
        ),
        {},
    )
    one_shot = {name for name, s in state.get("services", {}).items() if s.get("completes")}
    lasting = [c for c in seen["containers"] if not c["oneoff"] and c["service"] not in one_shot]
    running = [c for c in lasting if c["state"] == "running" and c["health"] != "unhealthy"]
    status = state.get("status") or "leftovers"
    if status == "ready" and len(running) < len(lasting):
        status = "degraded"
    return {
        "name": seen["name"],
        "app": state.get("app") or labels.get(PREFIX + "app", ""),
        "number": int(state.get("number") or labels.get(PREFIX + "number") or 0),
        "owner": state.get("owner") or labels.get(PREFIX + "owner", ""),
        "commit": state.get("commit", ""),
        "status": status,
        "stage": state.get("stage", ""),
        "running": len(running),
        "containers": len(lasting),
        "created": int(state.get("created", 0)),
        "updated": int(state.get("updated", 0)),
        "age": now - int(state["created"]) if state.get("created") else None,
        "expires": int(state.get("expires", 0)),
        "left": int(state["expires"]) - now if state.get("expires") else None,
        "url": state.get("url", ""),
    }


def _cells(of: Mapping[str, Any]) -> List[str]:
    return [
        of["name"],
        str(of["number"]),
        of["commit"][:12] or "-",
        of["status"] if of["status"] != "building" else "{status} ({stage})".format(**of),
        "{running}/{containers}".format(**of),
        age(of["age"]) if of["age"] is not None else "-",
        _left(of["left"]),
        of["url"] or "-",
    ]


def _left(seconds: Optional[int]) -> str:
    if seconds is None:
        return "-"
    return age(seconds) if seconds > 0 else "expired"


def table(rows: Iterable[Mapping[str, Any]]) -> List[str]:
    """Rows as aligned lines under a heading, or one sentence where there are none."""
    cells = [_cells(of) for of in rows]
    if not cells:
        return ["No previews."]
    cells = [list(COLUMNS)] + cells
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in cells]
