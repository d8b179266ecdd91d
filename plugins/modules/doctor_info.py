#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: doctor_info
short_description: Look at what modules find on a builder or a Docker host
version_added: "0.1.0"
description:
  - Tells which Python runs modules there, which libraries it lacks, which git and which Docker
    Compose they find, and whether a repository can be read. Changes nothing.
  - M(ephemera.preview.doctor) runs it and says what follows from it.
author: ephemera.preview contributors (@ephemera-preview)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
  - ephemera.preview.proxy
  - ephemera.preview.repository
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
options:
  libraries:
    description: The libraries to look for, by the name they are imported by.
    type: list
    elements: str
    default: []
  repository:
    description: The repository to read. Without it, none is.
    type: str
  timeout:
    description: Seconds that reading the repository may take.
    type: int
    default: 30
seealso:
  - module: ephemera.preview.doctor
"""

EXAMPLES = r"""
- name: Look at the builder
  ephemera.preview.doctor_info:
    libraries: [yaml, jsonschema]
    repository: https://github.com/acme/shop.git
  delegate_to: builder
  register: builder
"""

RETURN = r"""
executable:
  description: The Python that runs modules.
  returned: always
  type: str
  sample: /usr/bin/python3
version:
  description: Its version.
  returned: always
  type: str
  sample: 3.11.2
missing:
  description: The libraries that cannot be imported, each with why.
  returned: always
  type: dict
  sample: {jsonschema: "No module named 'jsonschema'"}
git:
  description: The version of git, empty where there is none.
  returned: always
  type: str
  sample: 2.39.5
compose:
  description: How Docker Compose is called to read definitions, and its version.
  returned: always
  type: dict
  sample: {program: /usr/libexec/docker/cli-plugins/docker-compose, version: 2.40.3}
repository:
  description: Why the repository cannot be read, empty where it can.
  returned: when O(repository) is given
  type: str
  sample: ""
"""

import importlib
import os
import platform
import re
import sys
import tempfile
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _arguments,
    _compose,
    _source,
)

NO_COMMIT = "0" * 40


def missing(libraries: List[str]) -> Dict[str, str]:
    found = {}
    for name in libraries:
        try:
            importlib.import_module(name)
        # One that is there and broken is of no use either, whatever it raises.
        except Exception as error:  # pylint: disable=broad-except
            found[name] = str(error) or type(error).__name__
    return found


def version_of(module: AnsibleModule, argv: List[str]) -> str:
    try:
        rc, out, _err = module.run_command(argv, handle_exceptions=False)
    except OSError:
        return ""
    numbers = re.search(r"\d+(\.\d+)+\S*", out)
    return numbers.group() if rc == 0 and numbers else ""


def compose(module: AnsibleModule) -> Dict[str, str]:
    try:
        program = _compose.find()
    except _compose.Unavailable:
        return {"program": "", "version": ""}
    return {
        "program": " ".join(program),
        "version": version_of(module, [*program, "version", "--short"]),
    }


def repository(params: Dict[str, Any]) -> str:
    """Why the repository cannot be read, or ""."""
    given = {name: params[name] for name in _arguments.REPOSITORY if params[name]}
    origin = _source.Origin(url=params["repository"], **given)
    try:
        scheme = _source._check(NO_COMMIT, origin)
        if origin.checkout:
            _source._checkout_objects(origin.checkout)
            return ""
        ended, refused = heads(origin, scheme, _source.Limits(seconds=params["timeout"]))
    except _source.SourceRefused as error:
        return str(error)
    if ended.rc:
        return refused
    return "" if ended.out.strip() else "{0} is empty: it has no branch yet.".format(origin.url)


def heads(origin: _source.Origin, scheme: str, limits: _source.Limits) -> Tuple[Any, str]:
    """The branches, asked for exactly as commits are fetched; and a sentence if that failed."""
    with tempfile.TemporaryDirectory(prefix="ephemera-preview-") as work:
        git_dir = os.path.join(work, "source.git")
        git = _source._Git(work, git_dir, scheme, origin, NO_COMMIT, limits)
        git._init(git_dir)
        with tempfile.TemporaryFile() as secret:
            env, fds = git._credentials(secret)
            asked = ["ls-remote", "--heads", "--end-of-options", origin.url or ""]
            ended = git.run(*asked, env=env, pass_fds=fds)
        return ended, str(git.refused(ended)) if ended.rc else ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **_arguments.REPOSITORY,
            "libraries": {"type": "list", "elements": "str", "default": []},
            "repository": {"type": "str"},
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    result: Dict[str, Any] = {
        "changed": False,
        "executable": sys.executable,
        "version": platform.python_version(),
        "missing": missing(module.params["libraries"]),
        "git": version_of(module, ["git", "--version"]),
        "compose": compose(module),
    }
    if module.params["repository"] and result["git"]:
        result["repository"] = repository(module.params)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
