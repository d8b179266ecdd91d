# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _docker,
    _lease,
    _names,
)
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction


class ActionModule(PreviewAction):
    arguments = {
        "name": {"type": "str", "required": True},
        "preview": {"type": "dict", "required": True},
        "progress": {"type": "dict", "default": {}},
        "kind": {"type": "str", "choices": ["up", "down"], "default": "up"},
        "needed": {"type": "bool", "default": True},
        "timeout": {"type": "int", "default": 0},
        "state": {"type": "dict", "default": {}},
        "observe": {"type": "bool", "default": False},
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview, progress, now = arguments["preview"], arguments["progress"], int(time.time())
        if not arguments["needed"]:
            return dict(progress, changed=False)
        stages = [dict(stage) for stage in progress.get("stages", [])]
        for stage in stages[-1:]:
            stage.setdefault("end", now)
        stages.append({"name": arguments["name"], "start": now})
        # The record of what is deployed outlives a new run until that one has deployed.
        state = dict(progress.get("state") or preview["observed"]["state"])
        if arguments["name"] == "teardown":
            state = {}
        state.update(_identity(preview), **arguments["state"])
        state.update(status="building", stage=arguments["name"], updated=now)
        state.setdefault("created", now)
        state["anonymous"] = _docker.anonymous(dict(preview["observed"], state=state))
        result = {
            "changed": False,
            "stages": stages,
            "state": state,
            "superseded": progress.get("superseded", ""),
        }
        if self._task.check_mode:
            return result
        try:
            superseded = self._hold(arguments, state)
        except AnsibleActionFail as failure:
            # What is registered by this task no longer tells.
            raise AnsibleActionFail(str(failure), result={"stage": arguments["name"]}) from None
        result["superseded"] = superseded or result["superseded"]
        if len(stages) == 1:
            self._end_one_offs(preview, again=bool(superseded))
        if arguments["observe"]:
            result["seed_mark"] = _docker.births(self.on_host, preview["data_volumes"])
        return result

    def _hold(self, arguments: dict[str, Any], state: dict[str, Any]) -> str:
        """Take or keep the lease, and write the state under it. Returns whose lease it ended."""
        preview, kind = arguments["preview"], arguments["kind"]
        held = _lease.parse(preview["observed"]["lease"])
        first = not arguments["progress"].get("stages")
        seconds = max(preview["settings"]["preview_lease"], arguments["timeout"] + 60)
        return self.lease(
            "take" if first else "keep",
            preview,
            kind,
            seconds,
            # A preview that goes has nothing to record, and its folder may not exist.
            stdin="" if kind == "down" else json.dumps(state, sort_keys=True),
            dead=held.owner if held and _lease.is_dead(held) else "",
        )

    def _end_one_offs(self, preview: dict[str, Any], again: bool) -> None:
        """A killed run's migration goes on by itself; two of them must not meet."""
        seen = preview["observed"]
        if again:  # until its lease was taken, that run could start one
            found = _docker.observe(self.on_host, preview["state_dir"], preview["name"])
            seen = found["previews"][preview["name"]]
        ids = [
            c["id"]
            for c in seen["containers"]
            if c["oneoff"] and c["labels"].get(_names.PREFIX + "owner") == preview["owner"]
        ]
        if ids:
            self.on_host(["docker", "container", "rm", "--force", "--volumes", *ids])


def _identity(preview: dict[str, Any]) -> dict[str, Any]:
    return {
        key: preview[key]
        for key in (
            "schema",
            "name",
            "app",
            "number",
            "owner",
            "forge",
            "repository",
            "trusted",
            "url",
        )
    }
