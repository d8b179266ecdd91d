#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: name_info
short_description: Tell every name a preview has
version_added: "0.1.0"
description:
  - Gives the names of the preview of one pull request of one app, from the two alone. Nothing has
    to exist, and nothing is contacted.
  - No two pull requests and no two apps ever share a name.
author: ephemera.preview contributors (@ephemera-preview)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ephemera.preview.names
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  app:
    description: The app's name, which is its name in the inventory.
    type: str
    required: true
  number:
    description: The pull request's number, an integer from 1 to 2147483647.
    type: raw
    required: true
seealso:
  - plugin: ephemera.preview.name
    plugin_type: lookup
"""

EXAMPLES = r"""
- name: Name the preview of pull request 42 of the shop
  ephemera.preview.name_info:
    app: shop
    number: 42
    domain: preview.example.org
    scheme: https
  register: shop

- name: Tell where it will be
  ansible.builtin.debug:
    msg: "{{ shop.names.url }}" # https://shop-pr-42.preview.example.org
"""

RETURN = r"""
names:
  description: The names of the preview.
  returned: success
  type: dict
  contains:
    app:
      description: The app's name as it was given.
      type: str
      sample: shop
    slug:
      description: What stands for the app in every name.
      type: str
      sample: shop
    number:
      description: The pull request's number.
      type: int
      sample: 42
    name:
      description: The name of the preview.
      type: str
      sample: shop-pr-42
    namespace:
      description: Its namespace in a cluster.
      type: str
      sample: shop-pr-42
    project:
      description: Its Compose project.
      type: str
      sample: shop-pr-42
    database:
      description: Its database on a shared server.
      type: str
      sample: shop_pr_42
    role:
      description: The database's user.
      type: str
      sample: shop_pr_42
    schema:
      description: Its schema, where previews share a database.
      type: str
      sample: shop_pr_42
    release:
      description: Its Helm release.
      type: str
      sample: shop-pr-42
    host_label:
      description: The first label of the host.
      type: str
      sample: shop-pr-42
    domain:
      description: The domain the host lies under.
      type: str
      sample: preview.example.org
    host:
      description: The host of its web service. A further service has C(<service>--) before it.
      type: str
      sample: shop-pr-42.preview.example.org
    scheme:
      description: The scheme of the URL.
      type: str
      sample: https
    port:
      description: The port of the URL.
      type: int
      sample: 443
    url:
      description: Where a reviewer finds it.
      type: str
      sample: https://shop-pr-42.preview.example.org
    image_tag:
      description: The tag of its images.
      type: str
      sample: 1f7a7a472abf
    labels:
      description: The labels every object of the preview carries.
      type: dict
      sample:
        ephemera.preview/app: shop
        ephemera.preview/name: shop-pr-42
        ephemera.preview/number: "42"
        ephemera.preview/owner: 5f3c1cbb2d1f7a7a
        ephemera.preview/schema: "1"
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ephemera.preview.plugins.module_utils._names import NameRefused, describe


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "number": {"type": "raw", "required": True},
            "domain": {"type": "str"},
            "host_format": {"type": "str"},
            "domain_shared": {"type": "bool", "default": False},
            "ip": {"type": "str"},
            "scheme": {"type": "str", "choices": ["http", "https"], "default": "http"},
            "port": {"type": "int"},
            "commit": {"type": "str"},
            "forge": {"type": "str", "default": ""},
            "repository": {"type": "str"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, names=describe(**module.params))
    except NameRefused as refusal:
        module.fail_json(msg=str(refusal))


if __name__ == "__main__":
    main()
