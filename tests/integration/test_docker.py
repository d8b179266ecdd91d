"""The life of a preview on a Docker host, seen from outside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Platform, an_app, docker
from rich import RICH

GATEWAY = "ephemera-preview-gateway"


@pytest.fixture(scope="module")
def rich(gateway: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A preview of the rich app as number 1, which tests look at and do not change."""
    with an_app(gateway, tmp_path_factory.mktemp("rich")) as platform:
        commit = platform.repository.pull_request(1, "Rich", files=RICH)
        platform.up(1, commit).ok()
        yield platform


def inspect(platform: Platform, container: str) -> dict[str, Any]:
    return dict(json.loads(docker("inspect", f"{platform.name(1)}-{container}"))[0])


def test_a_container_is_bounded_and_publishes_nothing(rich: Platform) -> None:
    name = rich.name(1)
    for container in ("web-1", "api-2", "scheduler-1", "prepare-1", "cache-1"):
        seen = inspect(rich, container)
        host = seen["HostConfig"]
        limits = {"web-1": (64, 0.5, 50), "scheduler-1": (256, 0.5, 256)}  # own ones, and a size
        memory, cpus, pids = limits.get(container, (512, 1, 512))
        assert (host["Memory"], host["PidsLimit"]) == (memory << 20, pids)
        assert host["NanoCpus"] == cpus * 1_000_000_000
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert not host["Privileged"] and not host["CapAdd"]
        assert host["LogConfig"] == {
            "Type": "json-file",
            "Config": {"max-file": "3", "max-size": "10m"},
        }
        assert not any(host["PortBindings"].values())
        exposed = container in ("web-1", "api-2")
        assert set(seen["NetworkSettings"]["Networks"]) == (
            {f"{name}_default", f"{name}_edge"} if exposed else {f"{name}_default"}
        )
        sources = [m["Source"] for m in seen["Mounts"] if m["Type"] == "bind"]
        assert all(f"/previews/{name}/source/" in source for source in sources)
    secret = {"DOCKER_HOST", "preview_secret_key"}
    assert not secret & set(docker("inspect", f"{name}-web-1").split('"'))


def test_the_gateway_sees_only_our_names_of_exposed_services(rich: Platform) -> None:
    name = rich.name(1)
    edge = json.loads(docker("network", "inspect", f"{name}_edge"))[0]
    assert edge["Internal"]
    assert sorted(c["Name"] for c in edge["Containers"].values()) == sorted(
        [GATEWAY, f"{name}-web-1", f"{name}-api-1", f"{name}-api-2", f"{name}-api-3"]
    )
    route = json.loads((rich.state / "gateway" / "routes" / f"{name}.yaml").read_text())
    led_to = set(re.findall(r"http://([^:\"]+):", json.dumps(route["http"]["services"])))
    assert led_to == {f"{s}.{name}.preview.internal" for s in ("web", "api")}
    # Nor does it find by name what an author named: that might be what it looks for elsewhere.
    for asked in (*led_to, "web", "api", "cache"):
        found = docker("exec", GATEWAY, "getent", "hosts", asked, check=False)
        assert bool(found) == (asked in led_to), asked
    for host in (*led_to, "cache", "scheduler", f"{name}-cache-1"):
        found = docker("exec", GATEWAY, "getent", "hosts", host, check=False)
        assert bool(found) == (host in led_to), host


def test_names_are_told_without_a_preview_and_are_those_of_one(rich: Platform) -> None:
    real = json.loads(
        docker("inspect", "--format", "{{json .Config.Labels}}", f"{rich.name(1)}-web-1")
    )
    ask = {"app": rich.app, "number": 1, "port": rich.port}
    tasks = [
        {"ephemera.preview.name_info": ask | {"repository": "x"}, "register": "told"},
        {
            "ephemera.preview.name_info": ask | {"number": "42; id"},
            "register": "no",
            "ignore_errors": True,
        },
        {
            "ansible.builtin.debug": {"msg": "{{ told | combine({'no': no.msg}) | to_json }}"},
            "no_log": False,
        },
    ]
    play = rich.folder / "names.yml"
    play.write_text(json.dumps([{"hosts": "preview_apps", "gather_facts": False, "tasks": tasks}]))
    checked = rich.play(str(play), "--check").ok()
    assert checked.changed == 0
    told = json.loads(json.loads(re.findall(r'"msg": ("\{.*\}")', checked.out)[-1]))
    assert told["names"]["name"] == rich.name(1)
    assert told["names"]["url"] == f"http://{rich.name(1)}.localhost:{rich.port}"
    labels = {k: v for k, v in told["names"]["labels"].items() if "owner" not in k}
    assert labels.items() <= real.items()
    assert "number: '42; id' is refused" in told["no"]
