# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """The proxies of modules source, doctor_info and build."""

    DOCUMENTATION = r"""
options:
  proxy:
    description:
      - The proxies to go through. What a build's RUN fetches goes through them too, and no image
        holds them.
    type: dict
    default: {}
    suboptions:
      http_proxy:
        description: The proxy for C(http).
        type: str
      https_proxy:
        description: The proxy for C(https).
        type: str
      no_proxy:
        description: What is reached without a proxy, separated by commas.
        type: str
"""
