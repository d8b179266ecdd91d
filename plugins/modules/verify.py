#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: verify
short_description: Prove that a preview answers as wanted, or say why not
version_added: "0.1.0"
description:
  - >-
    Waits until every service runs the wanted image and is healthy, and each exposed one answers
    through the gateway at its public name.
  - >-
    Fails as soon as waiting cannot help, with one sentence that names the cause.
  - >-
    When it does not answer at its public name, asks its gateway on its own host as well, so that
    DNS and firewalls are told from the app.
extends_documentation_fragment:
  - ephemera.preview.stage
options:
  preview:
    description: The preview, as the role C(ephemera.preview.plan) registers it.
    type: dict
    required: true
  only:
    description: Whether to look at all services or at the data services.
    type: str
    choices: [all, data]
    default: all
  failure:
    description: >-
      The result of the task that could not start the services. Then nothing is waited for: it is
      told why.
    type: dict
    default: {}
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Verify the preview
  ephemera.preview.verify:
    preview: "{{ plan_preview }}"
"""

RETURN = r"""
state:
  description: What the preview's state records of what now runs.
  returned: success, with O(only=all)
  type: dict
diagnosis:
  description: What is wrong, in one word. C(docs/verification.md) of the collection lists them.
  returned: failure
  type: str
  sample: loopback
service:
  description: The service that the failure is about, or nothing.
  returned: failure
  type: str
log:
  description: The last log lines of that service, without secrets.
  returned: failure
  type: list
  elements: str
findings:
  description: All that was wrong by then, the cause of the failure first.
  returned: failure
  type: list
  elements: dict
  contains:
    service:
      description: The service, or nothing.
      type: str
    diagnosis:
      description: What is wrong, in one word.
      type: str
    sentence:
      description: What is wrong, where, and what to do.
      type: str
"""
