# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.ephemera.preview.plugins.module_utils import _arguments
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import ProgramAction

GONE = 60  # seconds that a cluster may take for all that a namespace holds


class ActionModule(ProgramAction):
    program = "teardown"
    arguments = {
        "name": {"type": "str", "required": True},
        "owner": {"type": "str", "required": True},
        "state_dir": {"type": "path", "required": True},
        "builder": {"type": "str", "default": ""},
        "timeout": {"type": "int", "default": 5},
        "settle": {"type": "int", "default": 0},
        "push": {"type": "bool", "default": False},
        "repositories": {"type": "list", "elements": "str", "default": []},
        "registries": {"type": "list", "elements": "dict", "default": []},
        "ca": {"type": "str", "default": ""},
        "proxy": _arguments.PROXY,
        "preview": {"type": "dict"},
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview = arguments["preview"]
        if not preview or preview["target"] != "kubernetes":
            arguments["registries"] = self.logins(arguments["registries"])
            return super().act(arguments, task_vars)
        return self.ask_cluster(preview, "teardown", owner=preview["owner"], seconds=GONE)
