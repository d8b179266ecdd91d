# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """How modules source and doctor_info reach a repository."""

    DOCUMENTATION = r"""
options:
  checkout:
    description:
      - A checkout of CI's, to take commits from instead of a URL. Its configuration and hooks are
        not read, its files not used. Only its objects are, and every one is checked.
    type: path
  token:
    description: The password for an C(https) URL, shown to that server only.
    type: str
  user:
    description: The user's name that goes with O(token).
    type: str
    default: x-access-token
  key_file:
    description: The private key for an C(ssh) URL, a file where the module runs.
    type: path
  host_keys:
    description:
      - The host keys that an C(ssh) server may show, in lines as C(known_hosts) has them. Without
        them, those that the machine and the user know.
    type: str
  ca:
    description: Certificates to trust besides the system's, as PEM text.
    type: str
"""
