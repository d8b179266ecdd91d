# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.ephemera.preview.plugins.module_utils import _ingress
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction


class ActionModule(PreviewAction):
    arguments = {"preview": {"type": "dict", "required": True}}

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        settings = arguments["preview"]["settings"]
        wanted = {key: settings[key] for key in _ingress.CONTROLLER}
        said = self.ask_cluster({"settings": settings, "name": ""}, "ingress", ingress=wanted)
        return {"changed": False, "class": said["name"], "controller": said["controller"]}
