# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables: ``${NAME:-default}`` in a Compose file, and the ``.env`` files that give values.

Both grammars are Compose's (tests hold them against the program). They are read here and not by
it, since whatever variables Compose is given stand in its process environment too, where the
author's ``.env`` could name LD_PRELOAD or DOCKER_HOST.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils._refusal import Path, plain

NESTING = 16
TEXT_MAX = 256 << 10
"""Characters one text may have after its variables are filled in."""

TOTAL_MAX = 1 << 20
"""Characters all texts of a file may have together."""

Lookup = Callable[[str], Optional[str]]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-+?]")
RESERVED = ("COMPOSE_", "DOCKER_")
"""Variables that steer programs on the builder, not the app."""


class TemplateError(ValueError):
    """A text whose ``$`` can't be read. The message is the reason."""


class Missing(NamedTuple):
    """A variable without value: its name, and what the author says after ``:?``."""

    name: str
    message: str = ""


def substitute(text: str, lookup: Lookup, missing: List[Missing]) -> str:
    """``text`` with its variables filled in; those without a value are added to ``missing``.

    Raises TemplateError.
    """
    return _substitute(text, lookup, missing, 0) if "$" in text else text


def _substitute(text: str, lookup: Lookup, missing: List[Missing], level: int) -> str:
    if level > NESTING:
        raise TemplateError("defaults are nested deeper than {0} levels".format(NESTING))
    parts: List[str] = []
    length = 0
    at = 0
    while at <= len(text):
        dollar = text.find("$", at)
        if dollar < 0:
            part, at = text[at:], len(text) + 1
        elif dollar > at:
            part, at = text[at:dollar], dollar
        else:
            part, at = _expression(text, dollar, lookup, missing, level)
        length += len(part)
        if length > TEXT_MAX:
            raise TemplateError(
                "with its variables filled in it is longer than {0} KiB".format(TEXT_MAX >> 10)
            )
        parts.append(part)
    return "".join(parts)


def _expression(
    text: str, at: int, lookup: Lookup, missing: List[Missing], level: int
) -> Tuple[str, int]:
    """What the expression at ``at`` stands for, and where the text goes on."""
    following = text[at + 1 : at + 2]
    if following == "$":
        return "$", at + 2
    braced = following == "{"
    name_match = _NAME.match(text, at + 2 if braced else at + 1)
    if name_match is None:
        raise TemplateError(
            "{0} is no variable; write $$ for a dollar sign".format(plain(text[at : at + 12], 12))
        )
    name, end = name_match.group(), name_match.end()
    if not braced:
        return _value(name, lookup, missing), end
    close = closing(text, at + 1)
    if close is None:
        raise TemplateError("{0} is not closed".format(plain(text[at:end], 80)))
    operator = _OPERATOR.match(text, end)
    if end == close:
        return _value(name, lookup, missing), close + 1
    if operator is None:
        raise TemplateError("{0} can't be read".format(plain(text[at : close + 1], 80)))
    word = text[operator.end() : close]
    if "\n" in word:
        raise TemplateError("what follows {0} spans lines".format(plain(text[at:end], 80)))
    value = lookup(name)
    is_set = value is not None and not (operator.group()[0] == ":" and value == "")
    kind = operator.group()[-1]
    if kind == "+":
        return (_substitute(word, lookup, missing, level + 1) if is_set else ""), close + 1
    if is_set and value is not None:
        return value, close + 1
    if kind == "-":
        return _substitute(word, lookup, missing, level + 1), close + 1
    missing.append(Missing(name, _substitute(word, lookup, [], level + 1)))
    return "", close + 1


def _value(name: str, lookup: Lookup, missing: List[Missing]) -> str:
    value = lookup(name)
    if value is None:
        missing.append(Missing(name))
        return ""
    return value


def closing(text: str, at: int) -> Optional[int]:
    """Where the brace that opens at ``at`` is closed."""
    level = 0
    for match in re.compile("[{}]").finditer(text, at):
        level += 1 if match.group() == "{" else -1
        if level == 0:
            return match.start()
    return None


class Entry(NamedTuple):
    """A line of a ``.env`` file. ``raw`` still holds its variables; None: take over by name."""

    line: int
    name: str
    raw: Optional[str]
    literal: bool


class DotenvError(ValueError):
    """A ``.env`` file that can't be read. ``line`` says where."""

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        super().__init__(reason)


_BLANK = " \t\v\f\r\x85\xa0"
_SPACE = _BLANK + "\n"
_KEY = re.compile(r"[^\W]|[.\-\[\]]")
_EXPORT = re.compile(r"export[ \t\v\f\r\x85\xa0]+")
_ESCAPE = re.compile(r'\\(?:([abcfnrtv$"\\])|0([0-9]{0,3}))')
_ESCAPES = dict(zip('abfnrtv"\\', '\a\b\f\n\r\t\v"\\'), **{"$": "$$", "c": "\\c"})


def dotenv(text: str) -> List[Entry]:
    """The entries of a ``.env`` file in their order. Raises DotenvError."""
    entries: List[Entry] = []
    at = 0
    line = 1
    while True:
        start = at
        while at < len(text) and (text[at] in _SPACE or text[at].isspace()):
            at += 1
        line += text.count("\n", start, at)
        if at >= len(text):
            return entries
        if text[at] == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
            continue
        name, at, inherited = _dotenv_key(text, at, line)
        if inherited:
            entries.append(Entry(line, name, None, False))
            continue
        while at < len(text) and text[at] in _BLANK:
            at += 1
        begin = at
        quote = text[at] if at < len(text) and text[at] in "'\"" else ""
        if quote:
            raw, at = _quoted(text, at, line)
        else:
            end = text.find("\n", at)
            end = len(text) if end < 0 else end
            raw, at = text[at:end].split(" #", 1)[0].rstrip(), end
        entries.append(Entry(line, name, raw, quote == "'"))
        line += text.count("\n", begin, at)


def _dotenv_key(text: str, at: int, line: int) -> Tuple[str, int, bool]:
    export = _EXPORT.match(text, at)
    begin = at = export.end() if export else at
    while at < len(text) and text[at] not in "=:\n":
        if not (_KEY.match(text[at]) or text[at] in _BLANK):
            shown = plain(text[begin : begin + 40].split("\n")[0], 40)
            raise DotenvError(line, "{0} is no assignment".format(shown))
        at += 1
    name = text[begin:at].rstrip()
    if not name or any(c in name for c in _BLANK):
        raise DotenvError(
            line, "{0!r} is no name of a variable".format(plain(text[begin:at].strip(), 40))
        )
    inherited = at >= len(text) or text[at] == "\n"
    return name, at if inherited else at + 1, inherited


def _quoted(text: str, at: int, line: int) -> Tuple[str, int]:
    """A quoted value that begins at ``at``, with its escapes undone."""
    quote = text[at]
    chars: List[str] = []
    escaped = False
    for i in range(at + 1, len(text)):
        char = text[i]
        if char == quote and not escaped:
            value = "".join(chars)
            return (_unescaped(value) if quote == '"' else value), i + 1
        if char == "\\" and not escaped:
            escaped = True
            continue
        if escaped and char != quote:
            chars.append("\\")
        chars.append(char)
        escaped = False
    raise DotenvError(line, "a quoted value is not closed")


def _unescaped(value: str) -> str:
    def replaced(match: "re.Match[str]") -> str:
        if match.group(1):
            return _ESCAPES[match.group(1)]
        digits = match.group(2)
        is_octal = re.fullmatch("[0-3][0-7]{2}", digits)
        # What is no character loses its 0: Compose does so.
        return chr(int(digits, 8)) if is_octal else "\\" + digits

    return _ESCAPE.sub(replaced, value)


class Variables:
    """What a Compose file may use: granted by the platform, else from ``.env`` files.

    A later file wins over an earlier one, and a grant over all.
    """

    def __init__(self, granted: Mapping[str, str]) -> None:
        self.granted = dict(granted)
        self.files: Dict[str, str] = {}
        self.origin: Dict[str, str] = {}
        self.unresolved: Dict[str, List[Missing]] = {}
        self.ignored: List[str] = []

    def get(self, name: str) -> Optional[str]:
        """The value, or None where nobody gives one that is whole."""
        if name in self.granted:
            return self.granted[name]
        return None if name in self.unresolved else self.files.get(name)

    def read(self, text: str, file: str) -> None:
        """Add a ``.env`` file's. Raises DotenvError; values may use what is known so far."""
        total = 0
        for entry in dotenv(text):
            if entry.name.upper().startswith(RESERVED):
                self.ignored.append("{0}:{1}: {2}".format(file, entry.line, plain(entry.name, 80)))
                continue
            missing: List[Missing] = []
            value = evaluate(entry, self.get, missing)
            if value is None:
                continue
            total += len(value)
            if total > TOTAL_MAX:
                raise DotenvError(entry.line, "the values are too long together")
            self.files[entry.name] = value
            self.origin[entry.name] = "{0}:{1}".format(file, entry.line)
            self.unresolved.pop(entry.name, None)
            for each in missing:
                self.unresolved.setdefault(entry.name, []).append(each)


def evaluate(entry: Entry, lookup: Lookup, missing: List[Missing]) -> Optional[str]:
    """An entry's value, None for a name that is taken over and unknown. Raises DotenvError."""
    if entry.raw is None:
        return lookup(entry.name)
    if entry.literal:
        return entry.raw
    try:
        return substitute(entry.raw, lookup, missing)
    except TemplateError as error:
        raise DotenvError(entry.line, "{0}: {1}".format(plain(entry.name, 80), error)) from None


class Filled(NamedTuple):
    """Data with its variables filled in, and what was wrong, by the path of the text."""

    value: Any
    missing: List[Tuple[Path, Missing]]
    broken: List[Tuple[Path, str]]


def fill(value: Any, lookup: Lookup) -> Filled:
    """Fill in every text of plain data (keys stay as they are)."""
    filled = Filled(value, [], [])
    budget = [TOTAL_MAX]
    return filled._replace(value=_fill(value, (), lookup, filled, budget))


def _fill(value: Any, path: Path, lookup: Lookup, filled: Filled, budget: List[int]) -> Any:
    if isinstance(value, dict):
        return {k: _fill(v, path + (k,), lookup, filled, budget) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, path + (i,), lookup, filled, budget) for i, v in enumerate(value)]
    if not isinstance(value, str) or budget[0] < 0:
        return value
    missing: List[Missing] = []
    try:
        text = substitute(value, lookup, missing)
    except TemplateError as error:
        filled.broken.append((path, str(error)))
        return ""
    filled.missing.extend((path, each) for each in missing)
    budget[0] -= len(text)
    if budget[0] < 0:
        filled.broken.append(
            (
                path,
                "with their variables filled in, the texts of the file are longer than "
                "{0} KiB".format(TOTAL_MAX >> 10),
            )
        )
    return text


def escape(value: Any) -> Any:
    """The same data with every ``$`` doubled, as Compose reads a dollar sign."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {k: escape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [escape(v) for v in value]
    return value


def unescape(value: Any) -> Any:
    """The opposite of ``escape``."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, dict):
        return {k: unescape(v) for k, v in value.items()}
    if isinstance(value, list):
        return [unescape(v) for v in value]
    return value
