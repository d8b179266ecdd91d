# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A preview's place at the gateway of its host: the edge network, who is on it, and the file."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence

from ansible_collections.ephemera.preview.plugins.module_utils import _docker, _route, _run

# Traefik reads .yaml, and ignores .json; what is being written ends in neither.
SUFFIX = ".yaml"
ANSWER = 120  # seconds for one engine call
SECRETS = frozenset({"users", "certFile", "keyFile"})
LISTED = "\t".join(
    ("{{.ID}}", "{{.Names}}", "{{.Networks}}")
    + tuple('{{.Label "com.docker.compose.%s"}}' % key for key in ("project", "service", "oneoff"))
)

_ON = "{{range $name, $end := .NetworkSettings.Networks}} {{$name}}{{end}}"
STANDING = ("--format", "{{.State.Status}}" + _ON)


class RouteFailed(Exception):
    """The gateway can't be led there. The message says why and what to do."""


def run(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """The program of the module ``route``, whose options ``params`` are."""
    try:
        return Route(params, check).run()
    except (RouteFailed, _docker.EngineError) as failed:
        return {"failed": True, "msg": str(failed)}


class Container(NamedTuple):
    id: str
    name: str
    networks: List[str]
    project: str
    service: str
    oneoff: bool


class Route:
    def __init__(self, params: Mapping[str, Any], check: bool) -> None:
        self.params = params
        self.check = check
        self.name = params["name"]
        if not re.match(r"\.?[a-z0-9][a-z0-9.-]{0,199}\Z", self.name):
            raise RouteFailed("{0!r} is not a preview's name.".format(self.name))
        self.directory = params["directory"]
        self.path = os.path.join(self.directory, self.name + SUFFIX)

    def run(self) -> Dict[str, Any]:
        content = self.params["content"]
        try:
            after = _route.serialise(content)
        except ValueError as error:
            raise RouteFailed(str(error)) from None
        before = self.read(self.path)
        self.refuse_taken(_route.hosts(content))
        # Attached before it leads there.
        changed = bool(self.params["edge"]) and self.attach(self.params["edge"])
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
                raise RouteFailed(
                    "{0}/{1} was not written by ephemera.preview. One file that Traefik cannot "
                    "read keeps it from reading all others, so nothing else may lie in that "
                    "folder. Move it away.".format(self.directory, file)
                ) from None
            if taken:
                raise RouteFailed(
                    "{0} belongs to the preview {1} already. Take that one down, or give the "
                    "app another preview_host_format or preview_domain.".format(
                        ", ".join(sorted(taken)), file[: -len(SUFFIX)]
                    )
                )

    def write(self, text: str) -> None:
        if self.check:
            return
        draft = os.path.join(self.directory, ".{0}.draft".format(self.name))
        try:
            with open(draft, "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            raise RouteFailed(
                "{0} does not exist, so no gateway was set up on this host. Run the playbook "
                "ephemera.preview.gateway.".format(self.directory)
            ) from None
        os.rename(draft, self.path)

    def attach(self, edge: Dict[str, Any]) -> bool:
        """Make the network, and attach who belongs there. True when that is a change."""
        ps = functools.partial(self.docker, "ps", "--all", "--no-trunc", "--format", LISTED)
        network_ls = functools.partial(self.docker, "network", "ls", "--format", "{{.Name}}")
        listed, networks = _side_by_side([ps, network_ls])
        containers = [
            Container(ident, name, on.split(","), project, service, oneoff == "True")
            for ident, name, on, project, service, oneoff in (
                line.split("\t") for line in listed.splitlines()
            )
        ]
        gateway = [c for c in containers if c.name == self.params["gateway"]]
        if not gateway and not self.check:
            raise RouteFailed(
                "No gateway runs on this host. Run the playbook ephemera.preview.gateway."
            )
        exposed = [
            c
            for c in containers
            if c.project == self.name and not c.oneoff and c.service in edge["aliases"]
        ]
        missing = [c for c in gateway + exposed if edge["name"] not in c.networks]
        made = edge["name"] not in networks.splitlines()
        if made and not self.check:
            bridge = "com.docker.network.bridge.name=" + edge["bridge"]
            labels = ["--label={0}={1}".format(*label) for label in sorted(edge["labels"].items())]
            options = ["--driver=bridge", "--internal", "--opt", bridge, *labels]
            self.docker("network", "create", *options, "--subnet", edge["subnet"], edge["name"])
        aliases = {c.id: edge["aliases"][c.service] for c in exposed}
        if not self.check:
            connect = functools.partial(self.connect, edge["name"])
            _side_by_side([functools.partial(connect, c, aliases.get(c.id, "")) for c in missing])
        return made or bool(missing)

    def connect(self, network: str, container: Container, alias: str, tries: int = 3) -> None:
        """Attach one. A service that ends just then is left to who verifies, and says why."""
        named = ["--alias", alias] if alias else []
        try:
            self.docker("network", "connect", *named, network, container.id)
        except RouteFailed:
            ran = _run.engine(["docker", "container", "inspect", *STANDING, container.id], ANSWER)
            state, *networks = ran.out.split() or [""]
            # What ended meanwhile and was started again is on the network since.
            if alias and (state != "running" or network in networks):
                return
            if not alias or tries == 1:
                raise
            self.connect(network, container, alias, tries - 1)

    def docker(self, *arguments: str) -> str:
        call = ["docker", *arguments]
        ran = _run.engine(call, ANSWER)
        if ran.rc:
            raise RouteFailed("{0}: {1}".format(" ".join(call), (ran.err or ran.out).strip()))
        return ran.out


def _side_by_side(calls: Sequence[Callable[[], Any]]) -> List[Any]:
    with ThreadPoolExecutor(max_workers=4) as pool:
        return [each.result() for each in [pool.submit(call) for call in calls]]


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
