#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: stage
short_description: Begin a stage that more than one task belongs to, under the lease of its preview
version_added: "0.1.0"
description:
  - >-
    Records when the stage before ended and this one began, as the option C(stage) does of the
    actions that do the work of a stage by themselves.
  - >-
    Takes the lease of the preview where this is the first stage of a run, and checks that this run
    still has it where it is not. A C(down) takes it from a running C(up).
options:
  name:
    description: Name of the stage.
    type: str
    choices: [teardown]
    required: true
  preview:
    description: The preview, as the role C(ephemera.preview.plan) registers it.
    type: dict
    required: true
  kind:
    description: Whether the run brings the preview up or takes it down.
    type: str
    choices: [up, down]
    default: up
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Begin teardown
  ephemera.preview.stage:
    name: teardown
    kind: down
    preview: "{{ plan_identity }}"
"""

RETURN = r"""
superseded:
  description: The run whose lease was taken, or nothing.
  returned: always
  type: str
"""
