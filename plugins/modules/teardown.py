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
    which it knows by the preview's name and owner alone, and what the builder keeps of its builds,
    cache mounts and records.
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

import glob
import json
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ephemera.preview.plugins.module_utils import _docker, _names
from ansible_collections.ephemera.preview.plugins.module_utils._run import limited

AT_ONCE = 4
ANSWER = 300  # seconds for one engine call; a container alone may take 10 to be killed
SAID = 64 << 20  # bytes
# What `history rm` says of a record that the builder's own limits have ended, and old buildx of it.
NO_RECORD = re.compile(
    r'lease "ref_\w+": not found|\d+ errors occurred:|unknown command: "history"'
)


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


def bulk(call, items):
    """One engine call for all items, where there are any."""
    return [call + items] if items else []


def build_of(file):
    """The path of the context of a build that buildx has noted in this file."""
    try:
        with open(file, encoding="utf-8") as stream:
            return str(json.load(stream)["LocalPath"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class Teardown:
    """The steps, in the order in which things let go of each other."""

    def __init__(self, module):
        self.module = module
        self.name = module.params["name"]
        self.state_dir = module.params["state_dir"]
        self.folder = "{0}/previews/{1}".format(self.state_dir, self.name)
        self.errors = []
        self.anonymous = set()
        self.noted = set()
        self.uncleaned = []

    def run(self, argv):
        ended = limited(argv, env=dict(os.environ), cwd="/", seconds=ANSWER, keep=SAID)
        if len(ended.out) >= SAID:  # of which the beginning is cut off
            raise _docker.EngineError(
                "what the host holds takes more than {0} MiB to say.".format(SAID >> 20)
            )
        err = ended.err
        if ended.timed_out:
            err += "the engine did not answer within {0} s".format(ANSWER)
        return _docker.Ran(ended.rc, ended.out.decode("utf-8", "replace"), err)

    def observe(self):
        seen = _docker.observe(self.run, self.state_dir, self.name)
        kept, foreign = mine(seen["previews"][self.name], self.module.params["owner"])
        if kept["folder"] or kept["containers"]:
            self.anonymous.update(_docker.anonymous(kept))
        if kept["folder"] or not seen["previews"][self.name]["folder"]:
            self.noted.update(self.records())
        if self.anonymous:
            there = set(self.run(["docker", "volume", "ls", "--quiet"]).out.split())
            kept["volumes"] += [
                {"name": name}
                for name in sorted(self.anonymous & there)
                if _docker.ANONYMOUS.match(name)
            ]
        return kept, foreign, seen["gateway"]

    def step(self, call):
        """One engine call; what fails is told in the end with the rest."""
        ran = self.run(["docker", *call])
        lines = [line for line in ran.err.splitlines() if "No such" not in line]
        if ran.rc != 0 and lines:
            self.errors.append("docker {0}: {1}".format(" ".join(call[:2]), "; ".join(lines)))

    def clean(self):
        """Remove what the builder keeps of its builds; what is left of that, as lines."""
        with ThreadPoolExecutor(2) as pool:
            steps = [pool.submit(step) for step in (self.prune, self.forget)]
            return [line for step in steps for line in step.result()]

    def prune(self):
        ran = self.run(_docker.cache_prune(self.name, self.module.params["builder"]))
        if ran.rc == 0:
            return []
        self.errors.append("docker buildx prune: " + "; ".join(ran.err.splitlines()))
        return ["cache mounts of its builds"]

    def forget(self):
        """Remove the records of its builds, and what buildx has noted of them."""
        noted = sorted(self.noted)
        if not noted:
            return []
        builder = self.module.params["builder"] or "default"
        refs = [os.path.basename(file) for file in noted]
        ran = self.run(["docker", "buildx", "history", "rm", "--builder", builder, *refs])
        said = [e for e in ran.err.splitlines() if e.strip() and not NO_RECORD.search(e)]
        if ran.rc and said:
            self.errors.append("docker buildx history rm: " + "; ".join(said))
            return ["records of its builds"]
        for file in noted:
            if not file.startswith(self.folder + "/"):  # which goes as a whole
                self.unlink(file)
        return []

    def records(self):
        """The files in which buildx has noted this preview's builds, each named by its record."""
        builder, folder = self.module.params["builder"], self.folder + "/"
        if not builder:
            return glob.glob(glob.escape(folder + _docker.BUILDX) + "/refs/default/*/*")
        refs = os.path.join(_docker.client_folder(), "buildx", "refs", builder)
        noted = glob.glob(glob.escape(refs) + "/*/*")
        return [file for file in noted if build_of(file).startswith(folder)]

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
        networks = [n["name"] for n in seen["networks"]]
        attached = [n for n in networks if gateway and n in gateway["networks"]]
        holding = bulk(
            ["container", "rm", "--force", "--volumes"], [c["id"] for c in seen["containers"]]
        ) + [["network", "disconnect", "--force", n, _docker.GATEWAY] for n in attached]
        held = (
            [["network", "rm", n] for n in networks]
            + bulk(["volume", "rm", "--force"], [v["name"] for v in seen["volumes"]])
            + bulk(["image", "rm", "--force"], [i["ref"] for i in seen["images"]])
        )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            cleaning = pool.submit(self.clean)
            for calls in (holding, held):
                list(pool.map(self.step, calls))
            self.uncleaned = cleaning.result()
        # It tells the next attempt what the builder keeps.
        if seen["folder"] and not self.uncleaned:
            self.unlink(self.folder)

    def teardown(self):
        """Remove and look again until nothing is left: what was removed, is left, is foreign."""
        seen, foreign, gateway = self.observe()
        left = _docker.leftovers(seen)
        if self.module.check_mode:
            return left, left, foreign
        settle, patience = self.module.params["settle"], self.module.params["timeout"]
        removed, began = [], time.monotonic()
        stuck, quiet = began + patience, began + settle
        while left or time.monotonic() < quiet:
            before = left
            if left:
                self.errors = []
                removed += [line for line in left if line not in removed]
                self.remove(seen, gateway)
            else:
                time.sleep(0.25)
            seen, foreign, gateway = self.observe()
            left = _docker.leftovers(seen)
            if left and time.monotonic() > stuck:
                break
            if left != before:
                stuck = time.monotonic() + patience
        if settle:  # the run that was ended may have built until now
            self.uncleaned = self.clean()
        left = left + self.uncleaned
        return [line for line in removed if line not in left], left, foreign


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
        removed, left, foreign = work.teardown()
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
