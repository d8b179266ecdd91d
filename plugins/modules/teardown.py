#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: teardown
short_description: Remove one preview from a Docker host and prove that nothing is left
version_added: "0.1.0"
description:
  - Removes the containers, networks, volumes, images, route and state folder of one preview,
    which it knows by the preview's name and owner alone.
  - Every step runs even when another one fails. Afterwards the engine is asked again; anything
    left is a failure that names it.
  - What has a preview's name but not its labels, or another owner, is left alone and reported.
options:
  name:
    description: Name of the preview, such as V(shop-pr-42).
    type: str
    required: true
  owner:
    description: Owner of the preview, as the label C(ephemera.preview/owner) holds it.
    type: str
    required: true
  state_dir:
    description: Folder of the previews' state on this host.
    type: path
    required: true
  builder:
    description: The buildx builder that built its images, where it is not Docker's own.
    type: str
    default: ""
  timeout:
    description:
      - Seconds after which it fails while what is left stays the same. What appears late, such as
        a container that an ended run was still creating, is removed too.
    type: int
    default: 5
  settle:
    description:
      - Seconds for which nothing may come back, where a run that was still working was ended.
    type: int
    default: 0
attributes:
  check_mode:
    description: Reports what would be removed.
    support: full
  diff_mode:
    description: Shows what is removed.
    support: full
author:
  - ephemera.preview contributors (@ephemera-preview)
"""

EXAMPLES = r"""
- name: Remove the preview of pull request 42
  ephemera.preview.teardown:
    name: shop-pr-42
    owner: 0123456789abcdef
    state_dir: /var/lib/ephemera-preview
"""

RETURN = r"""
removed:
  description: What was removed, or would be in check mode, one line each.
  returned: always
  type: list
  elements: str
left:
  description: What is still there, one line each.
  returned: always
  type: list
  elements: str
foreign:
  description: What stands under the preview's name and was left alone.
  returned: always
  type: list
  elements: str
"""

import os
import shutil
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ephemera.preview.plugins.module_utils import _docker, _names


def mine(seen, owner):
    """The same observation without what belongs to another owner, and that apart."""
    kept, others = dict(seen), dict(seen)
    for kind in ("containers", "networks", "volumes"):
        kept[kind] = [i for i in seen[kind] if i["labels"].get(_names.PREFIX + "owner") == owner]
        others[kind] = [i for i in seen[kind] if i not in kept[kind]]
    ours, theirs = (
        any(of[kind] for kind in ("containers", "networks", "volumes")) for of in (kept, others)
    )
    recorded = seen["state"].get("owner", "")
    # Images, route and folder carry no owner: they are of whom the rest is.
    without = {"folder": False, "route": "", "images": []}
    is_theirs = recorded != owner and (recorded or (theirs and not ours))
    (kept if is_theirs else others).update(without)
    named = ["{0} {1}".format(item["kind"], item["name"]) for item in seen["foreign"]]
    return kept, named + _docker.leftovers(others)


class Teardown:
    """The steps, in the order in which things let go of each other."""

    def __init__(self, module):
        self.module = module
        self.name = module.params["name"]
        self.state_dir = module.params["state_dir"]
        self.errors = []
        self.anonymous = set()

    def run(self, argv):
        rc, out, err = self.module.run_command(list(argv))
        return _docker.Ran(rc, out, err)

    def observe(self):
        seen = _docker.observe(self.run, self.state_dir, self.name)
        kept, foreign = mine(seen["previews"][self.name], self.module.params["owner"])
        if kept["folder"] or kept["containers"]:
            self.anonymous.update(_docker.anonymous(kept))
        if self.anonymous:
            there = set(self.run(["docker", "volume", "ls", "--quiet"]).out.split())
            kept["volumes"] += [
                {"name": name}
                for name in sorted(self.anonymous & there)
                if _docker.ANONYMOUS.match(name)
            ]
        return kept, foreign, seen["gateway"]

    def step(self, argv, items):
        """One engine call for all items; what fails is told in the end with the rest."""
        if not items:
            return
        ran = self.run(argv + items)
        lines = [line for line in ran.err.splitlines() if "No such" not in line]
        if ran.rc != 0 and lines:
            self.errors.append("{0}: {1}".format(" ".join(argv), "; ".join(lines)))

    def prune(self):
        """Remove its builds' cache mounts; what is left of them, as lines."""
        ran = self.run(_docker.cache_prune(self.name, self.module.params["builder"]))
        if ran.rc == 0:
            return []
        self.errors.append("docker buildx prune: {0}".format("; ".join(ran.err.splitlines())))
        return ["cache mounts of its builds"]

    def unlink(self, path):
        try:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            elif os.path.lexists(path):
                os.unlink(path)
        except OSError as error:
            self.errors.append("remove {0}: {1}".format(path, error))

    def remove(self, seen, gateway):
        if seen["route"]:
            self.unlink("{0}/gateway/routes/{1}.yaml".format(self.state_dir, self.name))
        self.step(
            ["docker", "container", "rm", "--force", "--volumes"],
            [c["id"] for c in seen["containers"]],
        )
        networks = [n["name"] for n in seen["networks"]]
        for network in networks:
            if gateway and network in gateway["networks"]:
                self.step(
                    ["docker", "network", "disconnect", "--force", network], [_docker.GATEWAY]
                )
        self.step(["docker", "network", "rm"], networks)
        self.step(["docker", "volume", "rm", "--force"], [v["name"] for v in seen["volumes"]])
        self.step(["docker", "image", "rm", "--force"], [i["ref"] for i in seen["images"]])
        if seen["folder"]:
            self.unlink("{0}/previews/{1}".format(self.state_dir, self.name))


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "owner": {"type": "str", "required": True},
            "state_dir": {"type": "path", "required": True},
            "builder": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 5},
            "settle": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    work = Teardown(module)
    try:
        seen, foreign, gateway = work.observe()
        removed = _docker.leftovers(seen)
        # A build that was ended has no image, and a teardown that was ended may have left no more.
        built = bool(seen["images"] or seen["folder"] or module.params["settle"])
        left = list(removed)
        began = time.monotonic()
        stuck, quiet = began + module.params["timeout"], began + module.params["settle"]
        while not module.check_mode and (left or time.monotonic() < quiet):
            before = left
            if left:
                work.errors = []
                work.remove(seen, gateway)
                removed += [line for line in left if line not in removed]
            else:
                time.sleep(0.25)
            seen, foreign, gateway = work.observe()
            left = _docker.leftovers(seen)
            if left and time.monotonic() > stuck:
                break
            if left != before:
                stuck = time.monotonic() + module.params["timeout"]
        if built and not module.check_mode:
            left += work.prune()
        if not module.check_mode:
            removed = [line for line in removed if line not in left]
    except _docker.EngineError as error:
        module.fail_json(msg=str(error))
    result = {
        "changed": bool(removed),
        "removed": removed,
        "left": left,
        "foreign": foreign,
        "diff": {"before": "".join(line + "\n" for line in removed), "after": ""},
    }
    if left and not module.check_mode:
        module.fail_json(
            msg="{0} is not gone, this is left: {1}. {2}".format(
                work.name, ", ".join(left), " ".join(work.errors)
            ).strip(),
            **result,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
