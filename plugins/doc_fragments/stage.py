# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The stage that a task begins, for the actions that do the work of one."""

    DOCUMENTATION = r"""
options:
  stage:
    description:
      - The stage of a run that this task begins. When the one before ended and this one began is
        recorded, for M(ephemera.preview.announce) to report.
      - The first stage of a run takes the lease of the preview; a later one fails where this run no
        longer has it, before anything is changed.
      - Needs O(preview).
    type: str
    choices: [teardown, source, plan, build, database, migrate, seed, deploy, verify]
"""
