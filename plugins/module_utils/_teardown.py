# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A preview leaves a Docker host without a trace, or it is said what is left."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _docker,
    _names,
    _registry,
    _run,
)

AT_ONCE = 4
ANSWER = 300  # seconds for one engine call; a container alone may take 10 to be killed
# What `history rm` says of a record that the builder's own limits have ended, and old buildx of it.
NO_RECORD = re.compile(
    r'lease "ref_\w+": not found|\d+ errors occurred:|unknown command: "history"'
)


Seen = Dict[str, Any]


def run(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """The program of the module ``teardown``, whose options ``params`` are."""
    work = Teardown(params)
    try:
        removed, left, foreign = work.teardown(check)
    except _docker.EngineError as error:
        return {"failed": True, "msg": str(error)}
    result = {
        "changed": bool(removed),
        "removed": removed,
        "left": left,
        "foreign": foreign,
        "notes": [] if check else _unpush(params),
        "diff": {"before": "".join(line + "\n" for line in removed), "after": ""},
    }
    if left and not check:
        result["failed"] = True
        result["msg"] = "{0} is not gone, this is left: {1}. {2}".format(
            work.name, ", ".join(left), " ".join(work.errors)
        ).strip()
    return result


def _unpush(params: Mapping[str, Any]) -> List[str]:
    """Remove what was pushed to registries. In sentences, what stays there."""
    if not params["repositories"]:
        return []
    registries = _registry.Registries(params["registries"], params["ca"], params["proxy"])
    notes = []
    for repository in params["repositories"]:
        try:
            notes.append(registries.delete(repository).refused)
        except _registry.RegistryError as error:
            notes.append("The images of {0} stay: {1}".format(repository, error))
    return [note for note in notes if note]


def mine(seen: Seen, owner: str) -> Tuple[Seen, List[str]]:
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


def bulk(call: List[str], items: List[str]) -> List[List[str]]:
    """One engine call for all items, where there are any."""
    return [call + items] if items else []


def build_of(file: str) -> str:
    """The path of the context of a build that buildx has noted in this file."""
    try:
        with open(file, encoding="utf-8") as stream:
            return str(json.load(stream)["LocalPath"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class Teardown:
    """The steps, in the order in which things let go of each other."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params
        self.name: str = params["name"]
        self.state_dir: str = params["state_dir"]
        self.folder = "{0}/previews/{1}".format(self.state_dir, self.name)
        self.errors: List[str] = []
        self.anonymous: Set[str] = set()
        self.noted: Set[str] = set()
        self.uncleaned: List[str] = []
        self.engine = True

    def run(self, argv: Sequence[str]) -> _docker.Ran:
        return _run.engine(argv, ANSWER)

    def observe(self) -> Tuple[Seen, List[str], Optional[Seen]]:
        seen = self.look()
        kept, foreign = mine(seen["previews"][self.name], self.params["owner"])
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

    def look(self) -> Dict[str, Any]:
        """What this host holds, in the observer's shape.

        Where images were pushed to a cluster by a builder without an engine, or by nobody from
        here, that is a folder, and there need not be an engine.
        """
        if not (self.params["push"] and self.params["builder"]):
            try:
                seen = _docker.observe(self.run, self.state_dir, self.name)
            except _docker.EngineError:
                if not self.params["push"] or self.params["repositories"] or self.records():
                    raise
            else:
                seen["previews"][self.name]["images"] += self.unpushed()
                return seen
            self.engine = False
        seen = _docker.parse("", self.name)
        seen["previews"][self.name]["folder"] = os.path.isdir(self.folder)
        return seen

    def unpushed(self) -> List[Dict[str, str]]:
        """The images that a killed build for a cluster has left on the engine."""
        named = ["--filter=reference=" + each for each in self.params["repositories"]]
        if not named:
            return []
        tagged = "{{.Repository}}:{{.Tag}}"
        listed = self.run(["docker", "image", "ls", "--format", tagged, *named])
        return [{"ref": ref} for ref in listed.out.split()]

    def step(self, call: List[str]) -> None:
        """One engine call; what fails is told in the end with the rest."""
        ran = self.run(["docker", *call])
        lines = [line for line in ran.err.splitlines() if "No such" not in line]
        if ran.rc != 0 and lines:
            self.errors.append("docker {0}: {1}".format(" ".join(call[:2]), "; ".join(lines)))

    def clean(self) -> List[str]:
        """Remove what the builder keeps of its builds; what is left of that, as lines."""
        if not self.engine:
            return []
        with ThreadPoolExecutor(2) as pool:
            steps = [pool.submit(step) for step in (self.prune, self.forget)]
            return [line for step in steps for line in step.result()]

    def prune(self) -> List[str]:
        ran = self.run(_docker.cache_prune(self.name, self.params["builder"]))
        if ran.rc == 0:
            return []
        self.errors.append("docker buildx prune: " + "; ".join(ran.err.splitlines()))
        return ["cache mounts of its builds"]

    def forget(self) -> List[str]:
        """Remove the records of its builds, and what buildx has noted of them."""
        noted = sorted(self.noted)
        if not noted:
            return []
        builder = self.params["builder"] or "default"
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

    def records(self) -> List[str]:
        """The files in which buildx has noted this preview's builds, each named by its record."""
        builder, folder = self.params["builder"], self.folder + "/"
        if not builder:
            return glob.glob(glob.escape(folder + _docker.BUILDX) + "/refs/default/*/*")
        refs = os.path.join(_docker.client_folder(), "buildx", "refs", builder)
        noted = glob.glob(glob.escape(refs) + "/*/*")
        return [file for file in noted if build_of(file).startswith(folder)]

    def unlink(self, path: str) -> None:
        try:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            elif os.path.lexists(path):
                os.unlink(path)
        except OSError as error:
            self.errors.append("remove {0}: {1}".format(path, error))

    def remove(self, seen: Seen, gateway: Optional[Seen]) -> None:
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

    def teardown(self, check: bool) -> Tuple[List[str], List[str], List[str]]:
        """Remove and look again until nothing is left: what was removed, is left, is foreign."""
        seen, foreign, gateway = self.observe()
        left = _docker.leftovers(seen)
        if check:
            return left, left, foreign
        settle, patience = self.params["settle"], self.params["timeout"]
        removed: List[str] = []
        began = time.monotonic()
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
