# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.ephemera.preview.plugins.module_utils import _arguments
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import ProgramAction


class ActionModule(ProgramAction):
    program = "definition"
    arguments = _arguments.DEFINITION
    required_by = {"git_dir": ("commit",)}
