# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A task costs more than what it does: a run has the same few for one service and for many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# The gateway is set up once on a host.
STAGES = [each for each in (ROOT / "roles").iterdir() if each.name != "gateway"]
FILES = [
    *(ROOT / "playbooks").rglob("*.yml"),
    *(file for stage in STAGES for file in (stage / "tasks").glob("*.yml")),
]


def tasks(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All tasks of a play or a file, those in blocks, too."""
    for entry in entries:
        yield entry
        for nested in ("tasks", "block", "rescue", "always"):
            yield from tasks(entry.get(nested, []))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_task_is_run_once_an_object(file: Path) -> None:
    found = list(tasks(yaml.safe_load(file.read_text(encoding="utf-8"))))
    assert found
    assert not [key for task in found for key in task if key == "loop" or key.startswith("with_")]
