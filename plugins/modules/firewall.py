#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall
short_description: Close a Docker host and its neighbours to previews
version_added: "0.1.0"
description:
  - Puts iptables rules in force that keep containers of previews, and builds, from the host's own
    addresses, from metadata services and from private networks. The internet stays open.
  - The rules stand in chains of their own and only ever refuse. They are replaced as a whole.
author: ephemera.preview contributors (@ephemera-preview)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  platform:
    platforms: posix
requirements:
  - root, and C(iptables) as the Docker Engine itself uses it
options:
  state:
    description: Whether the rules are to be in force.
    type: str
    choices: [present, absent]
    default: present
  subnets:
    description: The subnets that networks of previews are taken from.
    type: list
    elements: str
    default: []
  allow:
    description:
      - Addresses and networks that previews may reach all the same, each with or without a port,
        for example V(10.0.0.5), V(10.0.0.0/24:5432) or V([fd00::1]:443).
    type: list
    elements: str
    default: []
  gateway_interface:
    description: The gateway's own interface on the host, which is not closed.
    type: str
    default: ephemera-gw
  gateway_subnet:
    description: The gateway's own subnet, into which previews get no way.
    type: str
  bridges:
    description: Interfaces whose containers are closed as those of previews are.
    type: list
    elements: str
    default: []
  path:
    description: Where to keep the rules as a script that puts them in force after a restart.
    type: path
    required: true
seealso:
  - module: ansible.builtin.iptables
    description: One rule at a time.
"""

EXAMPLES = r"""
- name: Close the host to previews, but not its database
  ephemera.preview.firewall:
    subnets: [10.213.0.0/16]
    gateway_subnet: 10.213.0.0/26
    allow: ["10.0.0.5:5432"]
    bridges: [docker0]
    path: /var/lib/ephemera-preview/gateway/firewall.sh
"""

RETURN = r"""
systemd:
  description: Whether the host runs systemd, which can run the script after a restart.
  returned: success
  type: bool
  sample: true
"""

import os
import tempfile
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ephemera.preview.plugins.module_utils import _firewall

RESOLV_CONF = "/etc/resolv.conf"
# What systemd-resolved asks stands here, and the engine reads it then.
RESOLVED_CONF = "/run/systemd/resolve/resolv.conf"


def name_servers() -> List[str]:
    for path in (RESOLV_CONF, RESOLVED_CONF):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                found = _firewall.resolvers(file.read())
        except OSError:
            continue
        if found:
            return found
    return []


class Firewall:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.commands = ["iptables"]
        if os.path.exists("/proc/net/if_inet6"):
            self.commands.append("ip6tables")

    def run(self) -> Dict[str, Any]:
        present = self.params["state"] == "present"
        if not present and (os.geteuid() or not self.module.get_bin_path("iptables")):
            # Who may not look has put nothing in force either.
            return self.result({}, {}, self.file(""))
        self.require()
        wanted = self.wanted()
        families = {"iptables": wanted.v4, "ip6tables": wanted.v6}
        before, after = {}, {}
        for command in self.commands:
            saved = self.call([command + "-save", "-t", "filter"])
            before[command] = _firewall.present(saved)
            after[command] = _firewall.wanted(families[command]) if present else []
            if before[command] == after[command] or self.module.check_mode:
                continue
            self.call(
                [command + "-restore", "--wait", "--noflush"],
                _firewall.restore(families[command], saved)
                if present
                else _firewall.removal(saved),
            )
        changed = self.file(_firewall.script(wanted) if present else "")
        return self.result(before, after, changed)

    def require(self) -> None:
        instead = (
            " Or set preview_isolation to false: previews and builds then reach every port of the "
            "host, the cloud's metadata service and the networks around it."
        )
        if os.geteuid():
            self.module.fail_json(
                msg="The firewall around previews needs root on the host. Connect as root, or set "
                "ansible_become." + instead
            )
        if not self.module.get_bin_path("iptables"):
            self.module.fail_json(
                msg="The firewall around previews needs iptables, which is not installed on the "
                "host. Install it (apt-get install iptables)." + instead
            )

    def wanted(self) -> _firewall.Rules:
        if self.params["state"] == "absent":
            return _firewall.Rules([], [])
        try:
            return _firewall.rules(
                self.params["subnets"],
                self.params["allow"],
                name_servers(),
                (self.params["gateway_interface"], self.params["gateway_subnet"]),
                self.params["bridges"],
            )
        except ValueError as error:
            self.module.fail_json(msg=str(error))
            raise

    def call(self, argv: List[str], data: str = "") -> str:
        rc, out, err = self.module.run_command(argv, data=data or None)
        if rc:
            self.module.fail_json(msg="{0}: {1}".format(" ".join(argv), (err or out).strip()))
        return str(out)

    def file(self, text: str) -> bool:
        """Write the script, or remove it where there is no text. True when that is a change."""
        path = self.params["path"]
        try:
            with open(path, encoding="utf-8") as file:
                if file.read() == text:
                    return False
        except FileNotFoundError:
            if not text:
                return False
        if self.module.check_mode:
            return True
        if not text:
            os.unlink(path)
            return True
        handle, draft = tempfile.mkstemp(dir=self.module.tmpdir)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        self.module.atomic_move(draft, path)
        return True

    def result(
        self, before: Dict[str, List[str]], after: Dict[str, List[str]], changed: bool
    ) -> Dict[str, Any]:
        def shown(families: Dict[str, List[str]]) -> str:
            return "".join(
                "{0} {1}\n".format(command, line)
                for command, lines in families.items()
                for line in lines
            )

        return {
            "changed": changed or before != after,
            "systemd": os.path.isdir("/run/systemd/system"),
            "diff": {"before": shown(before), "after": shown(after)},
        }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "subnets": {"type": "list", "elements": "str", "default": []},
            "allow": {"type": "list", "elements": "str", "default": []},
            "gateway_interface": {"type": "str", "default": "ephemera-gw"},
            "gateway_subnet": {"type": "str"},
            "bridges": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path", "required": True},
        },
        required_if=[("state", "present", ["subnets", "gateway_subnet"])],
        supports_check_mode=True,
    )
    module.exit_json(**Firewall(module).run())


if __name__ == "__main__":
    main()
