# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: name
short_description: Tell every name a preview has, or one kind of them
version_added: "0.1.0"
description:
  - Gives the names of the preview of one pull request of one app, from the two alone. Nothing has
    to exist, and nothing is contacted.
  - No two pull requests and no two apps ever share a name.
author: ephemera.preview contributors (@ephemera-preview)
extends_documentation_fragment:
  - ephemera.preview.names
options:
  _terms:
    description: The app's name, then the pull request's number.
    type: list
    elements: raw
    required: true
  kind:
    description:
      - The one kind of name to give instead of all. One of V(name), V(namespace), V(project),
        V(database), V(role), V(schema), V(host), V(url), V(image_tag), V(release), V(labels).
    type: str
seealso:
  - module: ephemera.preview.name_info
"""

EXAMPLES = r"""
- name: Tell where pull request 42 of the shop is
  ansible.builtin.debug:
    msg: "{{ lookup('ephemera.preview.name', 'shop', 42, kind='url', domain='example.org') }}"
    # http://shop-pr-42.example.org

- name: Use several of its names
  vars:
    shop: "{{ lookup('ephemera.preview.name', 'shop', 42) }}"
  ansible.builtin.debug:
    msg: "{{ shop.database }} belongs to {{ shop.role }}"
"""

RETURN = r"""
_raw:
  description:
    - One element. Without O(kind) it is a dictionary of all names, the same as
      RV(ephemera.preview.name_info#module:names). With it, it is that name alone, a dictionary
      for V(labels) and a string for every other.
  type: list
  elements: raw
"""

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.ephemera.preview.plugins.module_utils._names import (
    NameRefused,
    describe,
    pick,
)


class LookupModule(LookupBase):
    def run(
        self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        self.set_options(var_options=variables, direct=kwargs)
        options = self.get_options()
        options.pop("_terms", None)
        if unknown := sorted(set(kwargs) - set(options)):
            raise AnsibleError(
                f"{', '.join(unknown)}: no such option of the lookup ephemera.preview.name; "
                f"it has {', '.join(sorted(options))}."
            )
        if len(terms) != 2:
            raise AnsibleError(
                f"The lookup ephemera.preview.name takes the app's name and the pull request's "
                f"number, as in lookup('ephemera.preview.name', 'shop', 42); got {terms!r}."
            )
        kind = options.pop("kind")
        try:
            found = describe(*terms, **options)
            return [found if kind is None else pick(found, kind)]
        except NameRefused as refusal:
            raise AnsibleError(str(refusal)) from refusal
