"""What Docker Compose says when a project is applied, and what is made of it."""

from __future__ import annotations

import subprocess

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _apply

PREVIEW = {
    "name": "shop-pr-42",
    "dir": "/state/previews/shop-pr-42",
    "run": "5f3c",
    "settings": {"preview_verify_timeout": 30},
    "observed": {"containers": []},
    "services": [{"name": "db", "data": True}, {"name": "web", "data": False}],
}
PULL = """changed
 Network shop-pr-42_default  Creating
 Container shop-pr-42-db-1  Waiting
 db Pulling 
 db Error Get "https://registry.example.org/v2/": dial tcp: no such host
Error response from daemon: no such host

1
"""  # noqa: W291 (as Compose writes it)


def words(start, **changes):
    """What Compose is told to do."""
    return _apply.command({**PREVIEW, **changes}, start, check=False)[9:][12:]


def test_new_data_services_start_beforehand_and_no_others():
    begun = _apply.beforehand(PREVIEW)
    assert begun[7] == "aside" and begun[begun.index("--file") + 1] == "-"
    assert begun[-2:] == ["--", "db"]
    for oneoff, starts in ((True, begun), (False, [])):
        there = {"containers": [{"service": "web", "oneoff": oneoff}]}
        assert _apply.beforehand({**PREVIEW, "observed": there}) == starts
    assert _apply.beforehand({**PREVIEW, "services": PREVIEW["services"][1:]}) == []


@pytest.mark.parametrize(
    ("start", "there", "mode"),
    [
        ("data", [], "first"),
        ("data", ["db"], "write"),
        ("all", ["db"], "first"),
        ("all", ["db", "web", "gone"], "write"),
        ("none", [], "write"),
    ],
)
def test_the_engine_is_looked_at_only_where_nothing_may_be_new(start, there, mode):
    seen = {"containers": [{"service": name, "oneoff": False} for name in there]}
    argv = _apply.command({**PREVIEW, "observed": seen}, start, check=False)
    assert argv[7] == mode
    assert _apply.command({**PREVIEW, "observed": seen}, start, check=True)[7] == "check"


@pytest.mark.parametrize(
    ("lease", "runs"), [("5f3c 1 up h 1 1\n", True), ("77aa 1 down h 1 1\n", False), ("", False)]
)
def test_what_starts_beforehand_needs_the_lease(tmp_path, lease, runs):
    """A down may have taken the preview while its images were pulled."""
    name = PREVIEW["name"]
    folder = tmp_path / "previews" / name
    for each in (folder, tmp_path / "leases"):
        each.mkdir(parents=True)
    if lease:
        (tmp_path / "leases" / name).write_text(lease)
    preview = {**PREVIEW, "dir": str(folder)}
    argv = _apply.beforehand(preview)
    script = argv[: argv.index("docker")]
    call = ["sh", "-c", 'cat; echo here >"$0"', str(tmp_path / "ran")]
    ran = subprocess.run(
        [*script, *call], input="services: {}\n", text=True, capture_output=True, check=False
    )
    assert (ran.returncode == 0, (tmp_path / "ran").exists()) == (runs, runs)
    if runs:
        assert "services: {}" in ran.stdout
    assert not list(folder.iterdir())


def test_only_what_is_wanted_is_started():
    assert words("none") == []
    up = ["up", "--detach", "--no-build", "--quiet-pull"]
    assert words("data") == [*up, "--", "db"]
    assert words("all") == [*up, "--remove-orphans"]
    assert words("data", services=PREVIEW["services"][1:]) == []


def test_what_compose_says_is_told_but_its_progress():
    applied = _apply.parse(PULL)
    assert (applied.changed, applied.failed, applied.late) == (True, True, False)
    assert applied.said == [
        ' db Error Get "https://registry.example.org/v2/": dial tcp: no such host',
        "Error response from daemon: no such host",
    ]


@pytest.mark.parametrize(
    "output, expected",
    [
        ("same\n", (False, False, False)),
        ("same\n Container a-db-1  Running\n\n0\n", (False, False, False)),
        ("changed\n Container a-db-1  Waiting\n\n124\n", (True, True, True)),
        ("changed\n\n137\n", (True, True, False)),
    ],
)
def test_the_end_of_compose_is_told(output, expected):
    applied = _apply.parse(output)
    assert (applied.changed, applied.failed, applied.late) == expected


def test_no_part_of_a_secret_is_told_where_the_output_was_cut():
    secret = "correct horse\nbattery staple"
    whole = f"unable to find user {secret} " * 4000
    kept = whole[-(_apply.KEPT - 7) :]
    assert not kept.startswith(("unable", "correct"))
    said = "\n".join(_apply.parse(f"changed\n{kept}\n1\n", [secret]).said)
    assert "********" in said
    assert not any(word in said for word in ("horse", "battery", "staple"))
