"""The lease against a real shell and file system: who gets it, who keeps it, who loses it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _lease


@pytest.fixture
def act(tmp_path):
    def run(action, owner, kind="up", seconds=60, dead="", state="", name="shop-pr-1"):
        preview = {"state_dir": str(tmp_path), "name": name, "run": owner}
        ended = subprocess.run(
            _lease.command(action, preview, kind, seconds, dead),
            input=state,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    return run


def test_a_free_lease_is_taken_kept_and_dropped(act, tmp_path):
    assert act("take", "a") == "ok"
    assert act("keep", "a") == "ok"
    assert act("drop", "a") == "ok"
    assert not (tmp_path / "leases" / "shop-pr-1").exists()


def test_a_second_run_is_told_who_holds_it(act):
    act("take", "a")
    answer = act("take", "b")
    assert answer.startswith("held a ")
    held = _lease.parse(answer.removeprefix("held "))
    assert held is not None and held.kind == "up" and held.pid == os.getppid()


def test_neighbours_do_not_share_a_lease(act):
    act("take", "a", name="shop-pr-1")
    assert act("take", "b", name="shop-pr-12") == "ok"


def test_an_expired_lease_is_taken_over(act):
    act("take", "a", seconds=0)
    assert act("take", "b").startswith("ok over a ")
    assert act("keep", "a").startswith("held b ")


def test_a_lease_of_a_dead_run_is_taken_over_at_once_and_only_that_one(act):
    act("take", "a")
    assert act("take", "c", dead="b").startswith("held a ")
    assert act("take", "b", dead="a").startswith("ok over a ")


def test_down_wins_over_a_running_up_and_up_does_not_win_back(act):
    act("take", "a")
    assert act("take", "d", kind="down").startswith("ok over a ")
    assert act("keep", "a").startswith("held d ")
    assert act("take", "b").startswith("held d ")
    assert act("take", "e", kind="down").startswith("held d ")


def test_a_run_whose_preview_was_taken_down_does_not_go_on(act, tmp_path):
    act("take", "a", state="{}")
    act("take", "d", kind="down")
    act("drop", "d", kind="down")
    assert act("keep", "a", state='{"late": 1}') == "held"
    assert "late" not in (tmp_path / "previews" / "shop-pr-1" / "preview.json").read_text()


def test_another_run_cannot_drop_it(act):
    act("take", "a")
    act("drop", "b")
    assert act("keep", "a") == "ok"


def test_only_its_own_run_forgets_a_preview(act, tmp_path):
    act("take", "a", state="{}")
    act("forget", "b")
    assert (tmp_path / "previews" / "shop-pr-1" / "preview.json").exists()
    assert act("forget", "a") == "ok"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock"]
    assert not list((tmp_path / "previews").iterdir())


def test_the_state_is_replaced_only_by_the_holder(act, tmp_path):
    act("take", "a", state=json.dumps({"by": "a"}))
    act("take", "b", state=json.dumps({"by": "b"}))
    path = tmp_path / "previews" / "shop-pr-1" / "preview.json"
    assert json.loads(path.read_text()) == {"by": "a"}
    assert path.stat().st_mode & 0o077 == 0


def test_a_broken_lease_file_holds_nobody_up(act, tmp_path):
    act("take", "a")
    (tmp_path / "leases" / "shop-pr-1").write_text("half a li")
    assert act("take", "b") == "ok"


def test_of_many_at_once_one_gets_it(act):
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: act("take", f"run{n}"), range(12)))
    assert answers.count("ok") == 1


def test_taking_over_ends_what_the_other_run_left_working(act, tmp_path):
    folder = f"{tmp_path}/previews/shop-pr-1"
    # As a build has it, as Compose and a program of ours have it, a neighbour's, and a person who
    # looks at a file.
    commands = [
        [sys.executable, "-c", "import time; time.sleep(60)", "code", "build", folder],
        ["timeout", "60", "sh", "-c", "sleep 60", f"{folder}/source/api"],
        ["timeout", "60", "sh", "-c", "sleep 60", f"--project-directory={folder}"],
        ["timeout", "60", "sh", "-c", "sleep 60", f"{folder}2"],
        ["sh", "-c", "sleep 60", f"{folder}/compose.yaml"],
    ]
    running = [subprocess.Popen(command, start_new_session=True) for command in commands]
    try:
        act("take", "a", seconds=0)
        act("take", "b")
        assert [process.wait(timeout=10) for process in running[:3]] == [-9, -9, -9]
        assert [process.poll() for process in running[3:]] == [None, None]
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def test_only_a_run_of_this_machine_that_is_gone_is_dead():
    with subprocess.Popen(["sleep", "60"]) as process:
        lease = _lease.parse(f"a 99 up {_lease.holder(process.pid)}")
        elsewhere = lease._replace(host="ci-7/12345678")
        assert not _lease.is_dead(lease)
        assert not _lease.is_dead(elsewhere)
        process.kill()
        process.wait()
        assert _lease.is_dead(lease)
        assert not _lease.is_dead(elsewhere)
    assert _lease.is_dead(lease._replace(pid=os.getpid())), "a PID used again is another run"


def test_a_refusal_says_who_and_what_to_do():
    lease = _lease.Lease("a", 130, "up", "ci-7/12345678", 812, "1")
    sentence = _lease.refusal("shop-pr-1", lease, now=100)
    assert "shop-pr-1 is held by an up on ci-7 (process 812), for at most 30 s" in sentence
    assert "being taken down" in _lease.refusal("x", lease._replace(kind="down"), 0)


# As Ansible: it reads the plugin, makes a process for a task, and is killed.
KILLED = """
import os, signal, time
from ansible_collections.ephemera.preview.plugins.module_utils import _lease
whole = os.getpid()
if os.fork():
    os.kill(whole, signal.SIGKILL)
while os.getppid() == whole:
    time.sleep(0.01)
print(whole, _lease.holder())
"""


def test_what_a_killed_run_leaves_at_work_still_names_it():
    read, write = os.pipe()
    path = {"PYTHONPATH": str(Path(__file__).parents[2] / ".collections")}
    ended = subprocess.run(
        [sys.executable, "-c", KILLED], env=os.environ | path, stdout=write, check=False
    )
    os.close(write)
    assert ended.returncode == -9
    with os.fdopen(read) as said:
        whole, host, pid, start = said.read().split()
    assert pid == whole
    assert _lease.is_dead(_lease.parse(f"a 99 up {host} {pid} {start}"))
