# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils._arguments import HOOKS, STAGE
from ansible_collections.ephemera.preview.plugins.plugin_utils._stage import (
    StageAction,
    record,
    wanted,
)

Due = list[tuple[str, dict[str, Any]]]
"""The services that want a hook, and what they want."""


class ActionModule(StageAction):
    asks_cluster = True
    arguments = {
        "name": {
            "type": "str",
            "choices": list(HOOKS),
            "required": True,
        },
        "preview": {"type": "dict", "required": True},
        "stage": STAGE,
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview, hook = arguments["preview"], arguments["name"]
        target = _InCluster if preview["target"] == "kubernetes" else _OnHost
        there = target(self, preview, hook)
        done = arguments["stage"] == "seed" and _seeded(preview)
        due = [] if done else wanted(preview, hook)
        if due and not self.check_mode:
            there.run(due, self.secrets(preview, task_vars))
        elif arguments["stage"] and not self.check_mode:
            there.hold()
        return {"changed": bool(due), "services": [service for service, _wish in due]}


class _Target:
    """A preview where it runs, and the hook that runs there."""

    def __init__(self, action: StageAction, preview: dict[str, Any], hook: str) -> None:
        self.action = action
        self.preview = preview
        self.hook = hook

    def refuse(
        self, service: str, wish: dict[str, Any], ended: Any, secrets: list[str]
    ) -> NoReturn:
        """Say why a one-off has failed, by its ``_diagnose.Ended``."""
        # Read only where there is a hook: Ansible compiles a collection's code in every run.
        from ansible_collections.ephemera.preview.plugins.module_utils import _diagnose

        data = [s["name"] for s in self.preview.get("services", []) if s["data"]]
        failed = _diagnose.hook_failed(self.hook, service, wish["timeout"], ended, secrets, data)
        raise AnsibleActionFail(failed.sentence, result={"log": failed.log, "service": service})


class _OnHost(_Target):
    def hold(self) -> None:
        """The lease was kept when the stage began."""

    def run(self, due: Due, secrets: list[str]) -> None:
        from ansible_collections.ephemera.preview.plugins.module_utils import _apply, _diagnose

        for service, wish in due:
            container = f"{self.preview['name']}-{self.hook.replace('_', '-')}-{service}"
            argv = ["sh", "-c", _diagnose.ONE_OFF, "hook", container, str(wish["timeout"])]
            argv += [*_apply.compose(self.preview, "quiet"), "run", "--detach", "--no-deps"]
            argv += ["--name", container]
            ran = self.action.on_host([*argv, service, *wish["command"]])
            if ran.rc != 0:
                self.refuse(service, wish, _diagnose.parse_one_off(ran.out), secrets)


class _InCluster(_Target):
    def hold(self) -> None:
        """The lease goes with the next question, and without a hook there is none."""
        self.action.ask_cluster(self.preview, "hold")

    def run(self, due: Due, secrets: list[str]) -> None:
        from ansible_collections.ephemera.preview.plugins.module_utils import _diagnose

        planned = "project_file" in self.preview
        jobs = self._planned(due) if planned else self._of_running(due)
        said = self.action.ask_cluster(
            self.preview,
            "hook",
            jobs=[
                {"service": service, "objects": jobs[service], "seconds": wish["timeout"]}
                for service, wish in due
                if service in jobs
            ],
            pins=record(self.preview).get("pins", {}),
            secrets=secrets,
        )
        if said["ended"]:
            service, ended = said["service"], _diagnose.Ended(**said["ended"])
            self.refuse(service, dict(due)[service], ended, secrets)

    def _planned(self, due: Due) -> dict[str, list[dict[str, Any]]]:
        made = json.loads(Path(self.preview["project_file"]).read_text(encoding="utf-8"))["hooks"]
        return {service: made[self.hook][service] for service, _wish in due}

    def _of_running(self, due: Due) -> dict[str, list[dict[str, Any]]]:
        """Without a plan, as before a teardown, what runs now says how its one-off runs."""
        from ansible_collections.ephemera.preview.plugins.module_utils import _manifests

        running = self.action.ask_cluster(self.preview, "workloads")["workloads"]
        return {
            service: [_manifests.hook_of(self.preview, self.hook, service, wish, running[service])]
            for service, wish in due
            if service in running
        }


def _seeded(preview: dict[str, Any]) -> bool:
    """Whether the data that is there was seeded already."""
    known = record(preview)
    return bool(known["state"].get("seeded") == known["seed_mark"])
