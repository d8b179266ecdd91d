"""The observer: what the engine prints, taken apart; what is ours, and what only looks so."""

from __future__ import annotations

import json
import shutil
import subprocess
from types import MappingProxyType

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _docker

OURS = MappingProxyType({"ephemera.preview/name": "shop-pr-1", "ephemera.preview/owner": "a" * 16})


def container(name, labels=OURS, project="shop-pr-1", **of):
    raw = {
        "ID": "1",
        "Names": name,
        "Image": "busybox",
        "State": "running",
        "Status": "Up 5 seconds (healthy)",
        "Networks": "shop-pr-1_default,shop-pr-1_edge",
        "CreatedAt": "now",
        "Mounts": "shop-pr-1_data,/srv/x," + "f" * 64,
        "compose.service": "web",
        "compose.oneoff": "False",
        "compose.image": "sha256:1",
        "compose.project": project,
        **dict.fromkeys((f"ephemera.preview/{key}" for key in _docker._LABELS), ""),
        **labels,
    }
    return "container\t" + json.dumps(raw | of)


def named(kind, name, labels=OURS, **of):
    labels = None if labels is None else dict(labels)
    return f"{kind}\t" + json.dumps({"Name": name, "Labels": labels, **of})


def parse(*lines, name=""):
    return _docker.parse("\n".join([*lines, "now\t100"]), name)


def test_a_host_is_read_in_one_go():
    seen = parse(
        container(_docker.GATEWAY, {}, project=_docker.GATEWAY),
        container("shop-pr-1-web-1"),
        named("network", "shop-pr-1_edge", Config=[{"Subnet": "10.213.0.0/26"}]),
        named("network", "bridge", None, Config=[{"Subnet": "172.17.0.0/16"}]),
        named("volume", "shop-pr-1_data", CreatedAt="then"),
        "image\t"
        + json.dumps({"Repository": "ephemera-preview/gone-pr-2/web", "Tag": "1"} | {"ID": "2"}),
        "folder\tshop-pr-1",
        'state\tshop-pr-1\t{"status": "ready"}',
        "lease\tshop-pr-1\ta 99 up host 1 1",
        "route\tshop-pr-1\tabc",
    )
    assert sorted(seen["previews"]) == ["gone-pr-2", "shop-pr-1"]
    shop = seen["previews"]["shop-pr-1"]
    assert _docker.leftovers(shop) == [
        "container shop-pr-1-web-1",
        "network shop-pr-1_edge",
        "volume shop-pr-1_data",
        "route shop-pr-1.yaml",
        "state folder previews/shop-pr-1",
    ]
    assert shop["containers"][0]["health"] == "healthy"
    shop["state"]["anonymous"] = ["e" * 64]
    assert _docker.anonymous(shop) == ["e" * 64, "f" * 64]
    del shop["state"]["anonymous"]
    assert (shop["state"], shop["lease"]) == ({"status": "ready"}, "a 99 up host 1 1")
    assert seen["gateway"]["name"] == _docker.GATEWAY
    assert seen["subnets"] == ["10.213.0.0/26", "172.17.0.0/16"]
    assert seen["now"] == 100
    assert (
        "10.213.0.0/26"
        not in parse(
            named("network", "shop-pr-1_edge", Config=[{"Subnet": "10.213.0.0/26"}]),
            name="shop-pr-1",
        )["subnets"]
    ), "a preview's own networks are not in its way"


@pytest.mark.parametrize(
    ("status", "state", "health", "code"),
    [
        ("Up 3 minutes", "running", "", None),
        ("Up 3 minutes (health: starting)", "running", "starting", None),
        ("Up 3 minutes (unhealthy)", "running", "unhealthy", None),
        ("Exited (0) 2 seconds ago", "exited", "", 0),
        ("Restarting (137) 1 second ago", "restarting", "", 137),
        ("Created", "created", "", None),
    ],
)
def test_a_containers_state_is_read_from_its_status(status, state, health, code):
    line = container("shop-pr-1-web-1", Status=status, State=state)
    seen = parse(line)["previews"]["shop-pr-1"]["containers"][0]
    assert (seen["state"], seen["health"], seen["exit_code"]) == (state, health, code)


@pytest.mark.parametrize(
    "line",
    [
        # An image's labels reach its containers: name and project are then somebody else's.
        container("mine", OURS, project=""),
        container("mine", OURS, project="shop-pr-1"),
        container("shop-pr-1-web-9", {}, project=""),
        container("shop-pr-1-web-9", {}, project="shop-pr-1"),
        container("shop-pr-1-web-9", OURS, project="other"),
        named("network", "shop-pr-1_x", {}),
        named("network", "shop-pr-1_x", None),
        named("volume", "shop-pr-1_x", None),
        # A value of one label must not pose as another.
        container("shop-pr-1-x", {"ephemera.preview/app": "a,ephemera.preview/name=shop-pr-1"}),
    ],
)
def test_what_only_looks_like_ours_is_foreign(line):
    seen = parse(line, name="shop-pr-1")["previews"]["shop-pr-1"]
    assert _docker.leftovers(seen) == []
    is_named_so = "mine" not in line or '"compose.project": "shop-pr-1"' in line
    assert len(seen["foreign"]) == is_named_so


def test_pr_12_is_no_part_of_pr_1():
    labels = OURS | {"ephemera.preview/name": "shop-pr-12"}
    seen = parse(
        container("shop-pr-12-web-1", labels, project="shop-pr-12"),
        named("network", "shop-pr-12_default", labels),
        named("volume", "shop-pr-12_data", labels),
        name="shop-pr-1",
    )
    assert list(seen["previews"]) == ["shop-pr-1"]
    assert seen["previews"]["shop-pr-1"] == _docker.empty("shop-pr-1")


def test_a_broken_state_file_is_no_state():
    for text in ("", "{", "[1]", "null"):
        assert parse(f"state\tshop-pr-1\t{text}")["previews"]["shop-pr-1"]["state"] == {}


@pytest.mark.skipif(not shutil.which("sh"), reason="needs a shell")
def test_what_goes_while_it_is_looked_at_is_no_error(tmp_path):
    """A real shell and a `docker` that loses a network between listing and inspecting it."""
    tool = tmp_path / "docker"
    tool.write_text(
        "#!/bin/sh\n"
        'case "$1 $2" in\n'
        '"network ls") echo gone; echo here ;;\n'
        '"network inspect") [ -n "$BROKEN" ] && { echo "$BROKEN" >&2; exit 1; }\n'
        """  printf 'network\\t{"Name": "here", "Config": [{"Subnet": "10.0.0.0/8"}]}\\n'\n"""
        '  echo "Error response from daemon: network gone not found" >&2; exit 1 ;;\n'
        "esac\n"
    )
    tool.chmod(0o755)

    def run(argv, broken=""):
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BROKEN": broken}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        return _docker.Ran(done.returncode, done.stdout, done.stderr)

    assert _docker.observe(run, str(tmp_path))["subnets"] == ["10.0.0.0/8"]
    with pytest.raises(_docker.EngineError, match="permission denied.*docker info"):
        _docker.observe(lambda argv: run(argv, "permission denied"), str(tmp_path))


def test_only_a_newline_ends_a_line():
    """The engine writes other separators as they stand, which a preview may put in a name."""
    line = container("shop-pr-1-web-1", Image="a\x85now\t5", Status="\u2028")
    kind, tab, raw = line.partition("\t")
    seen = parse(kind + tab + json.dumps(json.loads(raw), ensure_ascii=False))
    assert seen["now"] == 100
    assert seen["previews"]["shop-pr-1"]["containers"][0]["state"] == "running"


def test_the_gateways_subnet_and_the_firewall_are_read():
    seen = parse(
        named("network", _docker.GATEWAY, {}, Config=[{"Subnet": "10.213.0.0/26"}]),
        "firewall\t4\t",
        "firewall\t4\t-A DOCKER-USER -j EPHEMERA-PREVIEW",
    )
    assert seen["gateway_subnet"] == "10.213.0.0/26"
    assert seen["firewall"].rules == {4: ["-A DOCKER-USER -j EPHEMERA-PREVIEW"]}
    assert seen["firewall"].said is None
    assert parse("nofirewall\tno root")["firewall"].said == "no root"


def test_when_volumes_were_made_or_why_that_is_not_known():
    def births(*ran):
        return _docker.births(lambda argv: _docker.Ran(*ran), ["a_data", "a_gone"])

    missing = "Error response from daemon: get a_gone: no such volume\n"
    assert births(1, "a_data\t2026-11-21T10:00:00Z\n", missing) == {
        "a_data": "2026-11-21T10:00:00Z"
    }
    with pytest.raises(_docker.EngineError, match="Cannot connect"):
        births(1, "", "Cannot connect to the Docker daemon")
