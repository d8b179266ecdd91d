# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages of a run: begun by the first task of each, under the lease, and recorded.

The record is ``{"stages": [{"name", "start", "end"}], "state": {}, "seed_mark": {}}``: times in
seconds since the epoch, what the preview's state holds now, and the volumes that hold its data,
each with its time of birth. It waits in the run's own folder, and goes with it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils import _docker, _lease, _names

if TYPE_CHECKING:
    from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction

IDENTITY = (
    "schema", "name", "app", "number", "owner", "forge", "repository", "trusted", "url",
)  # fmt: skip


def record(preview: Mapping[str, Any]) -> dict[str, Any]:
    """What this run has recorded so far; empty before its first stage."""
    try:
        return dict(json.loads(_file(preview).read_bytes()))
    except FileNotFoundError:
        return {}


def begin(action: PreviewAction, preview: Mapping[str, Any], name: str, kind: str = "up") -> str:
    """Begin a stage: the first of a run takes the lease, each later one must still hold it.

    :param kind: ``up`` or ``down``; a ``down`` takes the lease from a running ``up``.
    :returns: the run whose lease was taken, or nothing.
    :raises AnsibleActionFail: another run holds the lease, or the host cannot be written to.
    """
    known, now = record(preview), int(time.time())
    stages = known.get("stages", [])
    for before in stages[-1:]:
        before["end"] = now
    mark = known.get("seed_mark")
    # The record of what is deployed outlives a new run until that one has deployed.
    state = dict(known.get("state") or preview["observed"]["state"])
    if name == "teardown":
        state = {}
    if name in ("seed", "deploy") and mark is None and not action.check_mode:
        mark = _docker.births(action.on_host, preview["data_volumes"])
    if name == "deploy":
        state["seeded"] = mark
    state.update({key: preview[key] for key in IDENTITY})
    state.update(status="building", stage=name, updated=now)
    state.setdefault("created", now)
    state["anonymous"] = _docker.anonymous(dict(preview["observed"], state=state))
    superseded = ""
    if not action.check_mode:
        try:
            superseded = _hold(action, preview, name, kind, state, first=not stages)
        except AnsibleActionFail as failure:
            raise AnsibleActionFail(str(failure), result={"stage": name}) from None
    stages.append({"name": name, "start": now})
    _keep(preview, {"stages": stages, "state": state, "seed_mark": mark})
    if not (action.check_mode or stages[1:]):
        _end_one_offs(action, preview, again=bool(superseded))
    return superseded


def limit(preview: Mapping[str, Any], name: str) -> int:
    """The seconds that a stage may take, and its lease is kept."""
    settings = preview["settings"]
    verify = settings["preview_verify_timeout"]

    def hooks(hook: str) -> int:
        return sum(s[hook]["timeout"] for s in preview["services"] if s[hook])

    if name == "source":
        return int(settings["preview_source_timeout"])
    if name == "build":
        return int(settings["preview_build_timeout"] + settings["preview_images_timeout"])
    if name == "database":
        return int(2 * verify)
    if name in ("migrate", "seed"):
        return hooks(name)
    if name == "deploy":
        return int(verify)
    if name == "verify":
        return int(verify + hooks("after_deploy"))
    if name == "teardown":
        services = preview["observed"]["state"].get("wanted", {}).get("services", {})
        before_down = [s["hooks"].get("before_down", {}) for s in services.values()]
        return sum(hook.get("timeout", 0) for hook in before_down)
    return 0


def _hold(
    action: PreviewAction,
    preview: Mapping[str, Any],
    name: str,
    kind: str,
    state: Mapping[str, Any],
    first: bool,
) -> str:
    """Take or keep the lease, and write the state under it. Returns whose lease it ended."""
    held = _lease.parse(preview["observed"]["lease"])
    return action.lease(
        "take" if first else "keep",
        preview,
        kind,
        max(preview["settings"]["preview_lease"], limit(preview, name) + 60),
        # A preview that goes has nothing to record, and its folder may not exist.
        stdin="" if kind == "down" else json.dumps(state, sort_keys=True),
        dead=held.owner if held and _lease.is_dead(held) else "",
    )


def _end_one_offs(action: PreviewAction, preview: Mapping[str, Any], again: bool) -> None:
    """A killed run's migration goes on by itself; two of them must not meet."""
    seen = preview["observed"]
    if again:  # until its lease was taken, that run could start one
        found = _docker.observe(action.on_host, preview["state_dir"], preview["name"])
        seen = found["previews"][preview["name"]]
    ids = [
        c["id"]
        for c in seen["containers"]
        if c["oneoff"] and c["labels"].get(_names.PREFIX + "owner") == preview["owner"]
    ]
    if ids:
        action.on_host(["docker", "container", "rm", "--force", "--volumes", *ids])


def _keep(preview: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    path = _file(preview)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(known))
    os.replace(draft, path)


def _file(preview: Mapping[str, Any]) -> Path:
    # Two runs of one preview can follow each other in one process.
    return Path(C.DEFAULT_LOCAL_TMP) / f"{preview['name']}.{preview['run']}.stages.json"
