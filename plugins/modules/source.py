#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work, by module_utils/_source.py on the host.

from __future__ import annotations

DOCUMENTATION = r"""
module: source
short_description: Bring exactly one commit to a folder, whatever its repository tries
version_added: "0.1.0"
description:
  - Fetches one commit of a Git repository and exports its files, byte for byte, to a folder
    without C(.git). It is that commit, or the task fails.
  - Nothing that the repository holds is run or followed, neither hooks, filters, monitors,
    submodules nor LFS, and no configuration of the machine or the user is read.
  - Needs C(git) 2.32 or newer, for C(ssh) addresses an OpenSSH client too.
author: ephemera.preview contributors (@ephemera-preview)
extends_documentation_fragment:
  - ephemera.preview.stage
  - ansible.builtin.action_common_attributes
  - ephemera.preview.proxy
  - ephemera.preview.repository
attributes:
  check_mode:
    support: full
    details:
      - It really fetches, since all that follows needs the files, but into a temporary folder of
        its own. RV(temporary) names it, for the caller to remove.
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  commit:
    description: The commit, 40 hexadecimal digits.
    type: str
    required: true
  dest:
    description:
      - The folder for it. The files come to C(source/<commit>) in it. C(source.git) beside them is
        a bare repository, which makes the next fetch a small one.
    type: path
    required: true
  keep:
    description: A commit whose files stay there too. Those of other commits go.
    type: str
    default: ""
  preview:
    description: The preview, as the role C(ephemera.preview.plan) registers it, for O(stage).
    type: dict
  url:
    description:
      - Where the repository is. C(https://), C(ssh://), C(user@host:path) or the absolute path of a
        folder.
      - C(http://) is used without O(token), or to this machine itself.
      - Redirects are not followed.
    type: str
  ref:
    description:
      - The reference that the commit is on, such as C(refs/pull/42/head). The commit has to be its
        newest, or one of the few before it.
      - Without it the commit itself is asked for, which not every server allows.
    type: str
  timeout:
    description: How many seconds all of it may take.
    type: int
    default: 300
  max_size:
    description: How many MiB a fetch, and the files of the commit, may take.
    type: int
    default: 2048
"""

EXAMPLES = r"""
- name: Fetch the commit of pull request 42
  ephemera.preview.source:
    url: https://github.com/acme/shop.git
    ref: refs/pull/42/head
    commit: 5f3c9d2f0b7e4a61c8d95b3a2e1f7c6d4b8a9e02
    dest: /var/lib/ephemera-preview/previews/shop-pr-42
    token: "{{ vault_github_token }}"
  register: source

- name: Take the commit from the checkout that CI made
  ephemera.preview.source:
    checkout: /builds/acme/shop
    commit: 5f3c9d2f0b7e4a61c8d95b3a2e1f7c6d4b8a9e02
    dest: /var/lib/ephemera-preview/previews/shop-pr-42
"""

RETURN = r"""
commit:
  description: The commit.
  returned: success
  type: str
tree:
  description: The id of the commit's root tree. Two commits with the same have the same files.
  returned: success
  type: str
path:
  description: The folder of the files.
  returned: success
  type: str
git_dir:
  description: The bare repository that holds the commit.
  returned: success
  type: str
temporary:
  description: In check mode, the folder to remove when the files are no longer needed.
  returned: success
  type: str
missing:
  description: What the files lack, in sentences. Submodules and the content of LFS are not fetched.
  returned: success
  type: list
  elements: str
"""
