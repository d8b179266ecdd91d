#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: service
short_description: Read the logs of a preview, or run a command in one of its services
version_added: "0.1.0"
description:
  - >-
    Takes service, command, tail and since from the settings.
options:
  preview:
    description: The preview, as the role C(ephemera.preview.plan) registers it.
    type: dict
    required: true
  action:
    description: What to do.
    type: str
    choices: [logs, run]
    required: true
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Show the logs
  ephemera.preview.service:
    preview: "{{ plan_preview }}"
    action: logs
"""

RETURN = r"""
msg:
  description: What was read or printed, a line each.
  returned: success
  type: list
  elements: str
"""
