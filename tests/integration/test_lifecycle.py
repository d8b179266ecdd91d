"""Runs that are killed, that meet, that fail, and what a run finds changed behind its back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils._names import claim_name
from conftest import TINY, InCluster, Platform, command_lines, docker, wait

COMPOSE = str(TINY["compose.yaml"])
STAGES = ["source", "plan", "build", "database", "migrate", "seed", "deploy", "verify"]


def tiny(migrate: str = "", seed: str = "", **web: object) -> str:
    """The tiny app's Compose file with other hooks, and more keys of its web service."""
    text = COMPOSE
    if migrate:
        text = text.replace('"echo migrated >> /data/log"', json.dumps(migrate))
    if seed:
        text = text.replace('"echo seeded >> /data/log"', json.dumps(seed))
    more = "".join(f"    {key}: {json.dumps(value)}\n" for key, value in web.items())
    return text.replace("    build: .\n", "    build: .\n" + more, 1)


# Compose waits for the first service before it starts the next one.
NEVER_WELL = tiny(
    healthcheck={"test": ["CMD", "false"], "interval": "1s", "start_period": "60s"}
).replace(
    "  cache:\n",
    '  last:\n    build: .\n    x-preview: {expose: "off"}\n'
    "    depends_on: {web: {condition: service_healthy}}\n  cache:\n",
    1,
)


# -- killed --------------------------------------------------------------------------------------


def test_after_a_kill_at_any_stage_the_next_up_heals_at_once(anywhere: Platform) -> None:
    platform = anywhere
    # The first migration would go on for long after its run was killed.
    migrate = (
        "echo begin >> /data/log; [ $$(grep -c begin /data/log) -gt 1 ] || sleep 30; "
        "echo end >> /data/log"
    )
    commit = platform.repository.pull_request(
        1, "Slow", files={"compose.yaml": tiny(migrate), "www/index.html": "healed\n"}
    )
    for turn, stage in enumerate(STAGES):
        running = platform.begin("up", preview_number=1, preview_commit=commit)
        platform.wait_for(1, stage, running)
        if stage == "migrate":
            wait(platform.runs_one_off(1))
        running.kill(group=turn % 2 == 0)
    up = platform.up(1, commit).ok()
    assert up.result["outcome"] == "ready"
    assert platform.get(1) == (200, "healed\n")
    log = platform.exec(1, "web", "cat", "/data/log").split()
    # The killed one ended without an end, and no two ran at a time.
    assert log[:2] == ["begin", "begin"]
    assert [word for word in log[1:] if word != "seeded"] == ["begin", "end"] * log.count("end")
    assert log.count("seeded") == 1 or log.count("seeded") == 2
    assert platform.up(1, commit).ok().changed == 0


@pytest.mark.parametrize(
    ("anywhere", "group"),
    [("docker", False), ("docker", True), ("kubernetes", True)],
    indirect=["anywhere"],
)
def test_after_a_kill_at_any_stage_a_down_leaves_nothing(anywhere: Platform, group: bool) -> None:
    platform = anywhere
    before = platform.traces()
    built = f"RUN --mount=type=cache,target=/c echo {platform.app} {group} >/c/x; sleep 2\n"
    platform.repository.commit(
        "refs/heads/main",
        "Slow",
        files={"Dockerfile": TINY["Dockerfile"] + built},
        parent="refs/heads/main",
    )
    slow = {
        "source": tiny(),
        "plan": tiny(),
        "build": tiny(),
        "migrate": tiny("sleep 30"),
        "seed": tiny(seed="sleep 30"),
        "deploy": NEVER_WELL,
        "verify": COMPOSE.replace("health: /health", "health: /absent"),
    }
    stages = (
        ["source", "build", "seed", "verify"] if group else ["plan", "build", "migrate", "deploy"]
    )
    for number, stage in enumerate(stages, 1):
        commit = platform.repository.pull_request(
            number, stage, files={"compose.yaml": slow[stage]}
        )
        running = platform.begin("up", preview_number=number, preview_commit=commit)
        platform.wait_for(number, stage, running)
        if stage in ("migrate", "seed"):
            wait(platform.runs_one_off(number, stage))
        elif stage in ("build", "deploy"):
            time.sleep(1)
        running.kill(group=group)
        platform.down(number).ok()
        assert platform.traces() == before, stage
    time.sleep(1)
    assert platform.traces() == before, "something came back"


def test_after_a_killed_down_the_next_down_or_up_ends_the_work(anywhere: Platform) -> None:
    platform = anywhere
    before = platform.traces()
    # The first one would go on for long after its run was killed.
    farewell = "[ -e /data/told ] || { touch /data/told; sleep 60; }"
    hook = f"      before_down: [sh, -c, {json.dumps(farewell)}]\n      migrate:"
    commit = platform.repository.pull_request(
        1, "Says goodbye", files={"compose.yaml": COMPOSE.replace("      migrate:", hook)}
    )

    def killed(until: Callable[[], object], *, group: bool) -> None:
        running = platform.begin("down", preview_number=1)
        wait(lambda: until() or running.process.poll() is not None)
        running.kill(group=group)

    platform.up(1, commit).ok()
    killed(platform.runs_one_off(1, "before-down"), group=True)
    # All serves as it did, and yet it was about to go.
    assert platform.up(1, commit).ok().result["outcome"] == "ready"
    assert not platform.runs_one_off(1, "before-down")()
    killed(lambda: not platform.is_led_to(1), group=False)
    assert platform.up(1, commit).ok().result["outcome"] == "ready"
    assert platform.get(1) == (200, "hello from main\n")
    farewell_again = platform.runs_one_off(1, "before-down")
    killed(lambda: farewell_again() or not platform.is_led_to(1), group=True)
    platform.down(1).ok()
    assert platform.traces() == before


# -- two at once ---------------------------------------------------------------------------------


def test_of_two_ups_one_is_refused_and_a_down_ends_the_other(anywhere: Platform) -> None:
    platform = anywhere
    before = platform.traces()
    commit = platform.repository.pull_request(1, "Slow", files={"compose.yaml": tiny("sleep 60")})
    first = platform.begin("up", preview_number=1, preview_commit=commit)
    platform.wait_for(1, "migrate", first)
    wait(platform.runs_one_off(1))

    second = platform.up(1, commit).refused()
    assert f"(process {first.process.pid}), for at most" in second.sentence
    assert second.sentence.startswith(f"{platform.name(1)} is held by an up on ")

    down = platform.down(1).ok()
    assert down.result["outcome"] == "removed"
    ended = first.ended().refused()
    assert "taken down" in ended.sentence or "migrate" in ended.sentence
    assert platform.traces() == before


@pytest.mark.parametrize(
    ("anywhere", "stage"),
    [("docker", "build"), ("docker", "deploy"), ("kubernetes", "build")],
    indirect=["anywhere"],
)
def test_down_wins_over_an_up_that_works(anywhere: Platform, stage: str) -> None:
    platform = anywhere
    before = platform.traces()
    slow: dict[str, str | bytes | None] = {
        "build": {"Dockerfile": f"{TINY['Dockerfile']}RUN echo {platform.app}; sleep 30\n"},
        "deploy": {"compose.yaml": NEVER_WELL},
    }[stage]  # type: ignore[assignment]
    commit = platform.repository.pull_request(1, "Slow", files=slow)
    up = platform.begin("up", preview_number=1, preview_commit=commit)
    platform.wait_for(1, stage, up)
    time.sleep(1)
    platform.down(1).ok()
    up.ended().refused()
    time.sleep(0.5)
    assert platform.traces() == before
    assert f"previews/{platform.name(1)}" not in "\n".join(command_lines())


def test_a_run_that_was_taken_down_removes_nothing_of_the_next(in_cluster: InCluster) -> None:
    """What a first run has made goes with it when planning fails: not what another has made."""
    commit = in_cluster.repository.pull_request(1, "Broken", files={"compose.yaml": "nothing: 1\n"})
    first = in_cluster.begin("up", preview_number=1, preview_commit=commit)
    wait(lambda: in_cluster.namespace(1) or first.process.poll() is not None)
    os.killpg(first.process.pid, signal.SIGSTOP)
    try:
        in_cluster.down(1).ok()
        in_cluster.lend(1, f"another {int(time.time()) + 600} up ci-7/0 812 1")
    finally:
        os.killpg(first.process.pid, signal.SIGCONT)
    assert first.ended().refused().result["failure"]["stage"] in ("source", "plan")
    assert in_cluster.namespace(1)
    in_cluster.lend(1, "")
    in_cluster.down(1).ok()


def test_a_lease_of_a_run_elsewhere_holds_until_it_expires(anywhere: Platform) -> None:
    platform = anywhere
    before = platform.traces()
    commit = platform.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})
    for kind, says in (
        ("up", "is held by an up on ci-7 (process 812), for at most "),
        ("down", "is being taken down by a down on ci-7 (process 812), for at most "),
    ):
        platform.lend(1, f"elsewhere {int(time.time()) + 600} {kind} ci-7/0 812 1")
        assert says in platform.up(1, commit).refused().sentence
    assert "is being taken down" in platform.down(1).refused().sentence
    platform.lend(1, f"elsewhere {int(time.time()) - 1} down ci-7/0 812 1")
    platform.down(1).ok()
    assert not platform.traces() - before


# -- failed --------------------------------------------------------------------------------------


# Who a name is, an engine asks the image, and a cluster nobody.
NAMELESS = {
    "docker": ("database", "cache cannot be started: the user nobody-knows is not in its image"),
    "kubernetes": ("plan", "services.cache.user: 'nobody-knows' is a name"),
}


def test_until_deploy_a_failure_leaves_the_previous_version_serving(
    anywhere: Platform, tmp_path: Path
) -> None:
    platform = anywhere
    bound = COMPOSE.replace('"cache_data:/data"]', '"cache_data:/data", "./conf:/conf:ro"]')

    def change(text: str, **files: str) -> str:
        files = {"www/index.html": text, "conf/text": text, "compose.yaml": bound} | files
        return platform.repository.pull_request(1, text, files=files)

    platform.up(1, change("good")).ok()
    serving = platform.running(1, "web")

    # The data service is another, too, and must wait for what is not to come.
    data = platform.running(1, "cache")
    broken = change(
        "no build",
        Dockerfile=f"{TINY['Dockerfile']}RUN echo no such tool; exit 7\n",
        **{"compose.yaml": bound.replace("redis:8\n", "redis:8\n    environment: {A: b}\n")},
    )
    up = platform.up(1, broken).refused()
    assert platform.running(1, "cache") == data
    assert (up.result["failure"]["stage"], up.result["outcome"]) == ("build", "failed")
    assert "no such tool" in "\n".join(up.result["failure"]["log"])
    assert platform.get(1) == (200, "good")
    assert platform.exec(1, "cache", "cat", "/conf/text") == "good"

    # What is bound becomes a link to the host's files, and what serves is started once more.
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name, text in (TINY | {"compose.yaml": bound}).items():
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text(str(text))
    (checkout / "conf").symlink_to("/etc")
    head = platform.repository.head("refs/pull/1/head")
    broken = platform.repository.pull_request(1, "A link", tree=checkout)
    up = platform.up(1, broken).refused()
    assert "conf is a symbolic link" in up.sentence
    platform.repository.git("update-ref", "refs/pull/1/head", head)
    platform.restart(1, "cache")
    assert platform.exec(1, "cache", "ls", "/conf") == "text"
    assert platform.get(1) == (200, "good")

    text = bound.replace("image: redis:8\n", "image: redis:8\n    user: nobody-knows\n")
    broken = change("no cache", Dockerfile=str(TINY["Dockerfile"]), **{"compose.yaml": text})
    up = platform.up(1, broken).refused()
    stage, told = NAMELESS[platform.target]
    assert up.result["failure"]["stage"] == stage
    assert told in up.sentence
    assert platform.get(1) == (200, "good")

    broken = change("no migration", **{"compose.yaml": tiny("echo cannot migrate; exit 3")})
    up = platform.up(1, broken).refused()
    assert up.result["failure"]["stage"] == "migrate"
    assert "cannot migrate" in "\n".join(up.result["failure"]["log"])
    assert platform.get(1) == (200, "good")
    assert platform.running(1, "web") == serving

    # From here on something else runs than before, and the next commit has to take its place.
    starts = {"cache": "    image: redis:8\n", "web": "    build: .\n"}
    for service, line in starts.items():
        fails = bound.replace(line, line + '    command: [sh, -c, "echo gives up; exit 5"]\n')
        up = platform.up(1, change(f"no {service}", **{"compose.yaml": fails})).refused()
        assert f"{service} exits at start with code 5" in up.sentence

    platform.up(1, change("mended")).ok()
    assert platform.get(1) == (200, "mended")
    assert platform.exec(1, "cache", "cat", "/conf/text") == "mended"


def test_new_data_services_start_while_images_are_built(platform: Platform) -> None:
    before = platform.traces()
    slow = f"{TINY['Dockerfile']}RUN echo {platform.app}; sleep 8; exit 7\n"
    commit = platform.repository.pull_request(1, "Slow", files={"Dockerfile": slow})
    running = platform.begin("up", preview_number=1, preview_commit=commit)
    platform.wait_for(1, "build", running)
    cache = f"{platform.name(1)}-cache-1"
    wait(lambda: cache in docker("ps", "--format", "{{.Names}}").split())
    assert platform.recorded(1)["stage"] == "build"
    assert running.ended().refused().result["failure"]["stage"] == "build"
    platform.down(1).ok()
    assert platform.traces() == before


# -- changed behind our back ---------------------------------------------------------------------


class Drifts(NamedTuple):
    """What is done behind our back before each next run, and what looks the same after each."""

    turns: list[list[Callable[[], object]]]
    looks: Callable[[], object]


def on_a_host(platform: Platform, commit: str) -> Drifts:
    name, edge = platform.name(1), f"{platform.name(1)}_edge"
    image, web = f"ephemera-preview/{name}/web:{commit[:12]}", f"{name}-web-1"
    route = platform.state / "gateway" / "routes" / f"{name}.yaml"

    def moved_tag() -> None:
        other = f"FROM {image}\nRUN echo other > /www/index.html\n"
        subprocess.run(
            ["docker", "build", "--quiet", "--tag", image, "-"],
            input=other.encode(),
            check=True,
            capture_output=True,
        )

    def no_volume() -> None:
        docker("rm", "--force", "--volumes", f"{name}-cache-1")
        docker("volume", "rm", "--force", f"{name}_cache_data")

    turns: list[list[Callable[[], object]]] = [
        [moved_tag],
        [lambda: docker("image", "rm", "--force", image), route.unlink],
        [lambda: docker("network", "disconnect", edge, web)],
        [lambda: docker("rm", "--force", web)],
        [lambda: docker("network", "disconnect", edge, "ephemera-preview-gateway")],
        [no_volume],
    ]
    return Drifts(turns, lambda: docker("image", "inspect", "--format", "{{.Id}}", image))


def in_a_cluster(platform: Any, commit: str) -> Drifts:
    ours = f"ephemera.preview/name={platform.name(1)}"
    made = "resourcequotas,limitranges,secrets,services,networkpolicies,ingresses"
    made += ",middlewares.traefik.io"

    def patched(thing: str, **fields: Any) -> Callable[[], object]:
        patch = ["--type=merge", "-p", json.dumps(fields)]
        return lambda: platform.kubectl(1, "patch", *thing.split("/"), *patch)

    asks = "traefik.ingress.kubernetes.io/router.middlewares"
    level = "pod-security.kubernetes.io/enforce-"
    turns: list[list[Callable[[], object]]] = [
        [lambda: platform.kubectl(1, "scale", "statefulset", "cache", "--replicas=0")],
        [
            # None of these is seen by what runs.
            patched("networkpolicy/default", spec={"egress": [{}]}),
            patched("resourcequota/preview", spec={"hard": {"services.nodeports": "9"}}),
            patched("service/web", spec={"selector": {"app": "theirs"}}),
            patched("ingress/web", metadata={"annotations": {asks: None}}),
            patched("secret/registries", data={".dockerconfigjson": "e30="}),
            lambda: platform.cluster.kubectl("label", "namespace", platform.name(1), level),
        ],
        [
            lambda: platform.kubectl(1, "delete", made, "-l", ours),
            lambda: platform.kubectl(1, "set", "image", "statefulset/web", "main=busybox:1.37"),
        ],
        [
            lambda: platform.kubectl(1, "delete", "statefulsets", "--all"),
            lambda: platform.kubectl(
                1, "delete", "persistentvolumeclaims", claim_name("cache_data")
            ),
        ],
    ]
    return Drifts(turns, lambda: wanted_in_cluster(platform, made))


def wanted_in_cluster(platform: Any, made: str) -> object:
    """What is asked of the cluster for a preview, but what the cluster has added."""
    text = platform.kubectl(1, "get", made + ",statefulsets", "-o", "json")
    labels = platform.namespace(1)["metadata"]["labels"]

    def asked(thing: dict[str, Any]) -> dict[str, Any]:
        spec = thing.get("spec", {})
        own = {key: value for key, value in spec.items() if not key.startswith("clusterIP")}
        metadata = {key: thing["metadata"].get(key) for key in ("labels", "annotations")}
        return {"spec": own, "data": thing.get("data"), "metadata": metadata}

    return labels, {
        f"{thing['kind']}/{thing['metadata']['name']}": asked(thing)
        for thing in json.loads(text)["items"]
    }


def test_what_was_changed_behind_our_back_is_noticed_and_repaired(anywhere: Platform) -> None:
    """The no-change path must not report "unchanged" over any of these."""
    platform = anywhere
    asks = '      OWN: "${PREVIEW_SECRET:-none}"\n      GRANTED: "${GRANTED:-none}"\n'
    files = {"compose.yaml": COMPOSE.replace("    environment:\n", f"    environment:\n{asks}")}
    platform.settings["preview_secret_key"] = "a-key-of-the-platform-with-many-characters"
    commit = platform.repository.pull_request(1, "A change", files=files)
    platform.up(1, commit).ok()
    secret = platform.exec(1, "web", "sh", "-c", "echo $OWN")
    # That each is seen by itself is a unit test's matter, that each is repaired is this one's.
    drifts = {"docker": on_a_host, "kubernetes": in_a_cluster}[platform.target](platform, commit)
    wanted, running = drifts.looks(), sorted(platform.images(1))
    for turn, drift in enumerate(drifts.turns):
        for each in drift:
            each()
        up = platform.up(1, commit).ok()
        assert up.result["outcome"] == "ready", turn
        assert platform.get(1) == (200, "hello from main\n"), turn
        assert drifts.looks() == wanted, turn
        assert sorted(platform.images(1)) == running, turn

    platform.settings["preview_secret_key"] = "another key of the platform " * 2
    platform.settings["preview_environment"] = {"GRANTED": "yes"}
    assert platform.up(1, commit).ok().result["outcome"] == "ready"
    again = platform.up(1, commit).ok()
    assert (again.result["outcome"], again.changed) == ("unchanged", 0)
    # The data is that of a new volume, so it was seeded again.
    assert platform.exec(1, "web", "cat", "/data/log").split().count("seeded") == 2
    assert platform.exec(1, "web", "sh", "-c", "echo $GRANTED") == "yes"
    assert platform.exec(1, "web", "sh", "-c", "echo $OWN") not in (secret, "none")


def test_without_a_gateway_nothing_begins(platform: Platform, gateway: Platform) -> None:
    """The one that is set up again leads to what is there."""
    commit = platform.repository.pull_request(1, "A change", files={})
    platform.up(1, commit).ok()
    docker("rm", "--force", "ephemera-preview-gateway")
    try:
        there = platform.traces()
        assert "There is no gateway" in platform.up(2, commit).refused().sentence
        assert platform.traces() == there
    finally:
        gateway.play("gateway").ok()
    assert platform.get(1) == (200, "hello from main\n")


# -- nothing changes -----------------------------------------------------------------------------


def test_check_mode_tells_and_touches_nothing(anywhere: Platform) -> None:
    platform = anywhere
    secret = "s3cr3t-of-the-shop"
    platform.settings |= {"preview_secrets": {"API_KEY": secret}, "preview_secret_key": "k" * 32}
    files = {"compose.yaml": COMPOSE.replace("    ports:", "    env_file: [.env]\n    ports:")}
    files |= {".env": "KEY=${API_KEY}\n"}
    first = platform.repository.pull_request(1, "One", files=files)
    second = platform.repository.pull_request(
        1, "Two", files={"compose.yaml": files["compose.yaml"] + "  more: {}\n"}
    )
    before = platform.traces()

    check = platform.up(1, first, "--check", "--diff").ok()
    assert f"{platform.name(1)} would serve commit {first[:12]}" in check.out
    assert f"+url: http://{platform.name(1)}.localhost:{platform.port}" in check.out
    assert check.changed >= 1
    assert platform.traces() == before

    broken = platform.repository.pull_request(2, "No", files={"compose.yaml": "services: 5\n"})
    platform.up(2, broken, "--check").refused()
    assert platform.traces() == before

    platform.up(1, first).ok()
    assert platform.exec(1, "web", "sh", "-c", "echo $KEY") == secret
    there, state, runs = platform.traces(), platform.recorded(1), platform.running(1, "web")
    check = platform.up(1, second, "--check", "--diff").ok()
    assert f"It is not as wanted yet: commit {first[:12]} is deployed." in check.out
    assert f"-commit: {first}" in check.out
    assert f"+commit: {second}" in check.out
    assert "+  more" not in check.out, "a volume that no service has is not made"
    assert secret not in check.out

    check = platform.down(1, "--check", "--diff").ok()
    assert f"{platform.name(1)} would be removed." in check.out
    assert f"-{platform.removed(1)}" in check.out
    assert platform.traces() == there
    assert (platform.recorded(1), platform.running(1, "web")) == (state, runs)
    assert platform.up(1, first, "--check", "--diff").ok().changed == 0
    assert list((platform.folder / "tmp").iterdir()) == []
