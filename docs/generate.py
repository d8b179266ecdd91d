#!/usr/bin/env python
# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Writes settings.md from the table of settings. Run it after the table has changed."""

from __future__ import annotations

import json
import runpy
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

INTRODUCTION = """\
# Settings

<!-- Made by docs/generate.py from plugins/module_utils/_settings.py; edit that instead. -->

Settings are variables of an app, which is a host in the inventory: in its `host_vars`, in
`group_vars/preview_apps.yml` for all apps, or on the command line.

They are checked before anything happens. All that is wrong comes in one message: a value that
does not hold to its rule, and a variable that begins with `preview_` and is no setting. So name
variables of your own otherwise. Nothing after the colon means *not set*.

On the command line `-e preview_number=42` does for texts, numbers, times and yes or no; lists and
dictionaries are given as JSON: `-e '{"preview_profiles": ["worker"]}'`. A list or dictionary takes
the place of the default, it is not added to it.

What is marked *secret* belongs into a vault. It is shown neither in a message nor in a result. Do
not give it by `-e name=value`: other users of the machine see it in the list of processes.
"""


def rows() -> list[dict[str, Any]]:
    runpy.run_path(str(HERE.parent / "tests" / "conftest.py"))
    from ansible_collections.ephemera.preview.plugins.module_utils import _settings

    return _settings.documentation()


def default(value: Any) -> str:
    if value in (None, "", [], {}):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def line(row: dict[str, Any]) -> str:
    secret = " *Secret.*" if row["secret"] else ""
    cells = [
        f"`{row['name']}`",
        default(row["default"]),
        f"{row['meaning']}{secret}",
        f"{row['type']}: {row['rule']}",
        f"`{row['example']}`",
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def page() -> str:
    parts = [INTRODUCTION]
    for section, settings in groupby(rows(), key=lambda row: row["section"]):
        parts.append(f"\n## {section}\n\n")
        parts.append("| setting | default | meaning | value | for instance |\n")
        parts.append("|---|---|---|---|---|\n")
        parts.extend(line(row) for row in settings)
    return "".join(parts)


if __name__ == "__main__":
    (HERE / "settings.md").write_text(page(), encoding="utf-8")
