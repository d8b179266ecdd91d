#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: stage
short_description: Begin a stage of a run, under the lease of its preview
version_added: "0.1.0"
description:
  - >-
    Records when the stage before ended and this one began.
  - >-
    Takes the lease of the preview at the first stage of a run, and checks at each later one that
    this run still has it. A C(down) takes it from a running C(up).
options:
  name:
    description: Name of the stage.
    type: str
    required: true
  preview:
    description: The preview, as the role C(ephemera.preview.plan) registers it.
    type: dict
    required: true
  progress:
    description: What the last M(ephemera.preview.stage) task of this run returned.
    type: dict
    default: {}
  kind:
    description: Whether the run brings the preview up or takes it down.
    type: str
    choices: [up, down]
    default: up
  needed:
    description: Whether the stage has anything to do; nothing is recorded if not.
    type: bool
    default: true
  timeout:
    description: Seconds the stage may take; the lease is kept that long.
    type: int
    default: 0
  state:
    description: What to record in the preview's state as the stage begins.
    type: dict
    default: {}
  observe:
    description: Whether to look at the preview again.
    type: bool
    default: false
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Begin build
  ephemera.preview.stage:
    name: build
    preview: "{{ plan_preview }}"
    progress: "{{ preview_progress | default({}) }}"
  register: preview_progress
"""

RETURN = r"""
stages:
  description: The stages so far, each with C(name), C(start) and, once over, C(end).
  returned: always
  type: list
  elements: dict
state:
  description: What the preview's state holds now.
  returned: always
  type: dict
seed_mark:
  description: The volumes that hold the data, each with its time of birth.
  returned: O(observe=true)
  type: dict
"""
