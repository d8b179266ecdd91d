#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: listing
short_description: List previews as a table or as JSON
version_added: "0.1.0"
description:
  - >-
    Makes rows of what M(ephemera.preview.identity) saw on one or more hosts.
options:
  hosts:
    description: >-
      Results of M(ephemera.preview.identity) with O(ephemera.preview.identity#module:scope=host).
    type: list
    elements: dict
    required: true
  output:
    description: How to print them.
    type: str
    choices: [table, json]
    default: table
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: List them
  ephemera.preview.listing:
    hosts: "{{ [plan_identity] }}"
"""

RETURN = r"""
msg:
  description: The table or the JSON, a line each.
  returned: always
  type: list
  elements: str
"""
