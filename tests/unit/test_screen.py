# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The screen: its table knows every key of Compose, and nothing dangerous comes through it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _screen, _yaml
from ansible_collections.ephemera.preview.plugins.module_utils._checks import Images
from ansible_collections.ephemera.preview.plugins.module_utils._screen import RULES, Policy, screen
from definitions import PROJECT, compose_program
from hypothesis import given, settings
from hypothesis import strategies as st

POLICY = Policy(PROJECT)


def problems(text: str, policy: Policy = POLICY) -> list[str]:
    """What the screen says of the author's own file."""
    document = _yaml.load(text.encode(), "compose.yaml")
    screened = screen(document.value, policy)
    return [_screen.describe(p, "compose.yaml", document.lines) for p in screened.problems]


def service(text: str) -> str:
    """A file whose one service says this."""
    lines = "".join(f"    {line}\n" for line in text.splitlines())
    return f"services:\n  web:\n    image: nginx:1\n{lines}"


# -- the table ----------------------------------------------------------------------------------


def schema_keys(schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> set[str]:
    """Every key path of Compose's JSON Schema, written as the table writes them."""
    if "$ref" in schema:
        return schema_keys(definitions[schema["$ref"].split("/")[-1]], definitions, path)
    found = {path} if path else set()
    for each in schema.get("oneOf", []) + schema.get("anyOf", []):
        found |= schema_keys(each, definitions, path)
    for key, each in schema.get("properties", {}).items():
        found |= schema_keys(each, definitions, f"{path}.{key}" if path else key)
    for pattern, each in schema.get("patternProperties", {}).items():
        if pattern != "^x-":
            found |= schema_keys(each, definitions, f"{path}.*")
    if "items" in schema:
        found |= schema_keys(schema["items"], definitions, f"{path}[]")
    return found


def judged(path: str) -> bool:
    """Whether the table says something of a key, or of all that is below one it stands under."""
    at = path
    while at:
        rule = RULES.get(at)
        if rule is not None:
            return at == path or rule.verdict in ("refuse", "leave")
        at = at[:-2] if at.endswith("[]") else at.rpartition(".")[0]
    return False


def test_every_key_of_composes_own_schema_is_in_the_table() -> None:
    program = Path(compose_program()).read_bytes()
    end = program.index(b'"title": "Compose Specification"')
    start = program.rindex(b'{\n  "$schema"', 0, end)
    text = program[start : start + 500000].decode("utf-8", "replace")
    schema = json.JSONDecoder().raw_decode(text)[0]
    keys = schema_keys(schema, schema.get("$defs") or schema["definitions"])
    assert len(keys) > 350
    assert sorted(key for key in keys if not judged(key)) == []
    # Keys of Compose versions after the one that is installed.
    newer = re.compile(r"services\.\*\.(pre_start|pull_refresh_after|build\.no_cache_filter)")
    assert [key for key in RULES if key not in keys and not newer.match(key)] == []


def test_a_key_that_is_not_in_the_table_is_refused() -> None:
    (only,) = problems(service("new_key: {a: b}"))
    assert only == (
        'compose.yaml:4: services.web.new_key: {"a": "b"} is refused: this key is not known, and '
        "no setting allows it. docs/compose.md lists those that are."
    )
    assert "did you mean privileged" in problems(service("priviliged: true"))[0]
    assert "did you mean x-preview" in problems(service("x-previw: {}"))[0]
    assert "did you mean services" in problems("service: {}\nservices: {web: {image: nginx}}")[0]
    assert problems(service("x-anything: {a: 1}")) == []


REFUSED = [key for key, rule in RULES.items() if rule.verdict == "refuse"]


def holding(pattern: str, value: Any) -> dict[str, Any]:
    """A document in which a key of the table has a value."""
    for part in reversed(re.findall(r"\[\]|[^.\[\]]+", pattern)):
        value = [value] if part == "[]" else {"web" if part == "*" else part: value}
    return value


@pytest.mark.parametrize("pattern", REFUSED)
def test_every_refused_key_is_refused_by_name(pattern: str) -> None:
    document = holding(pattern, "x")
    document.setdefault("services", {}).setdefault("web", {}).setdefault("image", "nginx")
    screened = screen(document, POLICY)
    path = pattern.replace("*", "web").replace("[]", "[0]")
    said = [_screen.describe(p, "compose.yaml", {}) for p in screened.problems]
    assert any(s.startswith(f"compose.yaml: {path}: x is refused: ") for s in said), said
    assert json.dumps(screened.value).count('"x"') == 0


@pytest.mark.parametrize("pattern", REFUSED)
@pytest.mark.parametrize("value", [None, False, "", [], {}], ids=repr)
def test_what_asks_for_nothing_is_let_through(pattern: str, value: Any) -> None:
    rule = RULES[pattern]
    walk = _screen._Walk(POLICY)
    assert walk.refused(rule, ("a",), value) == (False, None)
    assert walk.problems == []


# -- what an author may try ---------------------------------------------------------------------

DANGEROUS = {
    "privileged": "privileged: true",
    "privileged-text": "privileged: 'true'",
    "privileged-variable": "privileged: ${X:-true}",
    "network_mode": "network_mode: host",
    "network_mode-container": "network_mode: container:other",
    "network_mode-variable": "network_mode: ${X:-host}",
    "pid": "pid: host",
    "ipc": "ipc: host",
    "uts": "uts: host",
    "userns_mode": "userns_mode: host",
    "cgroup": "cgroup: host",
    "cgroup_parent": "cgroup_parent: /",
    "use_api_socket": "use_api_socket: true",
    "cap_add": "cap_add: [SYS_ADMIN]",
    "cap_add-variable": "cap_add: ['${X:-SYS_ADMIN}']",
    "devices": "devices: [/dev/kmsg]",
    "device_cgroup_rules": "device_cgroup_rules: ['c 1:3 mr']",
    "gpus": "gpus: all",
    "security_opt": "security_opt: [seccomp:unconfined]",
    "security_opt-with-harmless": "security_opt: ['no-new-privileges:true', 'apparmor:unconfined']",
    "sysctls": "sysctls: {kernel.core_pattern: '|/x'}",
    "sysctls-list": "sysctls: [net.ipv4.ip_forward=1]",
    "group_add": "group_add: [docker]",
    "volumes_from": "volumes_from: ['container:other']",
    "external_links": "external_links: [other]",
    "links": "links: [db]",
    "provider": "provider: {type: ./x.sh}",
    "post_start": "post_start: [{command: id, privileged: true}]",
    "pre_stop": "pre_stop: [{command: id}]",
    "pre_start": "pre_start: [{command: id}]",
    "label_file": "label_file: /etc/hosts",
    "extends": "extends: {file: /etc/x.yaml, service: a}",
    "extends-own": "extends: other",
    "credential_spec": "credential_spec: {file: /x}",
    "runtime": "runtime: other",
    "oom_score_adj": "oom_score_adj: -1000",
    "oom_kill_disable": "oom_kill_disable: true",
    "dns": "dns: 10.0.0.1",
    "dns_search": "dns_search: [internal]",
    "mac_address": "mac_address: 02:42:ac:11:65:43",
    "models": "models: [m]",
    "deploy.resources.reservations.devices": (
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}"
    ),
    "build.ssh": "build: {context: ., ssh: [default]}",
    "build.entitlements": "build: {context: ., entitlements: [security.insecure]}",
    "build.privileged": "build: {context: ., privileged: true}",
    "build.network": "build: {context: ., network: host}",
    "build.network-variable": "build: {context: ., network: '${X:-host}'}",
    "build.extra_hosts": "build: {context: ., extra_hosts: ['a:host-gateway']}",
    "build.tags": "build: {context: ., tags: ['postgres:17']}",
    "build.labels": "build: {context: ., labels: {a: b}}",
    "build.cache_from": "build: {context: ., cache_from: ['type=local,src=/']}",
    "build.cache_to": "build: {context: ., cache_to: ['type=local,dest=/x']}",
    "build.secrets": "build: {context: ., secrets: [token]}",
    "build.secrets-long": "build: {context: ., secrets: [{source: token}]}",
    "build.args": "build: {context: ., args: {BUILDKIT_SYNTAX: evil/frontend}}",
    "build.args-proxy": "build: {context: ., args: {HTTP_PROXY: 'http://evil.example:3128'}}",
    "build.args-proxy-list": "build: {context: ., args: [all_proxy=http://evil.example:3128]}",
    "build.args-list": "build: {context: ., args: [buildkit_cache_mount_ns=x]}",
    "build.args-name": "build: {context: ., args: ['${X:-BUILDKIT_SYNTAX}=evil']}",
    "build": "build: https://example.org/x.git",
    "build-github": "build: github.com/a/b",
    "build-scp": "build: git@example.org:a/b",
    "build-absolute": "build: /etc",
    "build-variable": "build: ${X:-/etc}",
    "build.context": "build: {context: 'ssh://x/y'}",
    "build.dockerfile": "build: {context: ., dockerfile: /etc/passwd}",
    "build.dockerfile-variable": "build: {context: ., dockerfile: '${X:-/etc/passwd}'}",
    "build.additional_contexts": "build: {context: ., additional_contexts: {a: /etc}}",
    "build.additional_contexts-url": (
        "build: {context: ., additional_contexts: {a: 'docker-image://x'}}"
    ),
    "build.additional_contexts-list": "build: {context: ., additional_contexts: ['a=/etc']}",
    "env_file": "env_file: /etc/hosts",
    "env_file-list": "env_file: [{path: ~/.ssh/id}]",
    "env_file-variable": "env_file: ['${X:-/etc/hosts}']",
    "env_file-required": "env_file: [{path: x, required: '${X:-false}'}]",
    "volumes": "volumes: ['/:/host']",
    "volumes-ro": "volumes: ['/etc:/host:ro']",
    "volumes-socket": "volumes: ['/var/run/docker.sock:/s:ro']",
    "volumes-comma": "volumes: ['./x,y:/d:ro']",
    "volumes-home": "volumes: ['~/.ssh:/s:ro']",
    "volumes-variable": "volumes: ['${X:-/}:/host']",
    "volumes-named-variable": "volumes: ['data:${X:-/a:/b}']",
    "volumes-writable": "volumes: ['./src:/src']",
    "volumes-options": "volumes: ['./src:/src:ro,rshared']",
    "volumes-windows": "volumes: ['C:\\x:/y:ro']",
    "volumes-pipe": "volumes: ['\\\\.\\pipe\\docker_engine:/x']",
    "volumes-dots": "volumes: ['data:/../etc']",
    "volumes-git": "volumes: ['./.git:/git:ro']",
    "volumes-long": "volumes: [{type: bind, source: /, target: /host, read_only: true}]",
    "volumes-long-rw": "volumes: [{type: bind, source: ./x, target: /x}]",
    "volumes-long-variable": (
        "volumes: [{type: bind, source: ./x, target: /x, read_only: '${X:-true}'}]"
    ),
    "volumes-type-variable": "volumes: [{type: '${X:-bind}', source: a, target: /x}]",
    "volumes-type": "volumes: [{type: npipe, source: a, target: /x}]",
    "volumes-image": "volumes: [{type: image, source: a, target: /x}]",
    "volumes-untyped": "volumes: [{source: /, target: /x}]",
    "volumes-propagation": (
        "volumes: [{type: bind, source: ./x, target: /x, read_only: true, "
        "bind: {propagation: rshared}}]"
    ),
    "volumes-subpath": "volumes: [{type: volume, source: a, target: /x, volume: {subpath: ..}}]",
    "networks": "networks: {a: {aliases: [shop-pr-41-db-1]}}",
    "networks-address": "networks: {a: {ipv4_address: 10.0.0.1}}",
    "networks-driver": "networks: {a: {driver_opts: {x: y}}}",
    "networks-unknown": "networks: {a: {new: 1}}",
    "extra_hosts": "extra_hosts: ['h:host-gateway']",
    "extra_hosts-map": "extra_hosts: {h: host-gateway}",
    "extra_hosts-name": "extra_hosts: ['h=example.org']",
    "tmpfs": "tmpfs: /x:size=1m,bind",
    "shm_size": "shm_size: 64g",
    "ulimits": "ulimits: {nofile: 99999999}",
    "ulimits-name": "ulimits: {rtprio: 99}",
    "scale": "scale: 1000",
    "deploy.replicas": "deploy: {replicas: 1000}",
    "labels": "labels: {ephemera.preview/owner: x}",
    "labels-list": "labels: ['ephemera.preview/owner=x']",
    "annotations": "annotations: {Ephemera.Preview/owner: x}",
    "deploy.labels": "deploy: {labels: ['ephemera.preview/name=x']}",
    "stop_grace_period": "stop_grace_period: 24h",
    "environment": "environment: {'A B': c}",
    "environment-merge-key": "environment: {'<<': c}",
    "environment-merge-list": "environment: ['<<=c']",
    "healthcheck": "healthcheck: {test: x, interval: 1ms}",
    "healthcheck-start": "healthcheck: {test: x, start_interval: 1ms}",
    "build-option": "build: ./-f",
    "build.dockerfile-stdin": "build: {context: ., dockerfile: '-'}",
}


@pytest.mark.parametrize("hidden", ["plainly", "by an anchor", "by a merge key", "by both"])
@pytest.mark.parametrize("name", DANGEROUS)
def test_what_reaches_for_the_host_is_refused(name: str, hidden: str) -> None:
    said = DANGEROUS[name]
    key, _colon, value = said.partition(": ")
    text = {
        "plainly": service(said),
        "by an anchor": f"x-a: &a {value}\n" + service(f"{key}: *a"),
        "by a merge key": f"x-a: &a\n  {said}\n" + service("<<: *a"),
        "by both": f"x-a: &a {value}\nx-b: &b\n  tty: true\n  <<: {{{key}: *a}}\n"
        + service("<<: [{init: true}, *b]"),
    }[hidden]
    found = problems(text)
    path = name.split("-")[0]
    assert found and all(f"services.web.{path}" in each for each in found), found
    assert all(" is refused: " in each for each in found)


TOP = {
    "include": "include: [/etc/compose.yaml]",
    "include-url": "include: ['https://example.org/x.git']",
    "models": "models: {m: {model: x}}",
    "networks.a.external": "networks: {a: {external: true}}",
    "networks.a.external-variable": "networks: {a: {external: '${X:-true}'}}",
    "networks.a.external-map": "networks: {a: {external: {name: other}}}",
    "networks.a.name": "networks: {a: {name: shop-pr-41_default}}",
    "networks.a.driver": "networks: {a: {driver: macvlan}}",
    "networks.a.driver_opts": "networks: {a: {driver_opts: {com.docker.network.bridge.name: x}}}",
    "networks.a.ipam": "networks: {a: {ipam: {config: [{subnet: 10.0.0.0/8}]}}}",
    "networks.a.labels": "networks: {a: {labels: {ephemera.preview/owner: x}}}",
    "volumes.a.external": "volumes: {a: {external: true}}",
    "volumes.a.name": "volumes: {a: {name: shop-pr-41_pg}}",
    "volumes.a.name-variable": "volumes: {a: {name: '${X:-other}'}}",
    "volumes.a.driver": "volumes: {a: {driver: nfs}}",
    "volumes.a.driver_opts": "volumes: {a: {driver_opts: {type: none, o: bind, device: /}}}",
    "configs.a.file": "configs: {a: {file: /etc/passwd}}",
    "configs.a.file-variable": "configs: {a: {file: '${X:-/etc/passwd}'}}",
    "configs.a.external": "configs: {a: {external: true}}",
    "configs.a.template_driver": "configs: {a: {content: x, template_driver: golang}}",
    "secrets.a.file": "secrets: {a: {file: ~/.ssh/id_rsa}}",
    "secrets.a.external": "secrets: {a: {external: true}}",
    "secrets.a.driver": "secrets: {a: {driver: vault}}",
    "secrets.a.name": "secrets: {a: {file: ./x, name: other}}",
    "secrets.a.environment": "secrets: {a: {environment: '${X:-HOME}'}}",
    "services.a_b": "services: {a_b: {image: x}}",
    "services.web": "services: {web: 1}",
    "services": "services: []",
}


@pytest.mark.parametrize("name", TOP)
def test_what_reaches_for_the_host_at_the_top_is_refused(name: str) -> None:
    text = TOP[name] + ("" if TOP[name].startswith("services") else "\n" + service("tty: true"))
    found = problems(text)
    path = name.split("-")[0]
    assert found and all(each.split(": ")[1].startswith(path) for each in found), found


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("ephemera-preview/shop-pr-41/web:1", "image of a preview"),
        ("docker.io/ephemera-preview/x", "image of a preview"),
        ("registry.example.org/ephemera-preview/x", "image of a preview"),
        ("deadbeef", "Add a tag: deadbeef:latest"),
        ("a", "Add a tag"),
        ("sha256:" + "0" * 64, "read as the id"),
        ("../x", "no name of an image"),
        ("UPPER", "no name of an image"),
        ("a b", "no name of an image"),
        ("a@sha256:0", "no name of an image"),
        ("", "no name of an image"),
    ],
)
def test_images_that_may_not_run(image: str, reason: str) -> None:
    (only,) = problems(f"services: {{web: {{image: '{image}'}}}}")
    assert "services.web.image" in only and reason in only


@pytest.mark.parametrize(
    "image",
    ["nginx", "postgres:17", "ghcr.io/a/b:c@sha256:" + "0" * 64, "cafe:1"],
)
def test_images_that_may(image: str) -> None:
    assert problems(f"services: {{web: {{image: '{image}'}}}}") == []


@pytest.mark.parametrize(
    ("image", "pattern", "allowed"),
    [
        ("postgres:17", "postgres", True),
        ("docker.io/library/postgres:17", "postgres:*", True),
        ("postgres", "postgres:17", False),
        ("evil/postgres:17", "postgres:*", False),
        ("postgres-evil:17", "postgres", False),
        ("ghcr.io/acme/shop:1", "ghcr.io/acme/*", True),
        ("ghcr.io/acme-evil/shop:1", "ghcr.io/acme/*", False),
        ("docker.io/acme/shop", "ghcr.io/acme/*", False),
        ("postgres:17@sha256:" + "0" * 64, "postgres:17", True),
        ("localhost:5000/acme/shop", "localhost:5000/acme/*", True),
    ],
)
def test_a_list_of_images(image: str, pattern: str, allowed: bool) -> None:
    services = {"web": {"image": image}, "built": {"image": "x", "build": {}}}
    assert bool(_screen.refused_images(services, Images((pattern,)))) is not allowed


LOCAL = [
    "localhost/x",
    "localhost:5000/x",
    "LOCALHOST/x",
    "localhost.:5000/x",
    "a.localhost/x",
    "localhost.localdomain/x",
    "127.0.0.1:5000/x",
    "127.1/x",
    "10.0.0.7/x",
    "169.254.169.254/x",
    "2130706433:5000/x",
    "0x7f000001:5000/x",
    "0X7F.1/x",
    "017700000001:5000/x",
    "[::1]:5000/x",
    "[::ffff:127.0.0.1]/x",
    "registry:5000/x",
]


@pytest.mark.parametrize("image", LOCAL)
def test_registries_of_the_platforms_own_machines(image: str) -> None:
    (only,) = _screen.refused_images({"web": {"image": image}}, Images())
    assert "preview_registries or preview_base_images" in only.reason
    host = image.partition("/")[0]
    for registry in (host, host + "/acme"):
        assert not _screen.refused_images({"web": {"image": image}}, Images((), (registry,)))


@pytest.mark.parametrize(
    "image", ["x", "acme/x:1", "127/x", "ghcr.io/x", "r.example.org:5000/x", "1.example.org/x"]
)
def test_registries_that_anybody_has(image: str) -> None:
    assert not _screen.refused_images({"web": {"image": image}}, Images())


def test_settings_make_exceptions() -> None:
    text = service("cap_add: [NET_ADMIN, SYS_PTRACE]")
    assert "preview_compose_allow: [cap_add=NET_ADMIN, cap_add=SYS_PTRACE]" in problems(text)[0]
    some = POLICY._replace(allow=frozenset(["cap_add=NET_ADMIN"]))
    assert "preview_compose_allow: [cap_add=SYS_PTRACE]" in problems(text, some)[0]
    both = POLICY._replace(allow=frozenset(["cap_add=NET_ADMIN", "cap_add=SYS_PTRACE"]))
    assert problems(text, both) == []
    sysctl = POLICY._replace(allow=frozenset(["sysctls=net.core.somaxconn=1024"]))
    assert problems(service("sysctls: {net.core.somaxconn: 1024}"), sysctl) == []
    assert problems(service("sysctls: [net.core.somaxconn=1024]"), sysctl) == []
    # No setting allows what gives away the host.
    every = frozenset(["privileged=true", "privileged", "*", "=True"])
    assert (
        "No setting allows it"
        in problems(service("privileged: true"), POLICY._replace(allow=every))[0]
    )
    granted = POLICY._replace(build_secrets=frozenset(["token"]))
    assert problems(service("build: {context: ., secrets: [token]}"), granted) == []


HARMLESS = """\
privileged: false
network_mode: bridge
security_opt: ["no-new-privileges:true"]
networks: [default]
environment:
- A=b
- C
- D=${E:-f}
ports: [80, "8080:80", "127.0.0.1:8443:443/tcp", "${P:-1}:2", "3000-3002"]
volumes: [data:/data, ./conf:/conf:ro, /anonymous, "data:/x:ro,z"]
tmpfs: [/run, "/tmp:size=64m,mode=1777,noexec"]
command: ["sh", "-c", "echo $$HOME", 1, true]
user: ${U:-1000}
healthcheck: {test: [CMD, x], interval: 1m30s, retries: 3, disable: false}
depends_on: [db]
deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 512M, pids: 10}}}
ulimits: {nofile: {soft: 1024, hard: 2048}, memlock: -1}
mem_limit: 512m
cpus: 0.5
shm_size: 64mb
extra_hosts: ["a:10.0.0.1", "b=::1"]
cap_drop: [ALL]
restart: unless-stopped
"""


def test_what_apps_commonly_say_comes_through() -> None:
    document = _yaml.load(service(HARMLESS).encode(), "compose.yaml").value
    screened = screen(document, POLICY)
    assert screened.problems == [] and screened.notes == {}
    taken = screened.value["services"]["web"]
    written = document["services"]["web"]
    left = {"privileged", "network_mode", "security_opt", "networks"}
    assert taken == {key: value for key, value in written.items() if key not in left}


def test_what_is_left_out_is_noted_once() -> None:
    text = "services:\n" + "".join(
        f"  {name}: {{image: nginx, container_name: {name}, labels: [x=y], attach: false}}\n"
        for name in ("web", "db")
    )
    screened = screen(_yaml.load(text.encode(), "f").value, POLICY)
    assert screened.value["services"] == {"web": {"image": "nginx"}, "db": {"image": "nginx"}}
    assert _screen.describe_notes(screened.notes, "compose.yaml") == [
        "compose.yaml: container_name is left out (web, db): containers are named by the "
        "platform; services reach each other by service name.",
        "compose.yaml: labels is left out (web, db): labels of containers are the platform's.",
    ]


def test_what_stands_below_a_wrong_name_is_told_too() -> None:
    found = problems("services: {a_b: {image: nginx, pid: host}}")
    assert len(found) == 2 and "Rename it a-b" in found[0] and "a_b.pid" in found[1]


def test_too_many_containers() -> None:
    assert _screen.too_many_containers([10] * 10) == []
    (only,) = _screen.too_many_containers([10] * 10 + [1])
    assert only.value == "101 containers"


@pytest.mark.parametrize("key", ["ports", "expose"])
def test_too_many_ports(key: str) -> None:
    least = {"services": {"web": {key: ["8080", f"1-{_screen.PORTS_MAX - 1}"]}}}
    assert _screen.too_many_ports(least) == []
    more = {"services": least["services"] | {"api": {key: ["80/udp"]}}}
    (only,) = _screen.too_many_ports(more)
    assert only.path == ("services", "api", key)


def test_too_many_services() -> None:
    text = "services:\n" + "".join(f"  s{i}: {{image: nginx}}\n" for i in range(51))
    assert problems(text) == [
        "compose.yaml:1: services: 51 services is refused: a preview has at most 50."
    ]


def test_the_normal_form_is_held_to_the_same_table_without_excuse_for_variables() -> None:
    normal = POLICY._replace(normal=True)
    for value, wrong in (("${X}", True), ("1000", False)):
        document = {"services": {"web": {"image": "nginx", "user": value}}}
        assert bool(screen(document, normal).problems) is wrong
    document = {"name": PROJECT, "volumes": {"pg": {"name": f"{PROJECT}_pg"}}}
    assert _screen.without_names(document, PROJECT) == {"volumes": {"pg": {}}}
    other = {"volumes": {"pg": {"name": "shop-pr-41_pg"}}, "services": {"web": {"image": "nginx"}}}
    assert screen(_screen.without_names(other, PROJECT), normal).problems


# -- any structure at all -----------------------------------------------------------------------

keys = st.sampled_from(sorted({part for p in RULES for part in re.split(r"[.\[\]]+", p) if part}))
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
    | st.sampled_from(["./x:/y:ro", "/:/x", "${X:-y}", "8000:80", "a=b", "10s", "64m", "."])
)
structures = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=30,
)


@given(structures, st.booleans())
@settings(max_examples=500)
def test_no_structure_does_anything_but_pass_or_be_refused(value: Any, normal: bool) -> None:
    policy = POLICY._replace(normal=normal)
    for document in (value, {"services": {"web": value}}, {"services": value, "volumes": value}):
        screened = screen(document, policy)
        for problem in screened.problems:
            assert _screen.describe(problem, "compose.yaml", {}).startswith("compose.yaml: ")
        _screen.long_mounts(screened.value)
        for key in _keys(screened.value):
            rule = RULES[key]
            assert rule.verdict == "take" or rule.allow


def _keys(value: Any, pattern: str = "") -> list[str]:
    """The table's keys for all that a screened document holds."""
    found = []
    below = _screen._BELOW[pattern]
    if isinstance(value, dict) and pattern not in ("services.*.sysctls",):
        for key, item in value.items():
            child = below.get(key, below.get("*")) if key != "*" else below.get("*")
            if child:
                found += [child, *_keys(item, child)]
    elif isinstance(value, list) and pattern + "[]" in RULES:
        for item in value:
            found += [pattern + "[]", *_keys(item, pattern + "[]")]
    return found
