# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import shlex
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils import _announce, _identity
from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction, show


class ActionModule(PreviewAction):
    arguments = {
        "preview": {"type": "dict", "required": True},
        "action": {"type": "str", "choices": ["logs", "run"], "required": True},
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview = arguments["preview"]
        settings = self.settings(task_vars)
        running = sorted({c["service"] for c in preview["observed"]["containers"]})
        if not running:
            raise AnsibleActionFail(
                f"{preview['name']} does not exist here. ephemera.preview.list shows what does."
            )
        service = settings["preview_service"]
        if service and service not in running:
            raise AnsibleActionFail(
                f"{preview['name']} has no service {service!r}; it has: {', '.join(running)}."
            )
        compose = ["docker", "compose", "--project-name", preview["name"]]
        if arguments["action"] == "logs":
            return self._logs(compose, service, settings, preview)
        return self._run(
            compose, service or preview["observed"]["state"].get("web"), settings, preview
        )

    def _logs(
        self, compose: list[str], service: str, settings: dict[str, Any], preview: dict[str, Any]
    ) -> dict[str, Any]:
        tail = ["--tail", str(settings["preview_tail"])]
        since = ["--since", settings["preview_since"]] if settings["preview_since"] else []
        which = [service] if service else []
        ran = self.on_host([*compose, "logs", "--no-color", *tail, *since, *which])
        if ran.rc != 0:
            raise AnsibleActionFail(f"The logs could not be read: {ran.err.strip()}")
        follow = shlex.join([*compose, "logs", "--follow", *which])
        lines = _said(ran.out, preview, settings)
        return _shown([*lines, f"To follow them on the host: {follow}"], changed=False)

    def _run(
        self,
        compose: list[str],
        service: str | None,
        settings: dict[str, Any],
        preview: dict[str, Any],
    ) -> dict[str, Any]:
        command = settings["preview_command"]
        if not command or not service:
            raise AnsibleActionFail(
                "Say what to run and where, for instance -e preview_service=web "
                """-e '{"preview_command": ["python", "--version"]}'."""
            )
        if self.check_mode:
            return _shown([f"would run in {service}: {shlex.join(command)}"], changed=True)
        ran = self.on_host([*compose, "exec", "--no-TTY", service, *command])
        lines = _said(ran.out + ran.err, preview, settings)
        if ran.rc != 0:
            raise AnsibleActionFail(
                f"{shlex.join(command)} ended with code {ran.rc} in {service}:\n" + "\n".join(lines)
            )
        return _shown(lines, changed=True)


def _said(text: str, preview: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """What a preview's program has written, without secrets and control characters."""
    hidden = redact(text, _identity.secret_values(preview, settings))
    return [_announce.harmless(line) for line in hidden.splitlines()]


def _shown(lines: list[str], changed: bool) -> dict[str, Any]:
    show(lines)
    return {"changed": changed, "msg": lines}
