# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils import _announce, _identity
from ansible_collections.ephemera.preview.plugins.module_utils._docker import Ran
from ansible_collections.ephemera.preview.plugins.module_utils._names import PREFIX
from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction, show

AT_ONCE = 100
"""So many logs kubectl may follow at once: all that a preview can have."""


class ActionModule(PreviewAction):
    arguments = {
        "preview": {"type": "dict", "required": True},
        "action": {"type": "str", "choices": ["logs", "run"], "required": True},
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview = arguments["preview"]
        settings = self.settings(task_vars)
        running = sorted({c["service"] for c in preview["observed"]["containers"]} - {""})
        if not running:
            raise AnsibleActionFail(
                f"{preview['name']} does not exist here. ephemera.preview.list shows what does."
            )
        service = settings["preview_service"]
        if service and service not in running:
            raise AnsibleActionFail(
                f"{preview['name']} has no service {service!r}; it has: {', '.join(running)}."
            )
        target = _InCluster if preview["target"] == "kubernetes" else _OnHost
        there = target(self, preview, settings)
        if arguments["action"] == "logs":
            return self._logs(there, service)
        return self._run(there, service or preview["observed"]["state"].get("web"))

    def _logs(self, there: _OnHost | _InCluster, service: str) -> dict[str, Any]:
        ran = there.logs(service)
        if ran.rc != 0:
            raise AnsibleActionFail(f"The logs could not be read: {ran.err.strip()}")
        where, follow = there.follow(service)
        lines = there.said(ran.out)
        return _shown([*lines, f"To follow them{where}: {shlex.join(follow)}"], changed=False)

    def _run(self, there: _OnHost | _InCluster, service: str | None) -> dict[str, Any]:
        command = there.settings["preview_command"]
        if not command or not service:
            raise AnsibleActionFail(
                "Say what to run and where, for instance -e preview_service=web "
                """-e '{"preview_command": ["python", "--version"]}'."""
            )
        if self.check_mode:
            return _shown([f"would run in {service}: {shlex.join(command)}"], changed=True)
        ran = there.run(service, command)
        lines = there.said(ran.out + ran.err)
        if ran.rc != 0:
            raise AnsibleActionFail(
                f"{shlex.join(command)} ended with code {ran.rc} in {service}:\n" + "\n".join(lines)
            )
        return _shown(lines, changed=True)


class _Target:
    """A preview where it runs."""

    def __init__(
        self, action: PreviewAction, preview: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        self.action = action
        self.preview = preview
        self.settings = settings

    def said(self, text: str) -> list[str]:
        """What a preview's program has written, without secrets and control characters."""
        hidden = redact(text, _identity.secret_values(self.preview, self.settings))
        return [_announce.harmless(line) for line in hidden.splitlines()]


class _OnHost(_Target):
    def compose(self, *arguments: str) -> list[str]:
        return ["docker", "compose", "--project-name", self.preview["name"], *arguments]

    def logs(self, service: str) -> Ran:
        how = ["--tail", str(self.settings["preview_tail"])]
        if self.settings["preview_since"]:
            how += ["--since", self.settings["preview_since"]]
        which = [service] if service else []
        return self.action.on_host(self.compose("logs", "--no-color", *how, *which))

    def follow(self, service: str) -> tuple[str, list[str]]:
        which = [service] if service else []
        return " on the host", self.compose("logs", "--follow", *which)

    def run(self, service: str, command: list[str]) -> Ran:
        return self.action.on_host(self.compose("exec", "--no-TTY", service, *command))


class _InCluster(_Target):
    def ask(self, ask: str, service: str, **params: Any) -> Ran:
        containers = self.preview["observed"]["containers"]
        said = self.action.ask_cluster(
            self.preview, ask, containers=containers, service=service, **params
        )
        return Ran(said.get("rc", 0), said["out"], "")

    def logs(self, service: str) -> Ran:
        settings = self.settings
        asked = {"tail": settings["preview_tail"], "since": settings["preview_since"]}
        return self.ask("logs", service, **asked)

    def follow(self, service: str) -> tuple[str, list[str]]:
        label = PREFIX + "service"
        options = {
            "--kubeconfig": self.settings["preview_kubeconfig"],
            "--context": self.settings["preview_kube_context"],
            "--namespace": self.preview["name"],
            "--selector": f"{label}={service}" if service else label,
            "--max-log-requests": str(AT_ONCE),
        }
        given = [word for option, value in options.items() if value for word in (option, value)]
        return "", ["kubectl", "logs", *given, "--prefix", "--follow"]

    def run(self, service: str, command: list[str]) -> Ran:
        return self.ask("run", service, command=command)


def _shown(lines: list[str], changed: bool) -> dict[str, Any]:
    show(lines)
    return {"changed": changed, "msg": lines}
