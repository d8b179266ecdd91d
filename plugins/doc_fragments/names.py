# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """What module name_info and lookup name take alike."""

    DOCUMENTATION = r"""
options:
  domain:
    description:
      - The domain under which previews have their hosts. Upper case letters are lowered.
      - Without it hosts lie under C(<ip-with-dashes>.sslip.io) when O(ip) is given, else under
        C(localhost).
    type: str
  host_format:
    description:
      - How a host is made. It must hold C({number}) and give one label under the domain, so that
        one wildcard certificate covers all. C({app}) and C({name}) may stand in it too.
      - Without C({app}) or C({name}) it needs a O(domain) of this app's own.
      - The default is C({name}.{domain}).
    type: str
  domain_shared:
    description: Whether other apps have their previews under the same O(domain).
    type: bool
    default: false
  ip:
    description: The address at which the host is reached. Used where there is no O(domain).
    type: str
  scheme:
    description: How a reviewer reaches the preview.
    type: str
    choices: [http, https]
    default: http
  port:
    description: The port a reviewer uses. By default that of O(scheme), which no URL shows.
    type: int
  commit:
    description:
      - The full commit id, whose first 12 digits are the tag of the images.
      - Without it C(image_tag) is the preview's name, a tag that moves.
    type: str
  forge:
    description: The forge of the repository, as in C(preview_forge).
    type: str
    default: ""
  repository:
    description:
      - The repository's id on its forge, which never changes, or its URL.
      - Together with O(forge) it makes the label C(ephemera.preview/owner), which is left out
        without it.
    type: str
"""
