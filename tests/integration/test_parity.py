"""What holds wherever a preview lives: each test runs on a Docker host and in a cluster."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import TARGETS, InCluster, Platform, docker, somewhere
from rich import RICH
from tiny import TINY
from visitors import Kept, Visitors

COMPOSE = str(TINY["compose.yaml"])


def test_up_serves_migrated_and_seeded_and_down_leaves_nothing(anywhere: Platform) -> None:
    before = anywhere.traces()
    commit = anywhere.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})

    up = anywhere.up(1, commit).ok()
    assert up.result["outcome"] == "ready"
    assert anywhere.get(1) == (200, "one\n")
    assert anywhere.exec(1, "web", "cat", "/data/log") == "migrated\nseeded"

    again = anywhere.up(1, commit).ok()
    assert (again.changed, again.result["outcome"]) == (0, "unchanged")

    anywhere.down(1).ok()
    assert anywhere.traces() == before
    assert anywhere.get(1)[0] == 404

    assert anywhere.down(1).ok().changed == 0


def test_a_new_commit_redeploys_keeps_the_data_and_migrates_again(anywhere: Platform) -> None:
    tells = COMPOSE.replace("echo migrated", "cat /www/index.html")
    files = {"www/index.html": "one\n", "compose.yaml": tells}
    first = anywhere.repository.pull_request(1, "One", files=files)
    second = anywhere.repository.pull_request(1, "Two", files={"www/index.html": "two\n"})
    anywhere.up(1, first).ok()
    anywhere.exec(1, "cache", "redis-cli", "set", "kept", "yes")
    anywhere.up(1, second).ok()
    assert anywhere.get(1) == (200, "two\n")
    # From the new image.
    assert anywhere.exec(1, "web", "cat", "/data/log") == "one\nseeded\ntwo"
    assert anywhere.exec(1, "cache", "redis-cli", "get", "kept") == "yes"


def test_a_change_of_trust_starts_from_nothing(anywhere: Platform) -> None:
    commit = anywhere.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})
    anywhere.up(1, commit, preview_trusted=False).ok()
    anywhere.exec(1, "web", "sh", "-c", "echo planted > /data/planted")
    check = anywhere.up(1, commit, "--check", preview_trusted=True).ok()
    assert "All of it would be removed first" in check.out and check.changed
    assert "planted" in anywhere.exec(1, "web", "ls", "/data")
    anywhere.up(1, commit, preview_trusted=True).ok()
    assert anywhere.exec(1, "web", "ls", "/data") == "log"
    assert anywhere.exec(1, "web", "cat", "/data/log") == "migrated\nseeded"


# -- one preview that uses all there is ----------------------------------------------------------


# pytest tells one parameter from another by its place, and some tests want the first one only.
@pytest.fixture(scope="module", params=TARGETS[::-1])
def rich(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """A preview of the rich app as number 1, which tests look at and do not change."""
    with somewhere(request, request.param, tmp_path_factory.mktemp("rich")) as platform:
        commit = platform.repository.pull_request(1, "Rich", files=RICH)
        with platform.own_storage() as storage:
            platform.settings |= storage | {"preview_ttl": "3d"}
            platform.up(1, commit).ok()
            yield platform


in_a_cluster = pytest.mark.parametrize("rich", ["kubernetes"], indirect=True)


def test_what_a_compose_file_says_comes_true(rich: Platform) -> None:
    name = rich.name(1)
    urls = {
        "api": f"http://api--{name}.localhost:{rich.port}",
        "web": f"http://{name}.localhost:{rich.port}",
    }
    assert rich.get(1) == (200, "rich\n")
    # The engine's names come in random order: of three, one is missed 50 times once in 10 ** 8.
    hosts = {rich.get(1, host=f"api--{name}.localhost")[1] for dummy in range(50)}
    assert len(hosts) == 3, "every replica answers"
    running = rich.images(1)
    assert sorted(each.split()[0] for each in running) == sorted(
        ["api"] * 3 + ["cache", "scheduler", "web"]
    )
    built = {each.split()[1] for each in running if not each.startswith("cache ")}
    assert len(built) == 1, "built once"
    assert rich.exec(1, "web", "cat", "/built") == f"1 {urls['api']}"
    names = ("ONE", "THREE", "API", "ME", "PRICE")
    environment = {name: rich.exec(1, "web", "sh", "-c", f'echo "${name}"') for name in names}
    assert environment == {
        "ONE": "dotenv",
        "THREE": "env_file preview",
        "API": urls["api"],
        "ME": urls["web"],
        "PRICE": "5$",
    }
    assert rich.exec(1, "cache", "redis-cli", "get", "filled") == "yes"
    hosts = rich.exec(1, "web", "grep", "192.0.2.1", "/etc/hosts").split()
    assert sorted(set(hosts)) == ["192.0.2.1", "one.example.org", "two.example.org"]
    assert rich.exec(1, "web", "cat", "/etc/banner") == f"for {name} at $5"
    assert rich.exec(1, "web", "cat", "/notes.txt") == "read only"
    with pytest.raises(AssertionError, match="Read-only"):
        rich.exec(1, "web", "sh", "-c", "echo no > /notes.txt")
    log = rich.exec(1, "web", "cat", "/data/log").splitlines()
    assert log[:2] == ["migrate", "seed"]
    assert sorted(log[2:]) == [f"after_deploy {urls['api']}", "prepared"]
    # Where its working_dir is.
    told = rich.exec(1, "scheduler", "cat", "told")
    assert told == "$(NAME) $(NAME) yes /tmp 1234:5678", "as it is written"


# How much memory there is stands elsewhere by the version of cgroups.
LOOK_INSIDE = """
cat /proc/1/status
cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes
ls /var/run/secrets 2>&1 || true
"""


@in_a_cluster
def test_a_pod_is_bounded_and_publishes_nothing(rich: InCluster) -> None:
    for service, memory in (("web", 64), ("api", 512), ("scheduler", 256), ("cache", 512)):
        seen = rich.exec(1, service, "sh", "-c", LOOK_INSIDE)
        status = dict(re.findall(r"^(\w+):\t(\S+)$", seen, re.MULTILINE))
        held = {key: status[key] for key in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}
        assert held == {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
        assert f"\n{memory << 20}\n" in seen
        assert "kubernetes.io" not in seen
    for kind in ("nodeport", "loadbalancer"):
        made = rich.kubectl(1, "create", "service", kind, "more", "--tcp=80:80", check=False)
        assert "exceeded quota" in made
    services = json.loads(rich.kubectl(1, "get", "services", "-o", "json"))["items"]
    assert {each["metadata"]["name"] for each in services} == {"api", "cache", "scheduler", "web"}
    for each in services:
        assert each["spec"]["type"] == "ClusterIP" and "externalIPs" not in each["spec"]


# What the observer tells of a preview, of each of its containers, and of each volume.
PREVIEW = {
    **dict.fromkeys(("name", "route", "lease"), str),
    **dict.fromkeys(("containers", "networks", "volumes", "images", "foreign"), list),
    **dict.fromkeys(("applied", "state"), dict),
    "folder": bool,
}
CONTAINER = {
    **dict.fromkeys(("id", "name", "service", "image", "image_id", "state", "health"), str),
    **dict.fromkeys(("created", "project"), str),
    **dict.fromkeys(("networks", "anonymous"), list),
    "oneoff": bool,
    "exit_code": int | None,
    "labels": dict,
}
VOLUME = {"name": str, "labels": dict, "created": str}
STATE = {
    **dict.fromkeys(("status", "commit", "fingerprint", "route", "web"), str),
    **dict.fromkeys(("wanted", "applied", "services"), dict),
    **dict.fromkeys(("volumes", "anonymous"), list),
    "built": int,
}
# What only a cluster tells of them.
MORE_IN_A_CLUSTER = {
    "preview": {"ending": bool, "labels": dict},
    "container": {"why": str, "restarts": int, "ending": bool},
}


def test_what_is_observed_has_one_shape(rich: Platform) -> None:
    more = MORE_IN_A_CLUSTER if rich.target == "kubernetes" else {}
    seen = rich.observed(1)
    check_shape(seen, PREVIEW | more.get("preview", {}))
    for container in seen["containers"]:
        check_shape(container, CONTAINER | more.get("container", {}))
    for volume in seen["volumes"]:
        check_shape(volume, VOLUME)
    check_shape({key: seen["state"][key] for key in STATE}, STATE)
    assert seen["volumes"] and seen["folder"] and seen["route"]
    words = [(each["service"], each["state"], each["exit_code"]) for each in seen["containers"]]
    serve, end = ["api"] * 3 + ["cache", "scheduler", "web"], ["fill", "prepare"]
    wanted = [(name, "running", None) for name in serve] + [(name, "exited", 0) for name in end]
    assert sorted(words, key=str) == sorted(wanted, key=str)


def check_shape(thing: dict[str, Any], shape: dict[str, Any]) -> None:
    assert thing.keys() == shape.keys()
    assert not {key for key, kind in shape.items() if not isinstance(thing[key], kind)}


@in_a_cluster
def test_volumes_have_the_class_and_size_that_are_set(rich: InCluster) -> None:
    claim = json.loads(rich.kubectl(1, "get", "persistentvolumeclaim", "data", "-o", "json"))
    assert claim["status"]["phase"] == "Bound"
    spec = claim["spec"]
    assert spec["storageClassName"] == rich.settings["preview_storage_class"]
    assert spec["resources"]["requests"]["storage"] == rich.settings["preview_volume_size"]


def test_previews_are_listed_for_people_and_programs(rich: Platform) -> None:
    table = rich.play("list").ok().out
    heading, row = re.search(rf"(NAME .*)\n(?:.*\n)*?({rich.name(1)} .*)\n", table).groups()
    assert heading.split() == ["NAME", "PR", "COMMIT", "STATUS", "RUNNING", "AGE", "EXPIRES", "URL"]
    commit = rich.recorded(1)["commit"]
    assert row.split()[:5] == [rich.name(1), "1", commit[:12], "ready", "6/6"]
    assert row.split()[6] in ("2d", "3d")
    assert row.split()[7] == f"http://{rich.name(1)}.localhost:{rich.port}"
    printed = rich.play("list", preview_output="json").ok().out
    listed = json.loads(printed[printed.index("\n[") : printed.index("\n]") + 2])
    (mine,) = (p for p in listed if p["name"] == rich.name(1))
    assert mine["commit"] == commit
    assert mine["expires"] == rich.recorded(1)["expires"]
    assert 0 <= mine["expires"] - mine["updated"] - 3 * 86400 < 600


def test_logs_of_one_service_and_how_to_follow_them(rich: Platform) -> None:
    web = rich.play("logs", preview_number=1, preview_service="cache", preview_tail=1).ok()
    shown = [line for line in web.out.splitlines() if line.startswith("cache-1")]
    assert len(shown) == 1
    assert rich.following(1, "cache") in web.out
    time.sleep(1.1)
    late = rich.play("logs", preview_number=1, preview_service="cache", preview_since="1s").ok()
    assert not [line for line in late.out.splitlines() if line.startswith("cache-1")]
    wrong = rich.play("logs", preview_number=1, preview_service="cahce").refused()
    assert (
        "has no service 'cahce'; it has: api, cache, fill, prepare, scheduler, web"
        in wrong.sentence
    )
    assert "does not exist here" in rich.play("logs", preview_number=404).refused().sentence


def test_a_command_runs_in_a_service(rich: Platform) -> None:
    words = ["sh", "-c", "echo $((6 * 7)) from $ONE"]
    assert "42 from dotenv" in rich.play("run", preview_number=1, preview_command=words).ok().out
    failing = rich.play(
        "run", preview_number=1, preview_service="cache", preview_command=["ls", "/no such"]
    ).refused()
    assert "ls '/no such' ended with code 2 in cache" in failing.sentence
    assert "/no such" in failing.sentence.split("\n", 1)[1]
    checked = rich.play("run", "--check", preview_number=1, preview_command=["false"]).ok()
    assert "would run in web: false" in checked.out
    assert "Say what to run" in rich.play("run", preview_number=1).refused().sentence


@in_a_cluster
def test_of_exactly_one_there_are_never_two(rich: InCluster) -> None:
    """From here on the preview is another."""
    newer = rich.repository.pull_request(1, "Newer", files={"www/index.html": "newer\n"})
    with rich.events(1, "ephemera.preview/service=scheduler") as events:
        rich.up(1, newer).ok()
    assert rich.get(1) == (200, "newer\n")
    running: set[str] = set()
    ran: set[str] = set()
    for kind, pod in events:
        name = pod["metadata"]["name"]
        states = [each["state"] for each in pod["status"].get("containerStatuses", [])]
        if kind != "DELETED" and any("running" in state for state in states):
            running.add(name)
        else:
            running.discard(name)
        assert len(running) <= 1, running
        ran |= running
    assert len(ran) == 2, "that of each version"


def test_what_runs_before_a_preview_goes_may_fail(rich: Platform) -> None:
    """The last test that looks at this preview."""
    began = int(time.time())
    down = rich.down(1).ok()
    assert "before_down of web failed with code 42." in down.result["notes"]
    if rich.target == "docker":  # whose engine knows afterwards what has ended, and how
        hook = f"{rich.name(1)}-before-down-web"
        window = ["--since", str(began), "--until", str(int(time.time()) + 1)]
        wanted = ["--filter", f"container={hook}", "--filter", "event=die"]
        code = "{{.Actor.Attributes.exitCode}}"
        assert docker("events", *window, *wanted, "--format", code) == "42"
    assert not [line for line in rich.traces() if rich.app in line]


# -- while a new commit rolls out ----------------------------------------------------------------


# A server that is gone as soon as it is told to go. It keeps connections, tells how many answers
# were given on one, and takes two seconds for some of them.
SERVER: dict[str, str | bytes | None] = {
    "Dockerfile": 'FROM busybox:1.37\nCOPY serve start www/index.html /\nCMD ["sh", "/start"]\n',
    "start": "trap exit TERM\nnc -ll -p 8080 -e sh /serve &\nwait\n",
    "serve": """\
n=0
while read -r method path rest; do
    while read -r line && [ ${#line} -gt 1 ]; do :; done
    [ "$path" = /slow ] && sleep 2
    n=$((n + 1)) text="$(cat /index.html) $n"
    printf 'HTTP/1.1 200 OK\\r\\nContent-Length: %s\\r\\n\\r\\n%s' ${#text} "$text"
done
""",
}
# Without a volume: what is stored in one is of one pod at a time.
STATELESS = """\
services:
  web:
    build: .
    ports: ["8080:8080"]
    deploy: {replicas: 2}
    environment: {COMMIT: "${PREVIEW_COMMIT}"}
    x-preview: {health: /health}
"""
# The same with services that a later commit drops: all that a service may be made of.
MORE = f"""\
x-preview: {{web: web}}
{STATELESS}
  extra:
    build: .
    ports: ["8080:8080"]
    configs: [greeting]
    volumes: ["./www/health:/bound:ro"]
  store:
    image: redis:8
    volumes: ["kept:/data"]
volumes: {{kept: {{}}}}
configs: {{greeting: {{content: hello}}}}
"""
# What of them is not kept; "-" stands for a name by its content.
DROPPED = {
    *("Deployment/extra", "Service/extra", "Ingress/extra", "NetworkPolicy/ingress-extra"),
    *("Secret/extra-", "ConfigMap/extra-", "StatefulSet/store", "Service/store"),
}


def change(platform: Platform, text: str, compose: str = STATELESS) -> str:
    """A commit of pull request 1 whose page is this text."""
    files = SERVER | {"compose.yaml": compose, "www/index.html": text}
    return platform.repository.pull_request(1, text, files=files)


def pages(visitors: Visitors) -> set[str]:
    assert len(visitors.heard) > 100
    return {each.text.split()[0] for each in visitors.heard if each.status == 200}


def test_a_redeploy_on_a_docker_host_loses_few_requests(platform: Platform) -> None:
    platform.up(1, change(platform, "one")).ok()
    with Visitors(lambda: platform.get(1)) as visitors:
        platform.up(1, change(platform, "two")).ok()
        time.sleep(1)
    assert pages(visitors) == {"one", "two"}
    # One container takes the other's place, once: docs/gateway.md says for how long.
    assert {each.status for each in visitors.lost} <= {404, 502, 503, 504}, visitors.lost
    assert visitors.silence < 10


def test_in_a_cluster_the_old_version_stays_until_the_new_one_is_verified(
    in_cluster: InCluster,
) -> None:
    in_cluster.up(1, change(in_cluster, "one", MORE)).ok()
    before = in_cluster.made(1)
    with Visitors(lambda: in_cluster.get(1)) as visitors:
        ends = STATELESS.replace("    build: .\n", '    build: .\n    command: ["false"]\n')
        refused = in_cluster.up(1, change(in_cluster, "ends at once", ends)).refused()
        assert refused.sentence == "web exits at start with code 1."
    assert pages(visitors) == {"one"} and not visitors.lost, visitors.lost[:5]
    assert in_cluster.made(1) >= before

    kept = Kept(f"{in_cluster.name(1)}.localhost:{in_cluster.port}", in_cluster.port)
    slow = [lambda: in_cluster.get(1, "/slow")] * 3
    with Visitors(lambda: in_cluster.get(1), kept, *slow) as visitors:
        teapot = STATELESS.replace("/health}", "{path: /health, status: 418, retries: 2}}")
        refused = in_cluster.up(1, change(in_cluster, "two", teapot)).refused()
        assert refused.result["failure"]["stage"] == "verify"
        assert in_cluster.made(1) >= before
        in_cluster.up(1, change(in_cluster, "two")).ok()
        time.sleep(1)
    assert pages(visitors) == {"one", "two"} and not visitors.lost, visitors.lost[:5]
    assert len(kept.connections) == 1
    assert max(int(each.text.split()[1]) for each in visitors.heard) > 10, "those to pods are kept"
    left = in_cluster.made(1)
    gone = {re.sub(r"-[0-9a-f]{10}$", "-", line) for line in before - left}
    assert gone == DROPPED | {"Secret/web-"}, "with the environment of the version before"
    assert "PersistentVolumeClaim/kept" in left, "it holds data"
    quota = ["get", "resourcequota", "preview", "-o", "jsonpath={.spec.hard.pods}"]
    assert in_cluster.kubectl(1, *quota) == "18", "one service's, as before others were there"
    assert in_cluster.get(1, host=f"extra--{in_cluster.name(1)}.localhost")[0] == 404
