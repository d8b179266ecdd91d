#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work, by module_utils/_route_file.py on the host.

from __future__ import annotations

DOCUMENTATION = r"""
module: route
short_description: Lead the gateway of a Docker host to a preview
version_added: "0.1.0"
description:
  - Makes the preview's edge network, and attaches the gateway and the containers of exposed
    services to it. There they have the name that the route asks for, and none of their author's.
  - Writes one file of routes. The gateway sees the whole new file or the whole old one, never a
    part.
author: ephemera.preview contributors (@ephemera-preview)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Hashes of passwords and private keys are not shown.
  platform:
    platforms: posix
options:
  name:
    description: The preview's name, which is the file's and its Compose project's.
    type: str
    required: true
  content:
    description: The routes, as Traefik's dynamic configuration.
    type: dict
    required: true
  directory:
    description: The folder that the gateway watches.
    type: path
    required: true
  edge:
    description:
      - The preview's edge network. Without it only the file is written.
    type: dict
    suboptions:
      name:
        description: Its name.
        type: str
        required: true
      subnet:
        description: Its subnet.
        type: str
        required: true
      bridge:
        description: Its interface on the host.
        type: str
        required: true
      labels:
        description: Its labels.
        type: dict
        default: {}
      aliases:
        description: The name of each exposed service on it.
        type: dict
        default: {}
  gateway:
    description: The gateway's container.
    type: str
    default: ephemera-preview-gateway
"""

EXAMPLES = r"""
- name: Lead to the preview
  ephemera.preview.route:
    name: shop-pr-42
    content: "{{ lookup('ansible.builtin.file', preview.route_file) | from_json }}"
    directory: /var/lib/ephemera-preview/gateway/routes
    edge:
      name: shop-pr-42_edge
      subnet: 10.213.7.64/26
      bridge: epvq2zt5m6n4rsa
      aliases:
        web: web.shop-pr-42.preview.internal
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
  sample: /var/lib/ephemera-preview/gateway/routes/shop-pr-42.yaml
sha256:
  description: The digest of its content.
  returned: success
  type: str
  sample: 5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9
"""
