#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: ingress_info
short_description: Tell who serves the previews of a cluster
version_added: "0.1.0"
description:
  - Looks up the ingress class that previews get, and the controller that serves it. Fails where
    there is none, or another than the setting C(preview_ingress_controller) says. Changes nothing.
options:
  preview:
    description: What the role C(ephemera.preview.plan) registers in C(plan_identity).
    type: dict
    required: true
seealso:
  - module: ephemera.preview.doctor
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: See who serves previews
  ephemera.preview.ingress_info:
    preview: "{{ plan_identity }}"
  register: ingress
"""

RETURN = r"""
class:
  description: The ingress class.
  returned: success
  type: str
  sample: traefik
controller:
  description: The controller that serves it, by the name that its class has it under.
  returned: success
  type: str
  sample: traefik.io/ingress-controller
"""
