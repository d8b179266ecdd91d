#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work, by module_utils/_teardown.py on the host.

from __future__ import annotations

DOCUMENTATION = r"""
module: teardown
short_description: Remove one preview from a Docker host and prove that nothing is left
version_added: "0.1.0"
description:
  - Removes the containers, networks, volumes, images, route and state folder of one preview,
    which it knows by the preview's name and owner alone, and what the builder keeps of its builds,
    cache mounts and records.
  - Every step runs even when another one fails. Afterwards the engine is asked again; anything
    left is a failure that names it.
  - What has a preview's name but not its labels, or another owner, is left alone and reported.
extends_documentation_fragment:
  - ephemera.preview.proxy
options:
  name:
    description: Name of the preview, such as V(shop-pr-42).
    type: str
    required: true
  owner:
    description: Owner of the preview, as the label C(ephemera.preview/owner) holds it.
    type: str
    required: true
  state_dir:
    description: Folder of the previews' state on this host.
    type: path
    required: true
  builder:
    description: The buildx builder that built its images, where it is not Docker's own.
    type: str
    default: ""
  timeout:
    description:
      - Seconds after which it fails while what is left stays the same. What appears late, such as
        a container that an ended run was still creating, is removed too.
    type: int
    default: 5
  settle:
    description:
      - Seconds for which nothing may come back, where a run that was still working was ended.
    type: int
    default: 0
  push:
    description:
      - Whether its images were built to be pushed, as O(ephemera.preview.build#module:push) has it.
        Then there need not be an engine where O(builder) is given, or where nothing was built.
    type: bool
    default: false
  repositories:
    description: Repositories of registries whose images are removed too, as a cluster pulled them.
    type: list
    elements: str
    default: []
  registries:
    description: Logins for them, as C(preview_registries) has them.
    type: list
    elements: dict
    default: []
  ca:
    description: Certificates to trust besides the system's, as PEM text.
    type: str
    default: ""
  preview:
    description:
      - The preview, as the role C(ephemera.preview.plan) registers it. Where its target is a
        cluster, that cluster's namespace is removed with all it holds, in place of what is on a
        host; then what still holds it is told where it stays.
    type: dict
attributes:
  check_mode:
    description: Reports what would be removed.
    support: full
  diff_mode:
    description: Shows what is removed.
    support: full
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Remove the preview of pull request 42
  ephemera.preview.teardown:
    name: shop-pr-42
    owner: 0123456789abcdef
    state_dir: /var/lib/ephemera-preview
"""

RETURN = r"""
removed:
  description: What was removed, or would be in check mode, one line each.
  returned: always
  type: list
  elements: str
left:
  description: What is still there, one line each.
  returned: always
  type: list
  elements: str
notes:
  description: Which images stay in registries, and why, in sentences.
  returned: on a host
  type: list
  elements: str
foreign:
  description: What stands under the preview's name and was left alone.
  returned: always
  type: list
  elements: str
"""
