#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work on the controller; this file documents it.

from __future__ import annotations

DOCUMENTATION = r"""
module: identity
short_description: Know a preview, its settings and what the engine holds of it
version_added: "0.1.0"
description:
  - >-
    Collects every C(preview_*) variable of the app, checks them against the settings schema, and
    gives all problems in one message.
  - >-
    Names the preview, and looks at what the engine and the state folder hold of it. Changes
    nothing.
options:
  scope:
    description:
      - What the preview is wanted for.
      - V(up) needs a commit. It refuses a name that something else has taken, and so does
        V(preview).
      - V(down) refuses a preview of which all belongs to another repository.
      - V(host) looks at every preview of the host and needs no number.
    type: str
    choices: [up, down, preview, host]
    default: preview
  run:
    description: The run that asks, where it has begun already. A new one by default.
    type: str
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Know the preview of pull request 42
  ephemera.preview.identity:
    scope: up
  vars:
    preview_number: 42
    preview_commit: 0123456789abcdef0123456789abcdef01234567
    preview_repository: https://github.com/acme/shop
  register: plan_identity
"""

RETURN = r"""
name:
  description: Name of the preview; its other names are in C(names).
  returned: unless O(scope=host)
  type: str
  sample: shop-pr-42
url:
  description: Where a reviewer finds it.
  returned: unless O(scope=host)
  type: str
unchanged:
  description: Whether what is wanted is already served, by every service.
  returned: unless O(scope=host)
  type: bool
reset:
  description: Whether trust has changed, so that it has to be made from nothing.
  returned: unless O(scope=host)
  type: bool
rebuild:
  description: Whether its images have grown too old.
  returned: unless O(scope=host)
  type: bool
drift:
  description: Why it is not, in words; empty when it is.
  returned: unless O(scope=host)
  type: str
settings:
  description: Every setting but the secret ones, with defaults applied.
  returned: always
  type: dict
observed:
  description: What the engine and the state folder hold.
  returned: always
  type: dict
"""
