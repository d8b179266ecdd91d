# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction

# $1 is the file, $2 is not empty where nothing may change.
_WRITE = """
umask 077
new=$(mktemp "$1.XXXXXX") && trap 'rm -f "$new"' EXIT && cat >"$new" || exit
if cmp -s "$new" "$1"; then echo same; elif [ -z "$2" ]; then mv -f "$new" "$1"; fi
"""


class ActionModule(PreviewAction):
    arguments = {"preview": {"type": "dict", "required": True}}

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview = arguments["preview"]
        path = preview["dir"] + "/compose.yaml"
        check = "check" if self._task.check_mode else ""
        text = Path(preview["project_file"]).read_text(encoding="utf-8")
        ran = self.on_host(["sh", "-c", _WRITE, "write", path, check], stdin=text)
        if ran.rc != 0:
            raise AnsibleActionFail(
                f"The preview's project could not be written to {path}: {ran.err.strip()} "
                "Check that there is space, and that the folder of preview_state_dir can be "
                "written there."
            )
        return {"changed": ran.out.strip() != "same", "path": path}
