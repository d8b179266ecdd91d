#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: project
short_description: Write a preview's Compose project to its host
version_added: "0.1.0"
description:
  - Writes the project that the plan made as C(compose.yaml) into the preview's folder, readable by
    its owner only, since it holds what the app is granted.
  - It never shows what it writes, and passes it through no argument.
options:
  preview:
    description: The preview, as the role C(ephemera.preview.plan) registers it.
    type: dict
    required: true
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Write the project
  ephemera.preview.project:
    preview: "{{ plan_preview }}"
"""

RETURN = r"""
path:
  description: The file on the host.
  returned: success
  type: str
"""
