"""What an author must not get, and what a person who errs is told."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, Platform, watched

COMPOSE = str(TINY["compose.yaml"])
SECRETS = {
    "API_KEY": 'k3y-"that"-nobody-may-read',
    "preview_secret_key": "a-key-of-the-platform-with-many-characters",
    "preview_source_token": "t0ken-for-the-repository",
}


def secret_settings(platform: Platform) -> dict[str, Any]:
    return {
        "preview_secrets": {"API_KEY": SECRETS["API_KEY"]},
        "preview_secret_key": SECRETS["preview_secret_key"],
        "preview_source_token": SECRETS["preview_source_token"],
    }


# Where it ends that a secret is given for a program, or for a user: who a name is, an engine asks
# the image, and a cluster nobody.
ENDS = {
    "docker": {"command": "deploy", "user": "migrate"},
    "kubernetes": {"command": "deploy", "user": "plan"},
}


def test_secrets_reach_the_app_and_no_output(
    anywhere: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = anywhere
    for variable in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("ANSIBLE_SHOW_CUSTOM_STATS", "1")
    platform.settings |= {**secret_settings(platform), "preview_step_outputs": "github"}
    given = '      KEY: "${API_KEY:-none}"\n      OWN: "${PREVIEW_SECRET:-none}"\n'
    told = COMPOSE.replace("    environment:\n", "    environment:\n" + given)
    told = told.replace("    init: true\n", "    init: true\n    configs: [told]\n")
    told += 'configs:\n  told: {content: "${API_KEY:-none}"}\n'
    told = told.replace('"echo migrated >> /data/log"', '"echo leak $$KEY $$OWN >> /data/log"')
    commit = platform.repository.pull_request(1, "Asks for secrets", files={"compose.yaml": told})

    with watched() as command_lines:
        up = platform.up(1, commit, "-vvv", "--diff").ok()
    word, key, own = platform.exec(1, "web", "cat", "/data/log").splitlines()[0].split()
    assert (word, key, len(own)) == ("leak", SECRETS["API_KEY"], 64)
    assert platform.exec(1, "web", "cat", "/told") == key
    hidden = {*SECRETS.values(), own, json.dumps(SECRETS["API_KEY"])[1:-1]}
    hidden |= {base64.b64encode(secret.encode()).decode() for secret in hidden}

    def nowhere(text: str) -> None:
        assert not [secret for secret in hidden if secret in text]

    result = platform.folder / "result"
    nowhere(up.out)
    markdown = (result / "result.md").read_text()
    nowhere((result / "result.json").read_text() + markdown)
    nowhere(json.dumps(platform.recorded(1)))
    nowhere(platform.shown(1))
    assert any("ansible-playbook" in line for line in command_lines)
    nowhere("\n".join(command_lines))
    assert "hidden" in platform.play(
        "run", preview_number=1, preview_command=["sh", "-c", f"echo hidden $KEY {own}"]
    ).ok().out.replace("********", "hidden")

    # What AWX, CI and a comment get.
    assert "CUSTOM STATS" in up.out
    assert f'"url": "http://{platform.name(1)}.localhost:{platform.port}"' in up.out
    outputs = dict(
        line.split("=", 1) for line in (tmp_path / "GITHUB_OUTPUT").read_text().splitlines()
    )
    assert outputs == {k: up.result[k] for k in ("outcome", "name", "url", "host")}
    assert up.result["outcome"] == "ready"
    assert (tmp_path / "GITHUB_STEP_SUMMARY").read_text() == markdown
    assert f"### {platform.name(1)} is ready" in markdown
    stages = [stage["name"] for stage in up.result["stages"]]
    assert stages == ["source", "plan", "build", "database", "migrate", "seed", "deploy", "verify"]

    # An app that fails may write them into its last words.
    failing = told.replace("echo leak $$KEY $$OWN >> /data/log", "echo it was $$KEY $$OWN; exit 1")
    commit = platform.repository.pull_request(1, "Leaks", files={"compose.yaml": failing})
    up = platform.up(1, commit, "-vvv").refused()
    assert "it was ******** ********" in "\n".join(up.result["failure"]["log"])
    nowhere(up.out)
    nowhere((result / "result.json").read_text() + (result / "result.md").read_text())
    nowhere(json.dumps(platform.recorded(1)))

    # What cannot be started is named by the engine, as it likes to quote it.
    for key, value in (("command", '["$API_KEY", serve]'), ("user", "$PREVIEW_SECRET")):
        failing = told.replace("    init: true\n", f"    {key}: {value}\n")
        commit = platform.repository.pull_request(1, key, files={"compose.yaml": failing})
        up = platform.up(1, commit, "-vvv").refused()
        assert up.result["failure"]["stage"] == ENDS[platform.target][key]
        assert "********" in up.sentence
        nowhere(up.out)
        nowhere((result / "result.json").read_text() + (result / "result.md").read_text())
        nowhere(json.dumps(platform.recorded(1)))

    # A fork sees none of the app's.
    commit = platform.repository.pull_request(2, "A fork", files={"compose.yaml": told})
    platform.up(2, commit, preview_trusted=False).ok()
    key, untrusted = platform.exec(2, "web", "cat", "/data/log").splitlines()[0].split()[1:]
    assert key == "none"
    assert untrusted != own


def test_what_a_person_gets_wrong_is_told_at_once(anywhere: Platform) -> None:
    platform = anywhere
    before = platform.traces()
    commit = platform.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})
    sentence = (
        platform.up(
            1,
            commit,
            preview_traget="docker",
            preview_target="kubernetes",
            preview_registry="",
            preview_lease="soon",
            preview_secrets={"TOKEN": "value"},
        )
        .refused()
        .sentence
    )
    for said in (
        "Did you mean preview_target?",
        "is needed because preview_target is kubernetes",
        "preview_lease",
        "preview_secrets needs preview_secret_key",
    ):
        assert said in sentence
    assert "preview_commit" in platform.up(1, "main").refused().sentence
    for number in ("0", "42; id", "-1"):
        assert number in platform.play("down", preview_number=number).refused().sentence
    absent = platform.up(1, "0" * 40).refused()
    assert absent.result["failure"]["stage"] == "source"

    host = platform.repository.pull_request(
        1,
        "A service named like a host, and more",
        files={
            "compose.yaml": "services:\n  acme.example.com:\n    image: busybox:1.37\n"
            "    privileged: true\n    ports: ['80']\n    volumes: ['/:/host']\n"
        },
    )
    refused = platform.up(1, host).refused()
    for key in ("services.acme.example.com", "privileged", "volumes"):
        assert key in refused.sentence
    assert platform.traces() == before


def test_exactly_one_app_is_meant_wherever_one_stands(platform: Platform, tmp_path: Path) -> None:
    platform.command("down", [], {})
    inventory = platform.folder / "inventory.json"
    apps = json.loads(inventory.read_text())
    apps["preview_apps"]["hosts"]["other"] = apps["preview_apps"]["hosts"][platform.app]
    inventory.write_text(json.dumps(apps))

    def play(name: str, *arguments: str) -> tuple[int, str]:
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        done = subprocess.run(
            [program, f"ephemera.preview.{name}", "-i", str(inventory), *arguments],
            cwd=tmp_path,
            env=platform.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    number = ["-e", "preview_number=1"]
    for name in ("up", "down", "logs", "run"):
        code, out = play(name, *number)
        assert code != 0
        assert f"2 apps are selected (other, {platform.app})" in out
        assert "as in -l other." in out
        assert "Traceback" not in out
    code, out = play("down", *number, "-l", platform.app)
    assert code == 0, out
    assert f"{platform.name(1)} is gone" in out
    code, out = play("list")
    assert code == 0, out


def test_a_result_is_not_written_where_a_link_leads(platform: Platform, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "result.json").write_text("theirs")
    link = tmp_path / "link"
    link.symlink_to(elsewhere)
    down = platform.down(1, preview_result_dir=str(link)).refused()
    assert f"preview_result_dir is {link}, which is a symbolic link" in down.sentence

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "result.json").symlink_to(elsewhere / "result.json")
    platform.down(1, preview_result_dir=str(folder)).ok()
    assert json.loads((folder / "result.json").read_text())["outcome"] == "removed"
    assert sorted(file.name for file in folder.iterdir()) == ["result.json", "result.md"]
    assert (elsewhere / "result.json").read_text() == "theirs"
