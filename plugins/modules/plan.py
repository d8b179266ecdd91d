#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: plan
short_description: Plan a preview from the app definition in its checkout
version_added: "0.1.0"
description:
  - >-
    Reads the Compose file of the checkout by M(ephemera.preview.app_info), where the checkout is,
    and completes the dictionary that crosses roles.
  - >-
    What may hold a secret (the Compose project) is kept in a file of this run on the controller,
    never in a variable.
extends_documentation_fragment:
  - ephemera.preview.stage
options:
  preview:
    description: The preview, as the role C(ephemera.preview.plan) registers it.
    type: dict
    required: true
  source:
    description: Where the commit is, with the keys C(path) and C(git_dir).
    type: dict
    required: true
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Plan the preview
  ephemera.preview.plan:
    preview: "{{ plan_preview }}"
    source: "{{ source_result }}"
  register: plan_preview
"""

RETURN = r"""
services:
  description: One entry a service, in the order of their names.
  returned: success
  type: list
  elements: dict
wanted:
  description: What a person would call the preview; compared by C(--diff).
  returned: success
  type: dict
notes:
  description: What the definition asks for and a preview does differently.
  returned: success
  type: list
  elements: str
"""
