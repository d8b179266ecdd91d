#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: hook
short_description: Run a one-off command of the app from its new image
version_added: "0.1.0"
description:
  - >-
    Runs what the definition wishes under C(x-preview) in a container of its own of that service,
    and ends it at its timeout.
extends_documentation_fragment:
  - ephemera.preview.stage
options:
  name:
    description: Which of the wishes.
    type: str
    choices: [migrate, seed, after_deploy, before_down]
    required: true
  preview:
    description: The preview, as the role C(ephemera.preview.plan) registers it.
    type: dict
    required: true
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Migrate the database
  ephemera.preview.hook:
    name: migrate
    preview: "{{ plan_preview }}"
"""

RETURN = r"""
services:
  description: The services whose command ran.
  returned: success
  type: list
  elements: str
service:
  description: The service whose command failed.
  returned: failure
  type: str
log:
  description: The last lines the command wrote, without secrets.
  returned: failure
  type: list
  elements: str
"""
