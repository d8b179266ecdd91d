# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils import _apply, _arguments
from ansible_collections.ephemera.preview.plugins.plugin_utils._stage import StageAction


class ActionModule(StageAction):
    arguments = {
        "preview": {"type": "dict", "required": True},
        "start": {"type": "str", "choices": ["data", "all"], "required": True},
        "applied": {"type": "dict", "default": {}},
        "stage": _arguments.STAGE,
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview = arguments["preview"]
        text = Path(preview["project_file"]).read_text(encoding="utf-8")
        start = "none" if arguments["applied"] else arguments["start"]
        argv = _apply.command(preview, start, self.check_mode)
        ran = self.on_host(argv, stdin=text)
        path = _apply.path(preview)
        if ran.rc != 0:
            raise AnsibleActionFail(
                f"The preview's project could not be written to {path}: {ran.err.strip()} "
                "Check that there is space, and that the folder of preview_state_dir can be "
                "written there."
            )
        if arguments["applied"]:
            applied = _apply.Applied(**arguments["applied"])
        else:
            applied = _apply.parse(ran.out, self.secrets(preview, task_vars))
        result = {"changed": applied.changed, "path": path}
        if applied.failed:
            why = "could not start every service"
            if applied.late:
                limit = preview["settings"]["preview_verify_timeout"]
                why = f"did not end within the {limit} s of preview_verify_timeout"
            result.update(failed=True, said=applied.said, late=applied.late)
            result["msg"] = f"Docker Compose {why}."
        return result
