# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils._arguments import HOOKS, STAGE
from ansible_collections.ephemera.preview.plugins.plugin_utils._stage import (
    StageAction,
    record,
    wanted,
)


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
        done = arguments["stage"] == "seed" and _seeded(preview)
        due = [] if done else wanted(preview, hook)
        if due and not self.check_mode:
            secrets = self.secrets(preview, task_vars)
            if preview["target"] == "kubernetes":
                self._run_in_cluster(preview, hook, due, secrets)
            else:
                for service, wish in due:
                    self._run(preview, hook, service, wish, secrets)
        elif arguments["stage"] and preview["target"] == "kubernetes" and not self.check_mode:
            self.ask_cluster(preview, "hold")
        return {"changed": bool(due), "services": [service for service, _wish in due]}

    def _run(
        self,
        preview: dict[str, Any],
        hook: str,
        service: str,
        wish: dict[str, Any],
        secrets: list[str],
    ) -> None:
        # Read only where there is a hook: Ansible compiles a collection's code in every run.
        from ansible_collections.ephemera.preview.plugins.module_utils import _apply, _diagnose

        container = f"{preview['name']}-{hook.replace('_', '-')}-{service}"
        argv = ["sh", "-c", _diagnose.ONE_OFF, "hook", container, str(wish["timeout"])]
        argv += [*_apply.compose(preview, "quiet"), "run", "--detach", "--no-deps"]
        argv += ["--name", container]
        ran = self.on_host([*argv, service, *wish["command"]])
        if ran.rc == 0:
            return
        data = [s["name"] for s in preview.get("services", []) if s["data"]]
        ended = _diagnose.parse_one_off(ran.out)
        failed = _diagnose.hook_failed(hook, service, wish["timeout"], ended, secrets, data)
        raise AnsibleActionFail(failed.sentence, result={"log": failed.log, "service": service})

    def _run_in_cluster(
        self,
        preview: dict[str, Any],
        hook: str,
        due: list[tuple[str, dict[str, Any]]],
        secrets: list[str],
    ) -> None:
        from ansible_collections.ephemera.preview.plugins.module_utils import _diagnose

        if "project_file" in preview:
            made = json.loads(Path(preview["project_file"]).read_text(encoding="utf-8"))["hooks"]
            jobs = {service: made[hook][service] for service, _wish in due}
        else:
            jobs = self._of_running(preview, hook, due)
        said = self.ask_cluster(
            preview,
            "hook",
            jobs=[
                {"service": service, "objects": jobs[service], "seconds": wish["timeout"]}
                for service, wish in due
                if service in jobs
            ],
            pins=record(preview).get("pins", {}),
            secrets=secrets,
        )
        if not said["ended"]:
            return
        service, ended = said["service"], _diagnose.Ended(**said["ended"])
        data = [s["name"] for s in preview.get("services", []) if s["data"]]
        timeout = dict(due)[service]["timeout"]
        failed = _diagnose.hook_failed(hook, service, timeout, ended, secrets, data)
        raise AnsibleActionFail(failed.sentence, result={"log": failed.log, "service": service})

    def _of_running(
        self, preview: dict[str, Any], hook: str, due: list[tuple[str, dict[str, Any]]]
    ) -> dict[str, list[dict[str, Any]]]:
        """Without a plan, as before a teardown, what runs now says how its one-off runs."""
        from ansible_collections.ephemera.preview.plugins.module_utils import _manifests

        running = self.ask_cluster(preview, "workloads")["workloads"]
        return {
            service: [_manifests.hook_of(preview, hook, service, wish, running[service])]
            for service, wish in due
            if service in running
        }


def _seeded(preview: dict[str, Any]) -> bool:
    """Whether the data that is there was seeded already."""
    known = record(preview)
    return bool(known["state"].get("seeded") == known["seed_mark"])
