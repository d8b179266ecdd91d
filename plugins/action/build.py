# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.ephemera.preview.plugins.module_utils import _arguments
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import ProgramAction

TEXT = {"type": "str", "default": ""}


class ActionModule(ProgramAction):
    program = "build"
    arguments = {
        "name": {"type": "str", "required": True},
        "folder": {"type": "path", "required": True},
        "checkout": {"type": "path", "required": True},
        "services": {"type": "list", "elements": "dict", "required": True},
        "previous": {"type": "dict", "default": {}},
        "fresh": {"type": "bool", "default": False},
        "trusted": {"type": "bool", "default": True},
        "registries": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "registry": {"type": "str", "required": True},
                "username": {"type": "str", "required": True},
                "password": {"type": "str", "required": True},
            },
        },
        "mirror": TEXT,
        "proxy": _arguments.PROXY,
        "ca": TEXT,
        "secrets": {"type": "dict", "default": {}},
        "frontends": {"type": "list", "elements": "str", "default": list(_arguments.FRONTENDS)},
        "base_images": {"type": "list", "elements": "str", "default": []},
        "timeout": {"type": "int", "default": 1200},
        "images_timeout": {"type": "int", "default": 600},
        "memory": {"type": "int", "default": 4096},
        "pids": {"type": "int", "default": 4096},
        "disk": {"type": "int", "default": 20},
        "builder": TEXT,
    }
