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
  - Puts iptables rules in force that keep containers of an app's previews, and builds, from the
    host's own addresses, from metadata services and from private networks. The internet stays open.
  - Apps that share a host have exceptions of their own. Builds that the engine itself runs reach
    what the exceptions of all apps have in common.
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
  app:
    description: The app whose previews they are. V(absent) without one removes those of all apps.
    type: str
  allow:
    description:
      - Addresses and networks that its previews may reach all the same, each with or without a
        port, for example V(10.0.0.5), V(10.0.0.0/24:5432) or V([fd00::1]:443).
    type: list
    elements: str
    default: []
  builder:
    description:
      - A builder of buildx that builds in place of the engine, and nothing else of the app runs
        here. If it is none whose steps run where the engine's do, there is nothing to close, and
        V(present) is as V(absent).
    type: str
    default: ""
  folder:
    description:
      - Where to keep what is known of each app, C(firewall.json), and the rules as a script that
        puts them in force after a restart, C(firewall.sh).
      - It is made where it is not there, and removed with the last of its files.
    type: path
    required: true
seealso:
  - module: ansible.builtin.iptables
    description: One rule at a time.
"""

EXAMPLES = r"""
- name: Close the host to previews of the shop, but not its database
  ephemera.preview.firewall:
    app: shop
    allow: ["10.0.0.5:5432"]
    folder: /var/lib/ephemera-preview/gateway
"""

RETURN = r"""
apps:
  description: The apps that rules are in force for now.
  returned: success
  type: list
  elements: str
  sample: [shop]
systemd:
  description: Whether the host runs systemd, which can run the script after a restart.
  returned: success
  type: bool
  sample: true
"""

import contextlib
import json
import os
import tempfile
from typing import Any, Dict, List

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ephemera.preview.plugins.module_utils import _docker, _firewall

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
        present = self.params["state"] == "present" and self.is_here()
        apps = self.apps()
        if not present and not apps and not self.usable():
            # Who may not look has put nothing in force either.
            return self.result(apps, {}, {}, False)
        self.require()
        if present:
            apps[self.params["app"]] = sorted(self.params["allow"])
        elif self.params["app"]:
            apps.pop(self.params["app"], None)
        else:
            apps = {}
        wanted = self.wanted(apps)
        before, after = {}, {}
        for command, family in zip(self.commands, wanted):
            saved = self.call([command + "-save", "-t", "filter"])
            before[command] = _firewall.present(saved)
            after[command] = _firewall.wanted(family) if apps else []
            if before[command] != after[command] and not self.module.check_mode:
                self.call(
                    [command + "-restore", "--wait", "--noflush"], _firewall.restore(family, saved)
                )
        known = json.dumps(apps, indent=2, sort_keys=True) + "\n"
        changed = self.file("firewall.json", known if apps else "")
        changed = self.file("firewall.sh", _firewall.script(wanted) if apps else "") or changed
        return self.result(apps, before, after, changed)

    def apps(self) -> Dict[str, List[str]]:
        """The exceptions of each app that the host is closed to."""
        path = os.path.join(self.params["folder"], "firewall.json")
        try:
            with open(path, encoding="utf-8") as file:
                return {str(app): list(map(str, allow)) for app, allow in json.load(file).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError) as error:
            self.module.fail_json(
                msg="{0} cannot be read ({1}). Remove it, and run the playbook "
                "ephemera.preview.gateway for every app of this host.".format(path, error)
            )
            raise

    def is_here(self) -> bool:
        """Whether something runs here that is to be kept."""
        builder = self.params["builder"]
        if not builder:
            return True
        docker = self.module.get_bin_path("docker")
        if not docker:
            return False
        said = self.module.run_command([docker, "buildx", "inspect", builder])[1]
        return _docker.is_on_default_bridge(said)

    def usable(self) -> bool:
        return not os.geteuid() and bool(self.module.get_bin_path("iptables"))

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

    def wanted(self, apps: Dict[str, List[str]]) -> _firewall.Rules:
        if not apps:
            return _firewall.Rules([], [])
        try:
            return _firewall.rules(apps, name_servers())
        except ValueError as error:
            self.module.fail_json(msg=str(error))
            raise

    def call(self, argv: List[str], data: str = "") -> str:
        rc, out, err = self.module.run_command(argv, data=data or None)
        if rc:
            self.module.fail_json(msg="{0}: {1}".format(" ".join(argv), (err or out).strip()))
        return str(out)

    def file(self, name: str, text: str) -> bool:
        """Write a file, or remove it where there is no text. True when that is a change."""
        path = os.path.join(self.params["folder"], name)
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
            with contextlib.suppress(OSError):  # a gateway's files are there, too
                os.rmdir(self.params["folder"])
            return True
        os.makedirs(self.params["folder"], mode=0o700, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=self.module.tmpdir)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        self.module.atomic_move(draft, path)
        return True

    def result(
        self,
        apps: Dict[str, List[str]],
        before: Dict[str, List[str]],
        after: Dict[str, List[str]],
        changed: bool,
    ) -> Dict[str, Any]:
        def shown(families: Dict[str, List[str]]) -> str:
            return "".join(
                "{0} {1}\n".format(command, line)
                for command, lines in families.items()
                for line in lines
            )

        return {
            "changed": changed or before != after,
            "apps": sorted(apps),
            "systemd": os.path.isdir("/run/systemd/system"),
            "diff": {"before": shown(before), "after": shown(after)},
        }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "app": {"type": "str"},
            "allow": {"type": "list", "elements": "str", "default": []},
            "builder": {"type": "str", "default": ""},
            "folder": {"type": "path", "required": True},
        },
        required_if=[("state", "present", ["app"])],
        supports_check_mode=True,
    )
    module.exit_json(**Firewall(module).run())


if __name__ == "__main__":
    main()
