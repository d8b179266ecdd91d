# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.ephemera.preview.plugins.plugin_utils._base import ProgramAction


class ActionModule(ProgramAction):
    program = "teardown"
    arguments = {
        "name": {"type": "str", "required": True},
        "owner": {"type": "str", "required": True},
        "state_dir": {"type": "path", "required": True},
        "builder": {"type": "str", "default": ""},
        "timeout": {"type": "int", "default": 5},
        "settle": {"type": "int", "default": 0},
    }
