# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Regular expressions of the whole collection: none takes a line's end for the text's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from re import _constants, _parser

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _xpreview

PLUGINS = Path(__file__).parents[2] / "plugins"
FUNCTIONS = {"compile", "findall", "finditer", "fullmatch", "match", "search", "split", "sub"}


def patterns(file: Path) -> Iterator[tuple[int, str, bool]]:
    """(line, pattern, whether it is told to match at each line) of what stands in the source."""
    for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
            continue
        module, pattern = call.func.value, call.args[0]
        if isinstance(module, ast.Name) and module.id == "re" and call.func.attr in FUNCTIONS:
            for part in ast.walk(pattern):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield call.lineno, part.value, "MULTILINE" in ast.unparse(call)


def ends_at_a_line(pattern: str) -> bool:
    try:
        return (_constants.AT, _constants.AT_END) in flat(_parser.parse(pattern))
    except re.error:  # a part of a longer one
        return pattern.endswith("$")


def flat(item: object) -> Iterator[object]:
    yield item
    if isinstance(item, (list, tuple, _parser.SubPattern)):
        for each in item:
            yield from flat(each)


def test_no_pattern_lets_a_newline_through_at_the_end() -> None:
    files = sorted(PLUGINS.rglob("*.py"))
    found = [
        f"{file.name}:{line}: {pattern} (write \\Z, or use fullmatch)"
        for file in files
        for line, pattern, each_line in patterns(file)
        if not each_line and ends_at_a_line(pattern)
    ]
    assert len(files) > 40 and not found, "\n".join(found)


@pytest.mark.parametrize(
    "wish",
    [
        {"health": "/health\n"},
        {"health": {"path": "/health", "deep": "/deep\n"}},
        {"health": {"status": "200\n"}},
        {"health": {"interval": "5s\n"}},
        {"health": {"retries": "5\n"}},
        {"expose": "8000\n"},
        {"migrate": {"command": "true", "timeout": "5m\n"}},
    ],
)
def test_no_wish_ends_in_a_newline(wish: dict) -> None:
    assert _xpreview.validate(None, {"web": wish})
