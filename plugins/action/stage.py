# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.ephemera.preview.plugins.plugin_utils import _stage
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction


class ActionModule(PreviewAction):
    arguments = {
        "name": {"type": "str", "choices": ["teardown"], "required": True},
        "preview": {"type": "dict", "required": True},
        "kind": {"type": "str", "choices": ["up", "down"], "default": "up"},
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        superseded = _stage.begin(self, arguments["preview"], arguments["name"], arguments["kind"])
        return {"changed": False, "superseded": superseded}
