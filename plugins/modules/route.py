#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: route
short_description: Lead the gateway of a Docker host to a preview
version_added: "0.1.0"
description:
  - Writes one file of routes, or removes it. The gateway sees the whole new file or the whole old
    one, never a part.
  - Attaches the gateway to the preview's edge network, or detaches it.
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
    description: The preview's name, which is the file's.
    type: str
    required: true
  state:
    description: Whether the preview is to be reached.
    type: str
    choices: [present, absent]
    default: present
  content:
    description: The routes, as Traefik's dynamic configuration. Required to write a file.
    type: dict
  directory:
    description: The folder that the gateway watches.
    type: path
    required: true
  network:
    description: The network to attach the gateway to, and to detach it from. None by default.
    type: str
  gateway:
    description: The gateway's container.
    type: str
    default: ephemera-preview-gateway
"""

EXAMPLES = r"""
- name: Lead to the preview
  ephemera.preview.route:
    name: shop-pr-42
    content: "{{ preview.route }}"
    directory: "{{ preview.state_dir }}/gateway/routes"
    network: shop-pr-42_edge

- name: Lead to it no more
  ephemera.preview.route:
    name: shop-pr-42
    state: absent
    directory: "{{ preview.state_dir }}/gateway/routes"
    network: shop-pr-42_edge
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
  sample: /var/lib/ephemera-preview/gateway/routes/shop-pr-42.yaml
sha256:
  description: The digest of its content, or nothing where there is none.
  returned: success
  type: str
  sample: 5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9
"""

import hashlib
import json
import os
import re
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ephemera.preview.plugins.module_utils import _route

# Traefik reads .yaml, and ignores .json; what is being written ends in neither.
SUFFIX = ".yaml"
SECRETS = frozenset({"users", "certFile", "keyFile"})


class Route:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.name = module.params["name"]
        if not re.match(r"\.?[a-z0-9][a-z0-9.-]{0,199}\Z", self.name):
            module.fail_json(msg="{0!r} is not a preview's name.".format(self.name))
        self.directory = module.params["directory"]
        self.path = os.path.join(self.directory, self.name + SUFFIX)

    def run(self) -> Dict[str, Any]:
        present = self.module.params["state"] == "present"
        content = self.module.params["content"] if present else None
        try:
            after = _route.serialise(content) if content is not None else ""
        except ValueError as error:
            self.module.fail_json(msg=str(error))
        before = self.read(self.path)
        if content is not None:
            self.refuse_taken(_route.hosts(content))
        # Attached before it leads there, and led elsewhere before it is detached.
        changed = self.attach() if present else False
        if before != after:
            changed = True
            self.write(after)
        if not present:
            changed = self.detach() or changed
        return {
            "changed": changed,
            "path": self.path,
            "sha256": hashlib.sha256(after.encode()).hexdigest() if after else "",
            "diff": {
                "before_header": self.path,
                "after_header": self.path,
                "before": shown(before),
                "after": shown(after),
            },
        }

    def read(self, path: str) -> str:
        try:
            with open(path, encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def refuse_taken(self, wanted: Any) -> None:
        """Refuse a host that another preview's file leads away."""
        try:
            files = sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return
        for file in files:
            if not file.endswith(SUFFIX) or file == self.name + SUFFIX:
                continue
            try:
                other = json.loads(self.read(os.path.join(self.directory, file)))
                taken = wanted & _route.hosts(other)
            except (ValueError, AttributeError):
                self.module.fail_json(
                    msg="{0}/{1} was not written by ephemera.preview. One file that Traefik cannot "
                    "read keeps it from reading all others, so nothing else may lie in that "
                    "folder. Move it away.".format(self.directory, file)
                )
            if taken:
                self.module.fail_json(
                    msg="{0} belongs to the preview {1} already. Take that one down, or give the "
                    "app another preview_host_format or preview_domain.".format(
                        ", ".join(sorted(taken)), file[: -len(SUFFIX)]
                    )
                )

    def write(self, text: str) -> None:
        if self.module.check_mode:
            return
        if not text:
            os.unlink(self.path)
            return
        draft = os.path.join(self.directory, ".{0}.draft".format(self.name))
        try:
            with open(draft, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            self.module.fail_json(
                msg="{0} does not exist, so no gateway was set up on this host. Run the playbook "
                "ephemera.preview.gateway.".format(self.directory)
            )
        os.rename(draft, self.path)

    def attach(self) -> bool:
        network = self.module.params["network"]
        if not network or network in self.attached():
            return False
        if not self.module.check_mode:
            self.docker("network", "connect", network, self.module.params["gateway"])
        return True

    def detach(self) -> bool:
        network = self.module.params["network"]
        if not network or network not in self.attached(must_run=False):
            return False
        if not self.module.check_mode:
            self.docker("network", "disconnect", "--force", network, self.module.params["gateway"])
        return True

    def attached(self, must_run: bool = True) -> Dict[str, Any]:
        """The networks that the gateway is attached to."""
        gateway = self.module.params["gateway"]
        argv = [
            "docker",
            "container",
            "inspect",
            "-f",
            "{{json .NetworkSettings.Networks}}",
            gateway,
        ]
        rc, out, err = self.module.run_command(argv)
        if rc == 0:
            return dict(json.loads(out))
        if "no such container" not in err.lower():
            self.module.fail_json(
                msg="docker container inspect {0}: {1}".format(gateway, err.strip())
            )
        if must_run and not self.module.check_mode:
            self.module.fail_json(
                msg="No gateway runs on this host. Run the playbook ephemera.preview.gateway."
            )
        return {}

    def docker(self, *arguments: str) -> None:
        rc, out, err = self.module.run_command(["docker", *arguments])
        if rc:
            self.module.fail_json(
                msg="docker {0}: {1}".format(" ".join(arguments), (err or out).strip())
            )


def shown(text: str) -> str:
    """A file's text for a diff, without what must stay secret."""

    def masked(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: "…" if k in SECRETS else masked(v) for k, v in value.items()}
        if isinstance(value, list):
            return [masked(v) for v in value]
        return value

    try:
        return json.dumps(masked(json.loads(text)), indent=2, sort_keys=True) + "\n"
    except ValueError:
        return ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "content": {"type": "dict"},
            "directory": {"type": "path", "required": True},
            "network": {"type": "str"},
            "gateway": {"type": "str", "default": "ephemera-preview-gateway"},
        },
        required_if=[("state", "present", ["content"])],
        supports_check_mode=True,
    )
    module.exit_json(**Route(module).run())


if __name__ == "__main__":
    main()
