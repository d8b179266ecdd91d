#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: project
short_description: Write a preview's Compose project to its host, and start its services
version_added: "0.1.0"
description:
  - Writes the project that the plan made as C(compose.yaml) into the preview's folder, readable by
    its owner only, since it holds what the app is granted.
  - >-
    Lets Docker Compose start what O(start) names, for at most the seconds of
    C(preview_verify_timeout).
  - >-
    It never shows what it writes, and passes it through no argument. What Compose says is shown
    without secrets, and only where it failed.
  - In check mode it tells whether the project differs from the one that was written last.
extends_documentation_fragment:
  - ephemera.preview.stage
options:
  preview:
    description: The preview, as the role C(ephemera.preview.plan) registers it.
    type: dict
    required: true
  start:
    description:
      - What to start, the data services or all.
      - V(all) also removes the containers of services that the project no longer has.
    type: str
    choices: [data, all]
    required: true
  applied:
    description:
      - What came of starting them already, as M(ephemera.preview.build) returns it in
        RV(ephemera.preview.build#module:data).
      - The project is only written then.
    type: dict
    default: {}
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Write the project and start its data services
  ephemera.preview.project:
    preview: "{{ plan_preview }}"
    start: data
"""

RETURN = r"""
path:
  description: The file on the host.
  returned: always
  type: str
said:
  description: What Compose said last but its progress, without secrets.
  returned: failure to start
  type: list
  elements: str
late:
  description: Whether the time was up.
  returned: failure to start
  type: bool
"""
