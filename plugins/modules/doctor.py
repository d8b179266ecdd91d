#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: doctor
short_description: Find everything that would stop a first preview, each with its fix
version_added: "0.1.0"
description:
  - >-
    Looks at the settings, the controller, the Docker host, the builder, the gateway, DNS,
    certificates, registries and the repository of an app.
  - >-
    Reports at once all that is in the way. Changes nothing, and a machine that lacks everything
    is reported on too.
options:
  part:
    description:
      - V(host) looks at the app's host and the controller, and at the builder where that is the
        same machine.
      - V(builder) looks at the machine that the task is delegated to as a builder.
      - V(report) prints O(reports).
    type: str
    choices: [host, builder, report]
    default: host
  reports:
    description: Results of the other parts. What holds no findings is passed over.
    type: list
    elements: dict
    default: []
seealso:
  - module: ephemera.preview.doctor_info
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Look at the Docker host
  ephemera.preview.doctor:
  register: doctor_host

- name: Report
  ephemera.preview.doctor:
    part: report
    reports: "{{ [doctor_host] }}"
  register: doctor_report

- name: End with what stops previews
  ansible.builtin.fail:
    msg: "{{ doctor_report.msg }}"
  when: doctor_report.msg != ''
"""

RETURN = r"""
app:
  description: The app's name.
  returned: unless O(part=report)
  type: str
findings:
  description: What was found, in the order in which it is looked at.
  returned: unless O(part=report)
  type: list
  elements: dict
  contains:
    id:
      description: What it is about, as docs/doctor.md lists them.
      type: str
      sample: gateway.absent
    level:
      description: V(ok), V(warning) or V(problem). Only the last stops a preview.
      type: str
    sentence:
      description: What was found, and where.
      type: str
    fix:
      description: What to do. Empty where it is V(ok).
      type: str
msg:
  description: Every problem with its fix, in one message. Empty where there is none.
  returned: when O(part=report)
  type: str
doctor:
  description: By app, the number of problems and the findings.
  returned: when O(part=report)
  type: dict
"""
