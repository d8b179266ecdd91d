# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""docs/compose.md says what the table says.

To write it anew: PYTHONPATH=.collections:tests/testbed python tests/unit/test_compose_docs.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from definitions import read, write

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compose.md"
SILENT = "A note says so and why, except of keys that say nothing to a preview."
BEGIN, END = "<!-- keys: begin -->\n", "<!-- keys: end -->\n"


def written(key: str) -> str:
    """A key of the table; one below a service begins with a dot."""
    return f"`{key.replace('services.*.', '.').replace('[]', '')}`"


def reference() -> str:
    """The keys of the table that are not taken over; for the others see test_compose_targets."""
    from ansible_collections.ephemera.preview.plugins.module_utils._screen import RULES, SETTING

    left: dict[str, list[str]] = {}
    refused: dict[tuple[str, str], list[str]] = {}
    for key, rule in RULES.items():
        if rule.verdict == "leave":
            left.setdefault(rule.why or "it says nothing to a preview", []).append(written(key))
        elif rule.verdict == "refuse":
            fix = f"`{SETTING}: [{rule.allow}=...]`" if rule.allow else rule.fix
            refused.setdefault((rule.why, fix), []).append(written(key))
    lines = ["### Left out", "", SILENT, "", "| keys | why |", "|---|---|"]
    lines += [f"| {', '.join(dict.fromkeys(keys))} | {why} |" for why, keys in left.items()]
    lines += ["", "### Refused", "", "| keys | why | what to do |", "|---|---|---|"]
    lines += [f"| {', '.join(keys)} | {why} | {fix} |" for (why, fix), keys in refused.items()]
    return "\n".join(lines) + "\n"


def test_the_page_lists_every_key() -> None:
    page = PAGE.read_text()
    before, _begin, rest = page.partition(BEGIN)
    found, _end, after = rest.partition(END)
    assert found == reference(), "to write it anew, see the top of this file"
    assert before and after


def test_the_page_tells_the_limits_of_the_code() -> None:
    from ansible_collections.ephemera.preview.plugins.module_utils import (
        _definition,
        _screen,
        _xpreview,
        _yaml,
    )

    page = PAGE.read_text()
    for text in (
        f"{_yaml.LIMITS.size >> 10} KiB",
        f"{_yaml.LIMITS.nodes:,} values",
        f"{_yaml.LIMITS.depth} levels",
        f"{_definition.ENV_MAX >> 10} KiB",
        f"{_screen.SERVICES_MAX} services",
        f"{_screen.REPLICAS_MAX} replicas",
        f"{_screen.CONTAINERS_MAX} containers",
        f"{_screen.PORTS_MAX:,} ports",
        f"{_screen.SHM_MAX >> 30} GiB",
        f"{_xpreview.HOOK_TIMEOUT} seconds",
    ):
        assert text in page, text
    keys = set(_xpreview.SCHEMA["$defs"]["service"]["properties"])
    keys |= set(_xpreview.SCHEMA["properties"])
    keys |= set(_xpreview.SCHEMA["$defs"]["health"]["anyOf"][1]["properties"])
    assert keys <= set(re.findall(r"`([a-z_]+)`", page))


@pytest.mark.parametrize("page", ["compose", "first-preview"])
def test_what_the_page_shows_can_be_used(page: str, tmp_path: Path) -> None:
    """Its Compose files, the last of which is an app."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    shown = [block for block in re.findall(r"(?s)```yaml\n(.*?)```", text) if "build: ." in block]
    write(tmp_path, {"Dockerfile": "FROM busybox\n"})
    found = read(tmp_path, shown[-1])
    assert found.x_preview["services"][found.x_preview["web"]]["migrate"]


if __name__ == "__main__":
    text = PAGE.read_text()
    head, dummy, tail = text.partition(BEGIN)
    PAGE.write_text(head + BEGIN + reference() + END + tail.partition(END)[2])
