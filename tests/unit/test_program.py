# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The code that a host keeps: how it gets there, and that it runs by itself."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _program

ROOT = Path(__file__).parents[2]
PROGRAMS = ("build", "definition", "route_file", "source", "teardown")


def run(script: str, *arguments: str, stdin: Any = None) -> subprocess.CompletedProcess[str]:
    """A script as an action plugin has it run: nothing of this machine's Python path is known."""
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    argv = [sys.executable, "-c", script, *arguments]
    return subprocess.run(
        argv, check=False, input=json.dumps(stdin), capture_output=True, text=True, env=env, cwd="/"
    )


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Where a host has the code."""
    code = _program.code()
    folder = str(tmp_path / "tmp" / code.name)
    assert run(_program.START, folder, "source").returncode == _program.MISSING
    installed = run(_program.INSTALL, folder, stdin=code.files)
    assert installed.returncode == 0, installed.stderr
    return folder


def test_a_program_runs_from_what_was_sent(folder: str, tmp_path: Path) -> None:
    params = {"name": "pr", "directory": str(tmp_path / "none"), "content": {}, "edge": None}
    asked = {"params": params, "paths": [], "check": True}
    ran = run(_program.START, folder, "route_file", stdin=asked)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["changed"] is True and result["path"] == str(tmp_path / "none" / "pr.yaml")
    assert list(Path(folder).rglob("__pycache__/*.pyc")), "it is kept compiled"


def test_a_path_is_the_hosts(folder: str) -> None:
    params = {"name": "pr", "directory": "~/none", "content": {}, "edge": None}
    asked = {"params": params, "paths": ["directory"], "check": True}
    ran = run(_program.START, folder, "route_file", stdin=asked)
    assert json.loads(ran.stdout)["path"] == os.path.expanduser("~/none/pr.yaml")


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_can_be_read_without_ansible(folder: str, program: str) -> None:
    """A host has Python and what meta/requirements.txt names; ansible-core is the controller's."""
    alone = (
        "import sys\n"
        "sys.modules['ansible'] = None\n"
        f"sys.path.insert(0, {folder!r})\n"
        f"from {_program.__name__.rpartition('.')[0]} import _{program}\n"
        f"assert callable(_{program}.run)\n"
    )
    ran = run(alone)
    assert ran.returncode == 0, ran.stderr


def test_the_programs_are_those_that_actions_ask_for() -> None:
    asked = set()
    for path in (ROOT / "plugins" / "action").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "program":
                asked.add(ast.literal_eval(node.value))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.run_program":
                asked.add(ast.literal_eval(node.args[0]))
    assert asked == set(PROGRAMS)


def test_code_of_which_a_part_is_gone_is_sent_again(folder: str) -> None:
    lost = next(Path(folder).rglob("_source.py"))
    lost.unlink()
    assert run(_program.START, folder, "source").returncode == _program.MISSING
    assert run(_program.INSTALL, folder, stdin=_program.code().files).returncode == 0
    assert lost.exists()


def test_many_can_bring_it_at_once(tmp_path: Path) -> None:
    code = _program.code()
    argv = [sys.executable, "-c", _program.INSTALL, str(tmp_path / code.name)]
    for _again in range(3):
        shutil.rmtree(tmp_path / code.name, ignore_errors=True)
        at_once = [subprocess.Popen(argv, stdin=subprocess.PIPE, text=True) for _one in range(6)]
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda each: each.communicate(json.dumps(code.files)), at_once))
        assert [each.returncode for each in at_once] == [0] * 6
        assert [path.name for path in tmp_path.iterdir()] == [code.name]


def test_a_folder_may_be_named_by_variables(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = "$HOME/" + _program.code().name
    assert run(_program.INSTALL, folder, stdin=_program.code().files).returncode == 0
    assert (tmp_path / _program.code().name).is_dir()


def test_a_link_to_code_is_none(folder: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert run(_program.START, str(tmp_path / "link"), "source").returncode == _program.MISSING


def test_whoever_comes_second_keeps_what_is_there(folder: str) -> None:
    marker = Path(folder) / "marker"
    marker.touch()
    again = run(_program.INSTALL, folder, stdin=_program.code().files)
    assert again.returncode == 0 and marker.exists()
    assert [path.name for path in Path(folder).parent.iterdir()] == [Path(folder).name]


def test_code_that_nobody_uses_any_more_goes(folder: str) -> None:
    os.utime(folder, (0, 0))
    asked = {"params": {"name": "/"}, "paths": [], "check": True}
    run(_program.START, folder, "route_file", stdin=asked)
    assert os.stat(folder).st_mtime > 0, "it is in use"
    parent = Path(folder).parent
    old, recent, others = (parent / n for n in (_program.PREFIX + "a", _program.PREFIX + "b", "c"))
    for path in (old, recent, others):
        path.mkdir()
    for path in (old, others):
        os.utime(path, (0, 0))
    assert run(_program.INSTALL, folder, stdin=_program.code().files).returncode == 0
    assert not old.exists() and recent.exists() and others.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what is another user's")
def test_code_of_another_user_is_not_run(folder: str) -> None:
    os.chown(folder, 12345, 12345)
    assert run(_program.START, folder, "source").returncode == _program.MISSING
    assert run(_program.INSTALL, folder, stdin=_program.code().files).returncode != 0
