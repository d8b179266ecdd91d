# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Helpers of the tests that read app definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _compose, _definition
from ansible_collections.ephemera.preview.plugins.module_utils._refusal import Refused
from packages import IN_CI

FIXTURES = Path(__file__).parent / "fixtures" / "compose"
PROJECT = "shop-pr-42"


def compose_program() -> str:
    """The Compose program; without one a test is skipped, and fails in CI."""
    try:
        return _compose.find()[0]
    except _compose.Unavailable as error:
        if IN_CI:
            pytest.fail(str(error))
        pytest.skip(str(error))


def write(folder: Path, files: dict[str, Any]) -> Path:
    """Files below a folder, from text or bytes by relative path."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content)
    return folder


def read(folder: Path, text: str | None = None, **options: Any) -> _definition.Definition:
    """The definition in a folder, after ``text`` was written there."""
    compose_program()
    if text is not None:
        write(folder, {"compose.yaml": text})
    request = _definition.Request(path=str(folder), project=PROJECT)
    return _definition.read(request._replace(**options))


def refused(folder: Path, text: str | None = None, **options: Any) -> list[str]:
    """The problems for which the definition in a folder is refused."""
    with pytest.raises(Refused) as caught:
        read(folder, text, **options)
    return caught.value.problems
