# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the gateway of a Docker host stands."""

from __future__ import annotations

from typing import Any, Callable

from ansible.errors import AnsibleFilterError
from ansible_collections.ephemera.preview.plugins.module_utils import _route

DOCUMENTATION = r"""
name: gateway_network
short_description: The network of a Docker host's gateway
version_added: "0.1.0"
description:
  - Gives the gateway's own network, the first C(/26) of the subnets that previews are given theirs
    from, and the addresses on it.
author: ephemera.preview contributors (@ephemera-preview)
options:
  _input:
    description: The setting C(preview_docker_subnets).
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Tell where the gateway stands
  ansible.builtin.debug:
    msg: "{{ (['10.213.0.0/16'] | ephemera.preview.gateway_network).address }}" # 10.213.0.2
"""

RETURN = r"""
_value:
  description: The network.
  type: dict
  contains:
    subnet:
      description: Its subnet.
      type: str
      sample: 10.213.0.0/26
    host:
      description: The address of the host on it.
      type: str
      sample: 10.213.0.1
    address:
      description: The address of the gateway.
      type: str
      sample: 10.213.0.2
"""


def gateway_network(subnets: list[str]) -> dict[str, str]:
    try:
        return _route.gateway_network(subnets)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"gateway_network": gateway_network}
