# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils import _announce, _diagnose
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction


class ActionModule(PreviewAction):
    arguments = {
        "name": {
            "type": "str",
            "choices": ["migrate", "seed", "after_deploy", "before_down"],
            "required": True,
        },
        "preview": {"type": "dict", "required": True},
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview, hook = arguments["preview"], arguments["name"]
        ran = []
        for service, wish in _wanted(preview, hook):
            if not self._task.check_mode:
                self._run(preview, hook, service, wish)
            ran.append(service)
        return {"changed": bool(ran), "services": ran}

    def _run(self, preview: dict[str, Any], hook: str, service: str, wish: dict[str, Any]) -> None:
        # A one-off ends by itself, by the clock, or with its container: nothing of it goes on.
        container = f"{preview['name']}-{hook.replace('_', '-')}-{service}"
        directory = preview["dir"]
        argv = ["timeout", "--kill-after=5", str(wish["timeout"]), "docker", "compose"]
        argv += ["--project-directory", directory, "--project-name", preview["name"]]
        argv += ["--file", f"{directory}/compose.yaml", "--progress", "quiet", "run", "--rm"]
        argv += ["--no-deps", "--no-TTY", "--name", container, service, *wish["command"]]
        self.on_host(["docker", "rm", "--force", "--volumes", container])
        ran = self.on_host(argv)
        if ran.rc == 0:
            return
        self.on_host(["docker", "rm", "--force", "--volumes", container])
        log = [_announce.harmless(line) for line in (ran.out + ran.err).splitlines()][-20:]
        raise AnsibleActionFail(
            _diagnose.hook(hook, service, ran.rc, wish["timeout"], log), result={"log": log}
        )


def _wanted(preview: dict[str, Any], hook: str) -> list[tuple[str, dict[str, Any]]]:
    """The services that want this hook: as planned, or as recorded where there is no plan."""
    if "services" in preview:
        return [(s["name"], s[hook]) for s in preview["services"] if s[hook]]
    recorded = preview["observed"]["state"].get("wanted", {}).get("services", {})
    return [(name, s["hooks"][hook]) for name, s in recorded.items() if hook in s["hooks"]]
