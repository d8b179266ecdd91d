# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What docs/compose.md says of a key on a Docker host and in a cluster is what the code does.

Each key of its table is read from a Compose file with it and from one without it, and both are
planned for both targets. What is compared is what would be applied, and the notes.
"""

from __future__ import annotations

import base64
import copy
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from ansible_collections.ephemera.preview.plugins.module_utils import _definition, _plan, _screen
from ansible_collections.ephemera.preview.plugins.module_utils._refusal import Refused
from definitions import PROJECT, compose_program, write
from test_compose_docs import PAGE, written
from test_plan import identity, settings

BEGIN, END = "<!-- targets: begin -->\n", "<!-- targets: end -->\n"
FILES = {
    "Dockerfile": "FROM busybox\n",
    "other/Dockerfile": "FROM busybox AS first\nFROM busybox\n",
    "conf/app.ini": "[app]\n",
    "token.txt": "token\n",
    "some.env": "A='1'\n",
}
WEB = {"build": ".", "ports": [8000]}
VOLUME = {"type": "volume", "source": "data", "target": "/data", "volume": {"nocopy": True}}
MEMORY = {"type": "tmpfs", "target": "/scratch"}
CHECK = {"test": ["CMD", "true"], "interval": "5s"}
TOP = {
    "volumes": {"data": {}, "other": {}},
    "configs": {"text": {"content": "a"}, "file": {"file": "./token.txt"}},
    "secrets": {"text": {"environment": "PREVIEW_NAME"}, "file": {"file": "./token.txt"}},
}
ALLOWED = [
    "cap_add=NET_ADMIN",
    "sysctls=net.core.somaxconn=1024",
    "group_add=1000",
    "group_add=audio",
    "dns=192.0.2.1",
    "dns_opt=use-vc",
    "dns_search=example.org",
]


class Sample(NamedTuple):
    """The service ``web`` with a key and without it, and what else is in both files."""

    given: dict[str, Any]
    without: dict[str, Any] = {}
    services: dict[str, Any] = {}
    top: dict[str, Any] = {}


def build(without: Any = ".", **keys: Any) -> Sample:
    return Sample({"build": {"context": ".", **keys}}, {"build": without})


def volume(of: dict[str, Any], without: dict[str, Any] | None, **keys: Any) -> Sample:
    return Sample({"volumes": [of | keys]}, {"volumes": [of | without]} if without else {})


def file(kind: str, name: str, **keys: Any) -> Sample:
    return Sample({kind: [{"source": name, **keys}]}, {kind: [{"source": name}]})


def check(**keys: Any) -> Sample:
    return Sample({"healthcheck": CHECK | keys}, {"healthcheck": CHECK})


def waits(name: str, condition: str = "service_started", **service: Any) -> Sample:
    return Sample({"depends_on": {name: {"condition": condition}}}, {}, {name: service})


def limit(**limits: Any) -> Sample:
    return Sample({"deploy": {"resources": {"limits": limits}}})


def top(kind: str, **one: Any) -> Sample:
    """A config or secret that is another one in the file to compare with."""
    return Sample({kind: ["one"]}, {kind: ["text"]}, top={kind: {"one": one}})


JOB = {"build": ".", "command": ["true"]}
BUILD_SECRET = {"secrets": {"npm": {"environment": "NPM"}}}
SAMPLES = {
    "services": Sample({}, {"build": "other"}),
    "networks": Sample({}, top={"networks": {"front": {}}}),
    "volumes": volume(VOLUME, None),
    "configs": Sample({"configs": ["text"]}),
    "configs.*.file": top("configs", file="./token.txt"),
    "configs.*.content": top("configs", content="b"),
    "configs.*.environment": top("configs", environment="PREVIEW_HOST"),
    "secrets": Sample({"secrets": ["file"]}),
    "secrets.*.file": top("secrets", file="./token.txt"),
    "secrets.*.environment": top("secrets", environment="PREVIEW_HOST"),
    ".image": Sample(
        {"build": None, "image": "redis:8"},
        {"build": None, "image": "redis:7"},
        {"app": {"build": "."}},
    ),
    ".build": build("./other"),
    ".build.context": build({"context": "./other"}),
    ".build.dockerfile": build(dockerfile="./other/Dockerfile"),
    ".build.dockerfile_inline": build(dockerfile_inline="FROM busybox\n"),
    ".build.target": build({"context": "other"}, context="other", target="first"),
    ".build.args": build(args={"A": "1"}),
    ".build.additional_contexts": build(additional_contexts={"more": "./other"}),
    ".build.secrets": build(secrets=["npm"])._replace(top=BUILD_SECRET),
    ".build.secrets.source": build(secrets=[{"source": "npm"}])._replace(top=BUILD_SECRET),
    ".build.secrets.target": build(
        {"context": ".", "secrets": ["npm"]}, secrets=[{"source": "npm", "target": "other"}]
    )._replace(top=BUILD_SECRET),
    ".command": Sample({"command": ["a", "b"]}),
    ".entrypoint": Sample({"entrypoint": ["a", "b"]}),
    ".entrypoint (empty, with a command)": Sample(
        {"entrypoint": [], "command": ["a"]}, {"command": ["a"]}
    ),
    ".entrypoint (empty, without a command)": Sample({"entrypoint": []}),
    ".environment": Sample({"environment": {"A": "1"}}),
    ".environment (names with `:` or `/`, or a digit first)": Sample(
        {"environment": {"Logging:Level": "1"}}
    ),
    ".env_file": Sample({"env_file": "some.env"}),
    ".env_file.path": Sample({"env_file": [{"path": "some.env"}]}),
    ".env_file.format": Sample(
        {"env_file": [{"path": "some.env", "format": "raw"}]}, {"env_file": "some.env"}
    ),
    ".env_file.required": Sample(
        {"env_file": [{"path": "none.env", "required": False}]}, {"env_file": "none.env"}
    ),
    ".user (numbers, or `root`)": Sample({"user": "1000:1000"}),
    ".user (another name)": Sample({"user": "node"}),
    ".working_dir": Sample({"working_dir": "/srv"}),
    ".tty": Sample({"tty": True}),
    ".stdin_open": Sample({"stdin_open": True}),
    ".read_only": Sample({"read_only": True}),
    ".init": Sample({"init": True}),
    ".stop_signal": Sample({"stop_signal": "SIGINT"}),
    ".stop_grace_period": Sample({"stop_grace_period": "1m"}),
    ".profiles": Sample({"profiles": ["dev"]}, {}, {"app": {"build": ".", "ports": [8000]}}),
    ".restart (`no`)": Sample({"restart": "no", "ports": []}, {"ports": []}, {"app": WEB}),
    ".restart (`on-failure`)": Sample({"restart": "on-failure"}),
    ".ports": Sample({"ports": [9000]}),
    ".ports.target": Sample({"ports": [{"target": 9000}]}),
    ".ports.protocol": Sample(
        {"ports": [8000, {"target": 53, "protocol": "udp"}]}, {"ports": [8000, 53]}
    ),
    ".expose": Sample({"expose": ["9000-9002", "53/udp"]}),
    ".depends_on (a data service)": waits("db", image="redis:8"),
    ".depends_on (one that ends)": waits("job", "service_completed_successfully", **JOB),
    ".depends_on (another one)": waits("app", build="."),
    ".depends_on.*.condition": Sample(
        {"depends_on": {"job": {"condition": "service_completed_successfully"}}},
        {"depends_on": {"job": {"condition": "service_started"}}},
        {"job": JOB},
    ),
    ".depends_on.*.required": Sample(
        {"depends_on": {"app": {"condition": "service_started", "required": False}}},
        {"depends_on": {"app": {"condition": "service_started"}}},
        {"app": {"image": "redis:8", "profiles": ["dev"]}},
    ),
    ".extra_hosts": Sample({"extra_hosts": {"other": "192.0.2.1"}}),
    ".extra_hosts (a name that is none of DNS, as `my_host`)": Sample(
        {"extra_hosts": {"my_host": "192.0.2.1"}}
    ),
    ".volumes": volume(VOLUME, None),
    ".volumes.type": volume({"target": "/a"}, {"type": "volume"}, type="tmpfs"),
    ".volumes.source (a volume)": volume(VOLUME, {"source": "other"}),
    ".volumes.source (a file or folder)": volume(
        {"type": "bind", "target": "/a", "read_only": True},
        {"source": "./token.txt"},
        source="./conf",
    ),
    ".volumes.target": volume(VOLUME, {"target": "/other"}),
    ".volumes.read_only": volume(VOLUME, {"read_only": False}, read_only=True),
    ".volumes.volume": volume(VOLUME, {"volume": {}}),
    ".volumes.volume.nocopy": volume(VOLUME, {"volume": {"nocopy": False}}),
    ".volumes.tmpfs": volume(MEMORY, {"tmpfs": {}}, tmpfs={"size": "1m"}),
    ".volumes.tmpfs.size": volume(MEMORY, {"tmpfs": {}}, tmpfs={"size": "1m"}),
    ".volumes.tmpfs.mode": volume(MEMORY, {"tmpfs": {}}, tmpfs={"mode": 0o700}),
    ".tmpfs": Sample({"tmpfs": ["/scratch:size=1m"]}),
    ".tmpfs (options other than `size`)": Sample(
        {"tmpfs": ["/scratch:size=1m,mode=700"]}, {"tmpfs": ["/scratch:size=1m"]}
    ),
    ".healthcheck": Sample({"healthcheck": CHECK}),
    ".healthcheck (beside `health` of `x-preview`)": Sample(
        {"healthcheck": CHECK, "x-preview": {"health": "/"}}, {"x-preview": {"health": "/"}}
    ),
    ".healthcheck.test": check(test=["CMD", "other"]),
    ".healthcheck.interval": check(interval="9s"),
    ".healthcheck.timeout": check(timeout="9s"),
    ".healthcheck.retries": check(retries=9),
    ".healthcheck.start_period": check(start_period="90s"),
    ".healthcheck.start_interval": check(start_interval="2s"),
    ".healthcheck.disable": check(disable=True),
    ".scale": Sample({"scale": 3}),
    ".deploy.replicas": Sample({"deploy": {"replicas": 3}}),
    ".deploy.replicas (of a service that is run once)": Sample(
        {"restart": "no", "ports": [], "deploy": {"replicas": 3}},
        {"restart": "no", "ports": []},
        {"app": WEB},
    ),
    ".mem_limit": Sample({"mem_limit": "64m"}),
    ".cpus": Sample({"cpus": 0.25}),
    ".pids_limit": Sample({"pids_limit": 50}),
    ".deploy": limit(memory="64m"),
    ".deploy.resources": limit(memory="64m"),
    ".deploy.resources.limits": limit(memory="64m"),
    ".deploy.resources.limits.memory": limit(memory="64m"),
    ".deploy.resources.limits.cpus": limit(cpus="0.25"),
    ".deploy.resources.limits.pids": limit(pids=50),
    ".deploy.resources.reservations": Sample(
        {"deploy": {"resources": {"reservations": {"memory": "64m"}}}}
    ),
    ".shm_size": Sample({"shm_size": "64m"}),
    ".ulimits": Sample({"ulimits": {"nofile": 1024}}),
    ".ulimits.*.soft": Sample({"ulimits": {"nofile": {"soft": 512, "hard": 1024}}}),
    ".ulimits.*.hard": Sample({"ulimits": {"nofile": {"soft": 512, "hard": 1024}}}),
    ".cap_drop": Sample({"cap_drop": ["CHOWN"]}),
    ".cap_add (where it is allowed)": Sample({"cap_add": ["NET_ADMIN"]}),
    ".sysctls (where they are allowed)": Sample({"sysctls": {"net.core.somaxconn": "1024"}}),
    ".group_add (numbers, where they are allowed)": Sample({"group_add": ["1000"]}),
    ".group_add (a name, where it is allowed)": Sample({"group_add": ["audio"]}),
    ".dns (where it is allowed)": Sample({"dns": ["192.0.2.1"]}),
    ".dns_opt (where they are allowed)": Sample({"dns_opt": ["use-vc"]}),
    ".dns_search (where they are allowed)": Sample({"dns_search": ["example.org"]}),
}
for _kind, _made_of in (("configs", "of `content`"), ("secrets", "of `environment`")):
    SAMPLES[f".{_kind}"] = Sample({_kind: ["text"]})
    SAMPLES[f".{_kind}.source"] = Sample({_kind: ["text"]}, {_kind: ["file"]})
    SAMPLES[f".{_kind}.target"] = file(_kind, "text", target="/other")
    for _key, _value in (("uid", "1000"), ("gid", "1000"), ("mode", "0400")):
        SAMPLES[f".{_kind}.{_key} ({_made_of})"] = file(_kind, "text", **{_key: _value})
        SAMPLES[f".{_kind}.{_key} (of a `file`)"] = file(_kind, "file", **{_key: _value})


def rows() -> list[tuple[str, str, str, str]]:
    """Each key of the page's table with what stands behind it, and what each target does."""
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    found = []
    for line in table.splitlines()[2:]:
        keys, docker, kubernetes = (cell.strip() for cell in line.strip("|").split(" | "))
        named, bracket, behind = keys.partition(" (")
        found += [
            (key, bracket + behind, docker, kubernetes) for key in re.findall(r"`(.*?)`", named)
        ]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compose_program()
    return write(tmp_path_factory.mktemp("app"), FILES)


class Outcome(NamedTuple):
    """What would be applied, as text, and the notes; or why nothing is."""

    applied: str = ""
    notes: tuple[str, ...] = ()
    refusal: str = ""


def document(sample: Sample, web: dict[str, Any]) -> str:
    given = {key: value for key, value in (WEB | web).items() if value is not None}
    made = copy.deepcopy(TOP)
    for kind, items in sample.top.items():
        made.setdefault(kind, {}).update(items)
    made["x-preview"] = {"web": "app" if "ports" in sample.services.get("app", {}) else "web"}
    return yaml.safe_dump({**made, "services": {**sample.services, "web": given}})


@cache
def read(folder: Path, text: str) -> dict[str, Any] | str:
    """The definition, or why it is refused."""
    write(folder, {"compose.yaml": text})
    asked = _definition.Request(
        path=str(folder),
        project=PROJECT,
        variables={"PREVIEW_NAME": "shop-pr-42", "PREVIEW_HOST": "shop.example.org"},
        profiles=(),
        allow=frozenset(ALLOWED),
        build_secrets=frozenset(["npm"]),
    )
    try:
        found = _definition.read(asked)
    except Refused as refused:
        return str(refused)
    files = {
        f"./{path}": base64.b64encode(content.encode()).decode() for path, content in FILES.items()
    }
    # The file itself is in the folder that is built: every digest would be another.
    digests = dict.fromkeys(found.digests, "d" * 64)
    return dict(found._asdict(), notes=found.warnings, files=files, digests=digests)


def outcome(folder: Path, text: str, target: str) -> Outcome:
    definition = read(folder, text)
    if isinstance(definition, str):
        return Outcome(refusal=definition)
    given = {"preview_target": target, "preview_registry": "registry.example.org"}
    try:
        made = _plan.complete(identity(**given), definition, settings(**given))
    except _plan.PlanRefused as refused:
        return Outcome(refusal=str(refused))
    project = {key: value for key, value in made.project.items() if key != "notes"}
    others = [[service["build"], service["expose"]] for service in made.preview["services"]]
    return Outcome(json.dumps([project, others]), tuple(made.preview["notes"]))


def test_the_table_lists_every_key_that_is_taken_over() -> None:
    taken = {
        written(key).strip("`")
        for key, rule in _screen.RULES.items()
        if (rule.verdict == "take" and not key.endswith(("*", "[]"))) or rule.allow
    }
    listed = rows()
    assert {key for key, *_rest in listed} == taken
    assert {key + behind for key, behind, *_rest in listed} == set(SAMPLES)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0] + row[1])
def test_a_key_does_on_each_target_what_the_table_says(
    row: tuple[str, str, str, str], folder: Path
) -> None:
    key, behind, *cells = row
    sample = SAMPLES[key + behind]
    named = re.escape(key.removeprefix(".").partition(".*")[0])
    for target, cell in zip(("docker", "kubernetes"), cells, strict=True):
        given = outcome(folder, document(sample, sample.given), target)
        without = outcome(folder, document(sample, sample.without), target)
        added = [note for note in given.notes if note not in without.notes]
        left = [note for note in added if re.search(rf"\b{named}\b.* is left out", note)]
        said = re.split(r"\W", cell)[0]
        if said == "refused":
            assert re.search(rf"services\.web\.{named}:", given.refusal)
            continue
        assert not given.refusal
        same = given.applied == without.applied
        if said == "works":
            assert not same and not left, target
        elif said == "mapped":
            assert (not same or given.notes != without.notes) and not left, target
        elif said == "ignored":
            assert same and left, (target, added)
        else:
            assert said == "always" and same and not added, (target, added)
