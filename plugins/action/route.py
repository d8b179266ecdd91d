# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.ephemera.preview.plugins.plugin_utils._base import ProgramAction


class ActionModule(ProgramAction):
    program = "route_file"
    arguments = {
        "name": {"type": "str", "required": True},
        "content": {"type": "dict", "required": True},
        "directory": {"type": "path", "required": True},
        "edge": {
            "type": "dict",
            "options": {
                "name": {"type": "str", "required": True},
                "subnet": {"type": "str", "required": True},
                "bridge": {"type": "str", "required": True},
                "labels": {"type": "dict", "default": {}},
                "aliases": {"type": "dict", "default": {}},
            },
        },
        "gateway": {"type": "str", "default": "ephemera-preview-gateway"},
    }
