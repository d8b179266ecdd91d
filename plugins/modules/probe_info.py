#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: probe_info
short_description: Tell what a gateway answers on its own host
version_added: "0.1.0"
description:
  - Asks for URLs at one address, as if their hosts resolved to it. So it tells whether a preview
    answers where it runs, when it cannot be reached at its public name.
  - Reads at most 64 KiB of each answer, follows redirects on the same origin only, and does not
    verify certificates.
author: ephemera.preview contributors (@ephemera-preview)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  urls:
    description: What to ask for, each by its public URL.
    type: list
    elements: str
    required: true
  address:
    description: The address to connect to, on the port of each URL.
    type: str
    default: 127.0.0.1
  method:
    description: How to ask.
    type: str
    choices: [GET, OPTIONS]
    default: GET
  headers:
    description: Further headers of each request.
    type: dict
    default: {}
  timeout:
    description: How many seconds each answer may take.
    type: float
    default: 5
"""

EXAMPLES = r"""
- name: Ask the gateway where it runs
  ephemera.preview.probe_info:
    urls: ["https://shop-pr-42.preview.example.org/health"]
  register: probed
"""

RETURN = r"""
answers:
  description: What came back for each URL, in their order.
  returned: always
  type: list
  elements: dict
  contains:
    status:
      description: The HTTP status, 0 where there is none.
      type: int
    url:
      description: The URL that was asked last.
      type: str
    location:
      description: Where it redirects to.
      type: str
    body:
      description: The beginning of what an error says.
      type: str
    trouble:
      description: >-
        Why there is no status: V(refused), V(unreachable), V(tls), V(timeout), V(closed),
        V(size) or nothing.
      type: str
    detail:
      description: The same in the system's words.
      type: str
    address:
      description: What was connected to.
      type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ephemera.preview.plugins.module_utils import _http


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "urls": {"type": "list", "elements": "str", "required": True},
            "address": {"type": "str", "default": "127.0.0.1"},
            "method": {"type": "str", "choices": ["GET", "OPTIONS"], "default": "GET"},
            "headers": {"type": "dict", "default": {}, "no_log": True},
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    asked = module.params
    context = _http.context(trusting=True)
    answers = []
    for url in asked["urls"]:
        where = _http.origin(url)
        if where is None:
            module.fail_json(msg="{0!r} is not an http URL.".format(url))
        answer = _http.get(
            url,
            timeout=asked["timeout"],
            context=context,
            headers=asked["headers"],
            method=asked["method"],
            address=(asked["address"], where[2]),
        )
        answers.append(dict(answer._asdict(), body=answer.body.decode("utf-8", "replace")))
    module.exit_json(changed=False, answers=answers)


if __name__ == "__main__":
    main()
