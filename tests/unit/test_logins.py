# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords that a command gives, by real commands."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.plugin_utils import _base
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction

ECR = "1.dkr.ecr.example.org"


@pytest.fixture
def action() -> PreviewAction:
    found = PreviewAction.__new__(PreviewAction)
    found.passwords = []
    return found


def entry(*argv: str) -> dict[str, Any]:
    return {"registry": ECR, "username": "AWS", "password": None, "password_command": list(argv)}


def test_a_password_and_a_command_in_its_place(action: PreviewAction) -> None:
    plain = {"registry": "r.example.org", "username": "u", "password": "plain-1"}
    # No shell reads it, and what ends its line is no part of it.
    told = entry("printf", "%s\n", "$(id);told-2")
    assert action.logins([plain, told]) == [
        plain,
        {"registry": ECR, "username": "AWS", "password": "$(id);told-2"},
    ]
    assert action.passwords == ["plain-1", "$(id);told-2"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["/nonexistent/aws"], "cannot be started on the controller: No such file or directory."),
        (["sh", "-c", "echo Expired >&2; exit 253"], "ended with code 253: Expired"),
        (["sh", "-c", "exit 3"], "ended with code 3: it said nothing."),
        (["true"], "printed something else than a password"),
        (["printf", "one\ntwo"], "printed something else than a password"),
        (["sh", "-c", "head -c 20000 /dev/zero | tr '\\0' x"], "something else than a password"),
        (["sleep", "60"], "did not end within 2 s"),
    ],
)
def test_a_command_that_gives_none(
    action: PreviewAction, argv: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_base, "PASSWORD_SECONDS", 2)
    with pytest.raises(AnsibleActionFail) as caught:
        action.logins([entry(*argv)])
    assert sentence in str(caught.value)
    assert f"preview_registries: {argv[0]}, the password_command of {ECR}," in str(caught.value)


def test_what_a_command_printed_is_never_shown(action: PreviewAction) -> None:
    with pytest.raises(AnsibleActionFail) as caught:
        action.logins([entry("sh", "-c", "echo token-9; echo bad token-9 >&2; exit 1")])
    assert "ended with code 1: bad ********" in str(caught.value)
