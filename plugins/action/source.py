# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.ephemera.preview.plugins.module_utils import _arguments
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import ProgramAction
from ansible_collections.ephemera.preview.plugins.plugin_utils._stage import StageAction


class ActionModule(StageAction, ProgramAction):
    program = "source"
    works_on = "dest"
    arguments = {
        **_arguments.REPOSITORY,
        "commit": {"type": "str", "required": True},
        "dest": {"type": "path", "required": True},
        "keep": {"type": "str", "default": ""},
        "url": {"type": "str"},
        "ref": {"type": "str"},
        "timeout": {"type": "int", "default": 300},
        "max_size": {"type": "int", "default": 2048},
        "preview": {"type": "dict"},
        "stage": _arguments.STAGE,
    }
    required_one_of = (("url", "checkout"),)
    required_by = {"stage": ("preview",)}
