#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: manifests
short_description: Apply a preview's Kubernetes objects, and wait until its services are well
version_added: "0.1.0"
description:
  - Applies the objects that the plan made by server-side apply, in the preview's own namespace,
    with each image that was built by its digest. All that a stage applies goes in one call.
  - Services are started in the order of C(depends_on) where that waits for health or completion,
    and what comes next is applied when what it waits for is well. A job of the file that is there
    from an earlier run is run anew.
  - >-
    Fails as soon as waiting is in vain, with the sentence of M(ephemera.preview.verify), and after
    the seconds of C(preview_verify_timeout) at the latest. What is started last is only waited for:
    how a whole preview is unwell, verification tells.
  - It shows none of the objects, and passes them through no argument.
extends_documentation_fragment:
  - ephemera.preview.stage
options:
  preview:
    description: The preview, as the role C(ephemera.preview.plan) registers it.
    type: dict
    required: true
  start:
    description:
      - What to apply. V(data) is the namespace, what limits it, the secrets, volumes and files of
        all services, and the data services; V(all) is all other services.
      - V(data) refuses, before anything is applied, an ingress class that is not served by
        C(preview_ingress_controller).
    type: str
    choices: [data, all]
    required: true
attributes:
  check_mode:
    description: Does nothing.
    support: full
  diff_mode:
    description: Shows nothing, as objects may hold secrets.
    support: none
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Apply the data services and wait until they accept connections
  ephemera.preview.manifests:
    preview: "{{ plan_preview }}"
    start: data
"""

RETURN = r"""
diagnosis:
  description: A code of what is wrong.
  returned: services that do not become well
  type: str
  sample: pull_missing
service:
  description: The service that is not well.
  returned: services that do not become well
  type: str
log:
  description: Its last words, without secrets.
  returned: services that do not become well
  type: list
  elements: str
findings:
  description: All that is wrong, each with C(service), C(diagnosis) and C(sentence).
  returned: services that do not become well
  type: list
  elements: dict
"""
