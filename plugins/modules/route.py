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
  - Makes the preview's edge network, and attaches the gateway and the containers of exposed
    services to it. There they have the name that the route asks for, and none of their author's.
  - Writes one file of routes. The gateway sees the whole new file or the whole old one, never a
    part.
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
    description: The preview's name, which is the file's and its Compose project's.
    type: str
    required: true
  content:
    description: The routes, as Traefik's dynamic configuration.
    type: dict
    required: true
  directory:
    description: The folder that the gateway watches.
    type: path
    required: true
  edge:
    description:
      - The preview's edge network. Without it only the file is written.
    type: dict
    suboptions:
      name:
        description: Its name.
        type: str
        required: true
      subnet:
        description: Its subnet.
        type: str
        required: true
      bridge:
        description: Its interface on the host.
        type: str
        required: true
      labels:
        description: Its labels.
        type: dict
        default: {}
      aliases:
        description: The name of each exposed service on it.
        type: dict
        default: {}
  gateway:
    description: The gateway's container.
    type: str
    default: ephemera-preview-gateway
"""

EXAMPLES = r"""
- name: Lead to the preview
  ephemera.preview.route:
    name: shop-pr-42
    content: "{{ lookup('ansible.builtin.file', preview.route_file) | from_json }}"
    directory: /var/lib/ephemera-preview/gateway/routes
    edge:
      name: shop-pr-42_edge
      subnet: 10.213.7.64/26
      bridge: epvq2zt5m6n4rsa
      aliases:
        web: web.shop-pr-42.preview.internal
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
  sample: /var/lib/ephemera-preview/gateway/routes/shop-pr-42.yaml
sha256:
  description: The digest of its content.
  returned: success
  type: str
  sample: 5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9
"""

import hashlib
import json
import os
import re
from typing import Any, Dict, List, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ephemera.preview.plugins.module_utils import _route

# Traefik reads .yaml, and ignores .json; what is being written ends in neither.
SUFFIX = ".yaml"
SECRETS = frozenset({"users", "certFile", "keyFile"})
LISTED = "\t".join(
    ("{{.ID}}", "{{.Names}}", "{{.Networks}}")
    + tuple('{{.Label "com.docker.compose.%s"}}' % key for key in ("project", "service", "oneoff"))
)


class Container(NamedTuple):
    id: str
    name: str
    networks: List[str]
    project: str
    service: str
    oneoff: bool


class Route:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.name = module.params["name"]
        if not re.match(r"\.?[a-z0-9][a-z0-9.-]{0,199}\Z", self.name):
            module.fail_json(msg="{0!r} is not a preview's name.".format(self.name))
        self.directory = module.params["directory"]
        self.path = os.path.join(self.directory, self.name + SUFFIX)

    def run(self) -> Dict[str, Any]:
        content = self.module.params["content"]
        try:
            after = _route.serialise(content)
        except ValueError as error:
            self.module.fail_json(msg=str(error))
        before = self.read(self.path)
        self.refuse_taken(_route.hosts(content))
        # Attached before it leads there.
        changed = bool(self.module.params["edge"]) and self.attach(self.module.params["edge"])
        if before != after:
            changed = True
            self.write(after)
        return {
            "changed": changed,
            "path": self.path,
            "sha256": hashlib.sha256(after.encode()).hexdigest(),
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

    def attach(self, edge: Dict[str, Any]) -> bool:
        """Make the network, and attach who belongs there. True when that is a change."""
        containers = [
            Container(ident, name, networks.split(","), project, service, oneoff == "True")
            for ident, name, networks, project, service, oneoff in (
                line.split("\t")
                for line in self.docker(
                    "ps", "--all", "--no-trunc", "--format", LISTED
                ).splitlines()
            )
        ]
        gateway = [c for c in containers if c.name == self.module.params["gateway"]]
        if not gateway and not self.module.check_mode:
            self.module.fail_json(
                msg="No gateway runs on this host. Run the playbook ephemera.preview.gateway."
            )
        exposed = [
            c
            for c in containers
            if c.project == self.name and not c.oneoff and c.service in edge["aliases"]
        ]
        missing = [c for c in gateway + exposed if edge["name"] not in c.networks]
        there = self.docker("network", "ls", "--format", "{{.Name}}").splitlines()
        made = edge["name"] not in there
        if made and not self.module.check_mode:
            bridge = "com.docker.network.bridge.name=" + edge["bridge"]
            labels = ["--label={0}={1}".format(*label) for label in sorted(edge["labels"].items())]
            options = ["--driver=bridge", "--internal", "--opt", bridge, *labels]
            self.docker("network", "create", *options, "--subnet", edge["subnet"], edge["name"])
        for container in missing if not self.module.check_mode else []:
            named = ["--alias", edge["aliases"][container.service]] if container in exposed else []
            self.docker("network", "connect", *named, edge["name"], container.id)
        return made or bool(missing)

    def docker(self, *arguments: str) -> str:
        rc, out, err = self.module.run_command(["docker", *arguments])
        if rc:
            self.module.fail_json(
                msg="docker {0}: {1}".format(" ".join(arguments), (err or out).strip())
            )
        return str(out)


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
            "content": {"type": "dict", "required": True},
            "directory": {"type": "path", "required": True},
            "edge": {
                "type": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "subnet": {"type": "str", "required": True},
                    "bridge": {"type": "str", "required": True},
                    "labels": {"type": "dict", "default": {}},
                    "aliases": {"type": "dict", "default": {}},
                },
            },
            "gateway": {"type": "str", "default": "ephemera-preview-gateway"},
        },
        supports_check_mode=True,
    )
    module.exit_json(**Route(module).run())


if __name__ == "__main__":
    main()
