# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What our action plugins share: settings out of the play's variables, commands on the host."""

from __future__ import annotations

import shlex
import time
from typing import Any, Iterable, Sequence

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _docker,
    _identity,
    _lease,
    _settings,
)
from ansible_collections.ephemera.preview.plugins.module_utils._docker import Ran
from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact

# Ours, but made by the playbooks, not set by anybody.
NOT_SETTINGS = frozenset({"preview_apps", "preview_progress", "preview_build"})


def show(lines: Iterable[str]) -> None:
    """Print what a person asked for as it is: a result would show it as escaped JSON."""
    for line in lines:
        Display().display(line)


class PreviewAction(ActionBase):
    """An action plugin of this collection. ``arguments`` names what its task may say."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True
    arguments: dict[str, dict[str, Any]] = {}

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> Any:
        result = super().run(tmp, task_vars)
        dummy, arguments = self.validate_argument_spec(argument_spec=self.arguments)
        try:
            outcome = self.act(arguments, task_vars or {})
        except AnsibleActionFail as failure:
            outcome = dict(failure.result, failed=True, changed=False, msg=str(failure))
        except _docker.EngineError as error:
            outcome = {"failed": True, "changed": False, "msg": str(error)}
        if outcome.get("failed"):
            # What failed may repeat what an app or a program has said.
            outcome = self._redacted(outcome, arguments, task_vars or {})
        result.update(outcome)
        return result

    def _redacted(
        self, outcome: dict[str, Any], arguments: dict[str, Any], task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        if "name" not in arguments.get("preview", {}):
            return outcome
        return dict(redact(outcome, self.secrets(arguments["preview"], task_vars)))

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Do the work and return the task's result."""
        raise NotImplementedError

    def settings(self, task_vars: dict[str, Any], required: Iterable[str] = ()) -> dict[str, Any]:
        """Every ``preview_*`` variable of the play, checked and completed by the schema."""
        given = {
            name: self._templar.template(value)
            for name, value in task_vars.items()
            if name.startswith("preview_") and name not in NOT_SETTINGS
        }
        try:
            return dict(_settings.resolve(given, required))
        except _settings.SettingsRefused as refused:
            raise AnsibleActionFail(str(refused)) from None

    def secrets(self, preview: dict[str, Any], task_vars: dict[str, Any]) -> list[str]:
        """Every value that no output may hold."""
        return _identity.secret_values(preview, self.settings(task_vars))

    def on_host(self, argv: Sequence[str], stdin: str | None = None) -> Ran:
        """Run an argument list where the task's connection leads, without a module's cost."""
        ran = self._low_level_execute_command(
            shlex.join(argv), in_data=stdin.encode() if stdin is not None else None
        )
        return Ran(ran["rc"], ran["stdout"], ran["stderr"])

    def lease(
        self,
        action: str,
        preview: dict[str, Any],
        kind: str,
        seconds: int,
        *,
        stdin: str = "",
        dead: str = "",
    ) -> str:
        """Take or keep a preview's lease, and write its state under it where that is given.

        :returns: the owner of the lease that this one ended, or nothing.
        """
        ran = self.on_host(_lease.command(action, preview, kind, seconds, dead=dead), stdin=stdin)
        verdict, dummy, rest = ran.out.strip().partition(" ")
        if ran.rc != 0 or verdict not in ("ok", "held"):
            raise AnsibleActionFail(
                f"The lease of {preview['name']} could not be written under "
                f"{preview['state_dir']}: {(ran.err or ran.out).strip()} "
                "Check that the folder of preview_state_dir can be written there."
            )
        if verdict == "held":
            other = _lease.parse(rest)
            if other is None:
                raise AnsibleActionFail(
                    f"{preview['name']} was taken down while this run was working on it."
                )
            raise AnsibleActionFail(_lease.refusal(preview["name"], other, int(time.time())))
        return rest.removeprefix("over ").partition(" ")[0]
