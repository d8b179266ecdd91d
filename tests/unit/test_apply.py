"""What Docker Compose says when a project is applied, and what is made of it."""

from __future__ import annotations

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _apply

PREVIEW = {
    "name": "shop-pr-42",
    "dir": "/state/previews/shop-pr-42",
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
    return _apply.command({**PREVIEW, **changes}, start, check=False)[8:][12:]


def test_new_data_services_start_beforehand_and_no_others():
    begun = _apply.beforehand(PREVIEW)
    assert begun[7] == "aside" and begun[begun.index("--file") + 1] == "-"
    assert begun[-2:] == ["--", "db"]
    there = {"containers": [{"service": "db"}]}
    assert _apply.beforehand({**PREVIEW, "observed": there}) == []
    assert _apply.beforehand({**PREVIEW, "services": PREVIEW["services"][1:]}) == []


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
