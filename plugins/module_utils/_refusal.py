# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How an app definition is refused: all that is wrong with it, in sentences for its author."""

from __future__ import annotations

import json
import re
from typing import Any, Iterable, List, Sequence, Tuple, Union

SHOWN = 25
"""So many problems are told in a message; of the rest, their number."""

KEPT = 200
"""So many are returned."""

Path = Tuple[Union[str, int], ...]


class Refused(Exception):
    """The definition can't be used. ``problems`` holds one sentence for each thing wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: List[str] = list(dict.fromkeys(problems))[:KEPT]
        super().__init__(listing(self.problems))


def listing(problems: Sequence[str]) -> str:
    """The problems as one message, a line each."""
    lines = list(problems[:SHOWN])
    if len(problems) > SHOWN:
        lines.append("... and {0} more.".format(len(problems) - SHOWN))
    return "\n".join(lines)


def key_path(path: Path) -> str:
    """``("services", "web", "ports", 0)`` as ``services.web.ports[0]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += "[{0}]".format(part)
        else:
            text += ("." if text else "") + plain(part, 80)
    return text


def shown(value: Any) -> str:
    """A value as the author wrote it, short, on one line, without control characters."""
    if isinstance(value, str):
        return (
            "'{0}'".format(plain(value, 80))
            if value.strip() != value or not value
            else (plain(value, 80))
        )
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = type(value).__name__
    return plain(text, 80)


def unobeyed(text: str) -> str:
    """The text without what some CI runners take as a command wherever it stands in a line."""
    return re.sub(r"(?i)##(?=\[|vso\[|teamcity\[)", "# #", text)


def plain(text: str, length: int) -> str:
    """Text of an unknown author, safe on a terminal and in a log, cut to a length."""
    safe = unobeyed("".join(c if c.isprintable() else "\ufffd" for c in text[: length + 1]))
    return safe if len(safe) <= length else safe[: length - 3] + "..."
