#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: announce
short_description: Report what became of a run
version_added: "0.1.0"
description:
  - >-
    Prints it, hands it to AWX as artifact C(preview), writes it as JSON and Markdown and as
    outputs of a CI step where asked for.
  - >-
    Records it in the preview's state and lets the lease go.
options:
  preview:
    description: The preview, as the role C(ephemera.preview.plan) registers it.
    type: dict
    required: true
  outcome:
    description: What became of the run.
    type: str
    choices: [ready, failed, removed, removable, unchanged, planned]
    required: true
  failure:
    description: The result of the task that failed.
    type: dict
    default: {}
  state:
    description: What to record in the preview's state.
    type: dict
    default: {}
  notes:
    description: What else is to be said, a sentence each.
    type: list
    elements: str
    default: []
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Say that it is ready
  ephemera.preview.announce:
    preview: "{{ plan_preview }}"
    outcome: ready
"""

RETURN = r"""
headline:
  description: The report in one sentence.
  returned: always
  type: str
msg:
  description: The report for people, a line each.
  returned: always
  type: list
  elements: str
"""
