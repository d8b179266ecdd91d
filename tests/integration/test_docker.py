"""The life of a preview on a Docker host, seen from outside."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Platform, an_app, docker, holdings

GATEWAY = "ephemera-preview-gateway"


def test_up_serves_migrated_and_seeded_and_down_leaves_nothing(platform: Platform) -> None:
    before = holdings()
    commit = platform.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})

    up = platform.up(1, commit).ok()
    assert up.result["outcome"] == "ready"
    assert platform.get(1) == (200, "one\n")
    assert platform.exec(1, "web", "cat", "/data/log") == "migrated\nseeded"

    again = platform.up(1, commit).ok()
    assert (again.changed, again.result["outcome"]) == (0, "unchanged")

    platform.down(1).ok()
    assert holdings() == before
    assert not (platform.state / "previews" / platform.name(1)).exists()
    assert platform.get(1)[0] == 404

    assert platform.down(1).ok().changed == 0


def test_a_new_commit_redeploys_keeps_the_data_and_migrates_again(platform: Platform) -> None:
    first = platform.repository.pull_request(1, "One", files={"www/index.html": "one\n"})
    second = platform.repository.pull_request(1, "Two", files={"www/index.html": "two\n"})
    platform.up(1, first).ok()
    docker("exec", f"{platform.name(1)}-cache-1", "redis-cli", "set", "kept", "yes")
    platform.up(1, second).ok()
    assert platform.get(1) == (200, "two\n")
    assert platform.exec(1, "web", "cat", "/data/log") == "migrated\nseeded\nmigrated"
    assert platform.exec(1, "cache", "redis-cli", "get", "kept") == "yes"


def test_a_change_of_trust_starts_from_nothing(platform: Platform) -> None:
    commit = platform.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})
    platform.up(1, commit, preview_trusted=False).ok()
    platform.exec(1, "web", "sh", "-c", "echo planted > /data/planted")
    check = platform.up(1, commit, "--check", preview_trusted=True).ok()
    assert "All of it would be removed first" in check.out and check.changed
    assert "planted" in platform.exec(1, "web", "ls", "/data")
    platform.up(1, commit, preview_trusted=True).ok()
    assert platform.exec(1, "web", "ls", "/data") == "log"
    assert platform.exec(1, "web", "cat", "/data/log") == "migrated\nseeded"


# -- one preview that uses all there is ----------------------------------------------------------

RICH: dict[str, str | bytes | None] = {
    "Dockerfile": """\
FROM busybox:1.37 AS app
ARG NUMBER API
RUN echo "$NUMBER $API" > /built
COPY www /www
CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]
FROM app AS other
RUN exit 9
""",
    "www/index.html": "rich\n",
    ".env": "ONE=dotenv\nTWO=dotenv\n",
    ".env.preview": "TWO=preview\n",
    "app.env": "THREE=env_file ${TWO}\n",
    "notes.txt": "read only\n",
    "compose.yaml": """\
x-preview: {web: web}
x-app: &app
  build:
    context: .
    target: app
    args: {NUMBER: "${PREVIEW_NUMBER}", API: "${PREVIEW_API_URL}"}
  init: true
services:
  web:
    <<: *app
    ports: ["80:8080"]
    env_file: [app.env]
    environment:
      ONE: "${ONE}"
      API: "${PREVIEW_API_URL}"
      ME: "${PREVIEW_WEB_URL:-laptop}"
      PRICE: "5$$"
    volumes: ["data:/data", "./notes.txt:/notes.txt:ro"]
    configs: [{source: banner, target: /etc/banner}]
    healthcheck: {test: [CMD, test, -e, /www/index.html], interval: 1s}
    depends_on:
      prepare: {condition: service_completed_successfully}
      cache: {condition: service_healthy}
    deploy: {resources: {limits: {memory: 64M, cpus: "0.5", pids: 50}}}
    x-preview:
      migrate: [sh, -c, "echo migrate >> /data/log"]
      seed: [sh, -c, "echo seed >> /data/log"]
      after_deploy: [sh, -c, "echo after_deploy $$API >> /data/log"]
      before_down: [sh, -c, "exit 42"]
  api:
    <<: *app
    entrypoint: [sh, -c]
    command: ["hostname > /www/index.html; exec httpd -f -p 9090 -h /www"]
    ports: ["9090"]
    deploy: {replicas: 3}
  scheduler:
    <<: *app
    command: [sleep, "3600"]
    x-preview: {exactly_one: true, size: small}
  prepare:
    <<: *app
    command: [sh, -c, "echo prepared >> /data/log"]
    volumes: ["data:/data"]
  cache:
    image: redis:8
    healthcheck: {test: [CMD, redis-cli, ping], interval: 1s}
  tools:
    image: there.is.no/such:image
    profiles: [tools]
volumes: {data: {}}
configs:
  banner: {content: "for ${PREVIEW_NAME} at $$5"}
""",
}


@pytest.fixture(scope="module")
def rich(gateway: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A preview of the rich app as number 1, which tests look at and do not change."""
    with an_app(gateway, tmp_path_factory.mktemp("rich")) as platform:
        commit = platform.repository.pull_request(1, "Rich", files=RICH)
        platform.up(1, commit).ok()
        yield platform


def inspect(platform: Platform, container: str) -> dict[str, Any]:
    return dict(json.loads(docker("inspect", f"{platform.name(1)}-{container}"))[0])


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
    running = docker("ps", "--format", "{{.Names}}", "--filter", f"name=^{name}-").split()
    assert sorted(running) == [
        f"{name}-{c}" for c in ("api-1", "api-2", "api-3", "cache-1", "scheduler-1", "web-1")
    ]
    assert inspect(rich, "prepare-1")["State"]["ExitCode"] == 0
    images = {inspect(rich, f"{s}-1")["Image"] for s in ("web", "api", "scheduler", "prepare")}
    assert len(images) == 1, "built once"
    assert rich.exec(1, "web", "cat", "/built") == f"1 {urls['api']}"
    environment = dict(
        line.split("=", 1) for line in inspect(rich, "web-1")["Config"]["Env"] if "PATH" not in line
    )
    assert environment == {
        "ONE": "dotenv",
        "THREE": "env_file preview",
        "API": urls["api"],
        "ME": urls["web"],
        "PRICE": "5$",
    }
    assert rich.exec(1, "web", "cat", "/etc/banner") == f"for {name} at $5"
    assert rich.exec(1, "web", "cat", "/notes.txt") == "read only"
    with pytest.raises(AssertionError, match="Read-only"):
        rich.exec(1, "web", "sh", "-c", "echo no > /notes.txt")
    log = rich.exec(1, "web", "cat", "/data/log").splitlines()
    assert log[:2] == ["migrate", "seed"]
    assert sorted(log[2:]) == [f"after_deploy {urls['api']}", "prepared"]


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


def test_previews_are_listed_for_people_and_programs(rich: Platform) -> None:
    table = rich.play("list").ok().out
    heading, row = re.search(rf"(NAME .*)\n(?:.*\n)*?({rich.name(1)} .*)\n", table).groups()
    assert heading.split() == ["NAME", "PR", "COMMIT", "STATUS", "RUNNING", "AGE", "URL"]
    commit = rich.recorded(1)["commit"]
    assert row.split()[:5] == [rich.name(1), "1", commit[:12], "ready", "6/6"]
    assert row.split()[6] == f"http://{rich.name(1)}.localhost:{rich.port}"
    printed = rich.play("list", preview_output="json").ok().out
    listed = json.loads(printed[printed.index("\n[") : printed.index("\n]") + 2])
    assert [p["commit"] for p in listed if p["name"] == rich.name(1)] == [commit]


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


def test_logs_of_one_service_and_how_to_follow_them(rich: Platform) -> None:
    web = rich.play("logs", preview_number=1, preview_service="cache", preview_tail=1).ok()
    shown = [line for line in web.out.splitlines() if line.startswith("cache-1")]
    assert len(shown) == 1
    assert f"docker compose --project-name {rich.name(1)} logs --follow cache" in web.out
    time.sleep(1.1)
    late = rich.play("logs", preview_number=1, preview_service="cache", preview_since="1s").ok()
    assert not [line for line in late.out.splitlines() if line.startswith("cache-1")]
    wrong = rich.play("logs", preview_number=1, preview_service="cahce").refused()
    assert "has no service 'cahce'; it has: api, cache, prepare, scheduler, web" in wrong.sentence
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


def test_what_runs_before_a_preview_goes_may_fail(rich: Platform) -> None:
    """The last test that looks at this preview."""
    began = int(time.time())
    down = rich.down(1).ok()
    assert "before_down of web failed with code 42." in down.result["notes"]
    hook = f"{rich.name(1)}-before-down-web"
    window = ["--since", str(began), "--until", str(int(time.time()) + 1)]
    wanted = ["--filter", f"container={hook}", "--filter", "event=die"]
    code = "{{.Actor.Attributes.exitCode}}"
    assert docker("events", *window, *wanted, "--format", code) == "42"
    assert not [line for line in holdings() if rich.app in line]
