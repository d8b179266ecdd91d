# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logs of a preview in a cluster, and commands that run in its services."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _identity,
    _kubernetes,
    _kubernetes_lease,
    _kubernetes_service,
    _manifests,
    _settings,
)
from clusters import Account, Cluster, cluster_script, eventually
from conftest import Platform
from test_cluster import BUSYBOX, pod, ready

SECRET = "hunter2-hunter2"
SPEAKS = "i=1; while [ $i -le 5 ]; do echo line $i; i=$((i+1)); done; sleep 1000"


@pytest.fixture(scope="module")
def mine(
    cluster: Cluster, account: Account, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """A preview with two pods of `web`, of which one is ready, and one of `worker`."""
    assert cluster_script("push", BUSYBOX).returncode == 0
    folder = tmp_path_factory.mktemp("platform")
    facts = cluster.facts
    settings = {
        "preview_target": "kubernetes",
        "preview_kubeconfig": str(account.kubeconfig),
        "preview_registry": facts["registry"],
        "preview_repository": "https://forge.example.com/acme/shop.git",
        "preview_domain": facts["domain"],
        "preview_secrets": {"TOKEN": SECRET},
        "preview_secret_key": "k" * 32,
    }
    platform = Platform(folder, folder / "state", 80, f"t{uuid.uuid4().hex[:6]}", None, settings)
    resolved = _settings.resolve({**settings, "preview_number": 1})
    preview = _identity.identity(platform.app, resolved, run="r", builder=platform.app)
    name, labels = preview["name"], preview["labels"]
    api = _kubernetes.Cluster(str(account.kubeconfig))
    writer = _kubernetes_lease.Writer(name, labels, "r", "up", "h/1 1 1")
    try:
        _kubernetes_lease.hold(api, writer, "take", 60, '{"web": "web"}')
        _kubernetes_lease.drop(api, writer)
        never = {"readinessProbe": {"exec": {"command": ["false"]}}}
        cluster.apply(name, of(labels, "web", "web-a", SPEAKS, container=never))
        time.sleep(1.1)  # of pods of the same second the first is told by its name
        ready(
            cluster,
            name,
            of(labels, "web", "web-b", f"echo {SECRET}; echo 'a\033[31mred'; {SPEAKS}"),
            of(labels, "worker", "worker-a", f"trap 'exit 0' TERM; {SPEAKS}"),
        )
        unknown = "registry.invalid/none:1"
        cluster.apply(name, of(labels, "late", "late-a", "true", image=unknown))
        eventually(lambda: "line 5" in cluster.kubectl("logs", "-n", name, "web-a"))
        yield platform
    finally:
        cluster.kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=60s")


def of(labels: dict[str, str], service: str, name: str, command: str, **more: Any) -> Any:
    made = pod(name, command, **more)
    made["metadata"]["labels"] = {**labels, _manifests.SERVICE: service}
    return made


@pytest.fixture
def api(account: Account) -> _kubernetes.Cluster:
    return _kubernetes.Cluster(str(account.kubeconfig))


def pods(api: _kubernetes.Cluster, mine: Platform, service: str) -> list[_kubernetes_service.Pod]:
    seen = _kubernetes.observe(api, mine.name(1))["previews"][mine.name(1)]
    return _kubernetes_service.of(seen["containers"], service)


def shown(out: str, service: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(f"{service}-")]


def test_logs_of_a_service_and_of_all_as_compose_writes_them(mine: Platform) -> None:
    of_web = mine.play("logs", preview_number=1, preview_service="web", preview_tail=2).ok()
    assert of_web.changed == 0
    lines = [f"web-{n}  | line {i}" for n in (1, 2) for i in (4, 5)]
    assert shown(of_web.out, "web") == lines
    assert "worker" not in of_web.out
    kubeconfig = mine.settings["preview_kubeconfig"]
    follow = (
        f"To follow them: kubectl logs --kubeconfig {kubeconfig} --namespace {mine.name(1)} "
        f"--selector {_manifests.SERVICE}=web --max-log-requests 100 --prefix --follow"
    )
    assert follow in of_web.out
    of_all = mine.play("logs", preview_number=1).ok()
    assert len(shown(of_all.out, "worker")) == 5
    assert f"--selector {_manifests.SERVICE} " in of_all.out
    assert "web-1     | line 1" in of_all.out, "padded to the longest name"
    assert not shown(of_all.out, "late"), "it has not started"


def test_how_to_follow_is_a_command_that_runs(mine: Platform, cluster: Cluster) -> None:
    told = mine.play("logs", preview_number=1, preview_service="worker").ok().out
    (line,) = [line for line in told.splitlines() if "To follow them" in line]
    words = line.partition(": kubectl ")[2].split()
    assert words.pop() == "--follow"
    assert "line 5" in cluster.kubectl(*words)


def test_no_secret_and_no_control_character_is_shown(mine: Platform) -> None:
    told = mine.play("logs", preview_number=1, preview_service="web").ok().out
    assert SECRET not in told and "\033" not in told
    assert "web-2  | ********" in told and "web-2  | ared" in told
    words = ["sh", "-c", f"echo is {SECRET[:8]}${{NOTHING}}{SECRET[8:]}"]
    ran = mine.play("run", preview_number=1, preview_command=words).ok().out
    assert "is ********" in ran and SECRET not in ran


def test_only_what_is_recent_is_shown(mine: Platform, api: _kubernetes.Cluster) -> None:
    name = mine.name(1)
    eventually(
        lambda: not _kubernetes_service.logs(api, name, pods(api, mine, "worker"), 100, "1s"), 10
    )
    assert _kubernetes_service.logs(api, name, pods(api, mine, "worker"), 1, "1h") == (
        "worker-1  | line 5\n"
    )


def test_what_is_not_there_is_refused(mine: Platform) -> None:
    wrong = mine.play("logs", preview_number=1, preview_service="wbe").refused()
    assert "has no service 'wbe'; it has: late, web, worker" in wrong.sentence
    assert "does not exist here" in mine.play("logs", preview_number=404).refused().sentence
    assert "Say what to run" in mine.play("run", preview_number=1).refused().sentence
    late = {"preview_service": "late", "preview_command": ["true"]}
    assert (
        "no pod of the service runs"
        in mine.play("run", preview_number=1, **late).refused().sentence
    )


def test_a_command_runs_in_a_pod_that_is_ready(mine: Platform) -> None:
    words = ["sh", "-c", "echo $((6 * 7)) from $(hostname)"]
    ran = mine.play("run", preview_number=1, preview_command=words).ok()
    assert "42 from web-b" in ran.out and ran.changed == 1
    failing = mine.play("run", preview_number=1, preview_command=["ls", "/no such"]).refused()
    assert "ls '/no such' ended with code 1 in web" in failing.sentence
    assert "/no such" in failing.sentence.split("\n", 1)[1]
    checked = mine.play("run", "--check", preview_number=1, preview_command=["false"]).ok()
    assert "would run in web: false" in checked.out


def test_no_shell_and_no_url_takes_a_command_apart(
    mine: Platform, api: _kubernetes.Cluster
) -> None:
    words = ["$(id)", "a b", "&stdin=true", "é", "", "--", "\n;"]
    shell = ["sh", "-c", 'printf "<%s>" "$@"', "sh"]
    ran = _kubernetes_service.run(api, mine.name(1), pods(api, mine, "worker"), [*shell, *words])
    assert ran == (0, "".join(f"<{word}>" for word in words))


def test_output_is_read_whole_and_the_code_is_the_commands_own(
    mine: Platform, api: _kubernetes.Cluster
) -> None:
    within = (api, mine.name(1), pods(api, mine, "worker"))
    talk = "seq 200000; sleep 1; echo bad >&2; exit 7"
    long = _kubernetes_service.run(*within, ["sh", "-c", talk])
    assert long.rc == 7
    assert sorted(long.out.split()) == sorted([*map(str, range(1, 200001)), "bad"])
    with pytest.raises(_kubernetes.ClusterError, match="not run in the pod worker-a: .*no-such"):
        _kubernetes_service.run(*within, ["no-such"])
    with pytest.raises(_kubernetes.ClusterError, match="has not ended within 0.5 s"):
        _kubernetes_service.run(*within, ["sleep", "5"], limit=0.5)


def test_more_than_fits_is_cut_and_said_so(
    mine: Platform, api: _kubernetes.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kubernetes_service, "OUTPUT_MAX", 1 << 20)
    monkeypatch.setattr(_kubernetes_service, "LOG_MAX", 10)
    within = (api, mine.name(1), pods(api, mine, "worker"))
    ran = _kubernetes_service.run(*within, ["seq", "400000"])
    assert ran.rc == 0 and len(ran.out) <= (1 << 20) + 100
    assert ran.out.endswith("(what comes after these 1 MiB is not shown)")
    assert "is not shown" in _kubernetes_service.logs(*within, 100, "")


def test_who_may_not_is_told_so(mine: Platform, cluster: Cluster, tmp_path: Path) -> None:
    name = mine.name(1)
    cluster.kubectl("create", "serviceaccount", "reader", "-n", name)
    rights = ["--clusterrole=view", f"--serviceaccount={name}:reader"]
    cluster.kubectl("create", "rolebinding", "reader", "-n", name, *rights)
    token = cluster.kubectl("create", "token", "reader", "-n", name)
    own = tmp_path / "kubeconfig"
    own.write_text(Path(mine.settings["preview_kubeconfig"]).read_text())
    at = ("config", "--kubeconfig", str(own))
    cluster.kubectl(*at, "set-credentials", "reader", f"--token={token}")
    cluster.kubectl(*at, "set-context", "--current", "--user=reader")
    theirs = _kubernetes.Cluster(str(own))
    full = _kubernetes.Cluster(mine.settings["preview_kubeconfig"])
    within = (theirs, name, pods(full, mine, "worker"))
    assert "line 5" in _kubernetes_service.logs(*within, 1, "")
    with pytest.raises(_kubernetes.ClusterError, match="403 Forbidden. Check that the account"):
        _kubernetes_service.run(*within, ["true"])
