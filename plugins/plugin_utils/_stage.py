# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages of a run: begun by the first task of each, under the lease, and recorded.

The record is ``{"stages": [{"name", "start", "end"}], "state": {}, "seed_mark": {}, "pins": {}}``:
times in seconds since the epoch, what the preview's state holds now, the volumes that hold its
data, each with its time of birth, and by the planned name of an image the one that it is. It waits
in the run's own folder, and goes with it.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Mapping

from ansible import constants as C
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible_collections.ephemera.preview.plugins.module_utils import _docker, _lease, _names
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction

IDENTITY = (
    "schema", "name", "app", "number", "owner", "forge", "repository", "trusted", "url",
)  # fmt: skip


class StageAction(PreviewAction):
    """An action that begins a stage where its option ``stage`` says so, before its own work."""

    begun: Mapping[str, Any] | None = None
    """The preview of the stage that was begun."""

    def prepare(self, arguments: dict[str, Any]) -> None:
        if arguments["stage"]:
            begin(self, arguments["preview"], arguments["stage"])
            self.begun = arguments["preview"]

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> Any:
        result = super().run(tmp, task_vars)
        preview = self.begun
        if result.get("failed") and preview and preview["target"] == "kubernetes":
            if is_nothing_yet(preview, self._task.args["stage"]) and not self.check_mode:
                # Here, as the announcement has no way to a builder that is another host.
                with suppress(AnsibleConnectionFailure):
                    self.on_host(["rm", "-rf", "--", preview["dir"]])
        return result


def is_nothing_yet(preview: Mapping[str, Any], stage: str) -> bool:
    """Whether a run that ends in this stage has made nothing of a preview that did not exist."""
    return stage in ("source", "plan") and not preview["observed"]["folder"]


def record(preview: Mapping[str, Any]) -> dict[str, Any]:
    """What this run has recorded so far; empty before its first stage."""
    try:
        return dict(json.loads(_file(preview, "stages").read_bytes()))
    except FileNotFoundError:
        return {}


def remember(preview: Mapping[str, Any], **facts: Any) -> None:
    """Note what later stages of this run have to know."""
    keep_here(preview, "stages", dict(record(preview), **facts))


def pinned(preview: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The planned services, each with the very image that this run has found or built for it."""
    pins = record(preview).get("pins", {})
    return [dict(s, image=pins.get(s["image"], s["image"])) for s in preview["services"]]


def keep_here(preview: Mapping[str, Any], what: str, content: Mapping[str, Any]) -> str:
    """Write what is no variable, as it may hold secrets, into this run's own folder. Its path."""
    path = _file(preview, what)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        json.dump(content, handle, indent=2)
        handle.write("\n")
    return str(path)


def wanted(preview: Mapping[str, Any], hook: str) -> list[tuple[str, dict[str, Any]]]:
    """The services that want this hook: as planned, or as recorded where there is no plan."""
    if "services" in preview:
        return [(s["name"], s[hook]) for s in preview["services"] if s[hook]]
    recorded = preview["observed"]["state"].get("wanted", {}).get("services", {})
    return [(name, s["hooks"][hook]) for name, s in recorded.items() if hook in s["hooks"]]


# What a stage may take: the settings that bound it, and the hook that it runs.
_TIMEOUTS = {
    "source": ["preview_source_timeout", "preview_compose_timeout"],
    "build": ["preview_build_timeout", "preview_images_timeout"],
    "database": ["preview_verify_timeout", "preview_verify_timeout"],
    "deploy": ["preview_verify_timeout"],
    "verify": ["preview_verify_timeout"],
}
_HOOKS = {
    "teardown": "before_down",
    "migrate": "migrate",
    "seed": "seed",
    "verify": "after_deploy",
}


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
    in_cluster = preview["target"] == "kubernetes"
    if name in ("seed", "deploy") and mark is None and not (action.check_mode or in_cluster):
        mark = _docker.births(action.on_host, preview["data_volumes"])
    if name == "deploy":
        state["seeded"] = mark or {}
    state.update({key: preview[key] for key in IDENTITY})
    state.update(status="building", stage=name, updated=now)
    state.setdefault("created", now)
    if in_cluster and "services" in preview:
        pushed = {s["image"].rpartition(":")[0] for s in preview["services"] if s["build"]}
        state["repositories"] = sorted({*state.get("repositories", []), *pushed})
    state["anonymous"] = _docker.anonymous(dict(preview["observed"], state=state))
    superseded = ""
    # A plan changes nothing, and a cluster is slow to ask. A namespace of somebody else's has no
    # lease of ours.
    unneeded = in_cluster and (name == "plan" or preview["observed"]["foreign"])
    if not (action.check_mode or unneeded):
        try:
            # With what a teardown has removed, a cluster has lost the lease.
            first = not stages or (in_cluster and stages[-1]["name"] == "teardown")
            superseded = _hold(action, preview, name, kind, state, first)
        except AnsibleActionFail as failure:
            raise AnsibleActionFail(str(failure), result={"stage": name}) from None
        if superseded and in_cluster:
            action.on_host(_lease.ending(preview))
    stages.append({"name": name, "start": now})
    remember(preview, stages=stages, state=state, seed_mark=mark)
    if not (action.check_mode or in_cluster or stages[1:]):
        _end_one_offs(action, preview, again=bool(superseded))
    return superseded


def limit(preview: Mapping[str, Any], name: str) -> int:
    """The seconds that a stage may take, and its lease is kept."""
    settings = preview["settings"]
    hooks = wanted(preview, _HOOKS[name]) if name in _HOOKS else []
    return sum(settings[each] for each in _TIMEOUTS.get(name, ())) + sum(
        wish["timeout"] for _service, wish in hooks
    )


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


def _file(preview: Mapping[str, Any], what: str) -> Path:
    # Two runs of one preview can follow each other in one process.
    return Path(C.DEFAULT_LOCAL_TMP) / f"{preview['name']}.{preview['run']}.{what}.json"
