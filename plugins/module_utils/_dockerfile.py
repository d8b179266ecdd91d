# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be told of a Dockerfile without building it: its frontend, its labels, its bases.

This is a first net with good messages. What holds is the builder (it sees no image of another
preview) and a look at the image once it is built.
"""

from __future__ import annotations

import bisect
import json
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import _names
from ansible_collections.ephemera.preview.plugins.module_utils._arguments import FRONTENDS
from ansible_collections.ephemera.preview.plugins.module_utils._checks import (
    ANY_IMAGE,
    Images,
)
from ansible_collections.ephemera.preview.plugins.module_utils._interpolate import (
    TemplateError,
    closing,
    substitute,
)
from ansible_collections.ephemera.preview.plugins.module_utils._refusal import plain

SIZE_MAX = 256 << 10
INSTRUCTIONS_MAX = 5000
FILLED_MAX = 8 << 20
UNKNOWN_SIZE = 256  # of a variable that a base image may set
NESTING_MAX = 4

_DIRECTIVE = re.compile(r"\s*(?:#|//)\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(\S+)")
_FROM = re.compile(r"from\s+(?:--\S+\s+)*(\S+)(?:\s+as\s+(\S+))?", re.IGNORECASE)
_ARG = re.compile(r"arg\s+(.*)", re.IGNORECASE | re.DOTALL)
_ASSIGNMENT = re.compile(r"(\w+)=((?:\"(?:\\.|[^\"\\])*\"|'[^']*'|\\.|[^\s\"'\\])*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(/?))")
_USES = re.compile(r"(?:--from=|[,=\s]from=)[\"']?([^\s,\"']+)")


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, its continued lines joined."""

    line: int
    text: str


def problems(
    text: str,
    name: str,
    args: Mapping[str, Any],
    contexts: Iterable[str] = (),
    frontends: Sequence[str] = FRONTENDS,
    images: Images = ANY_IMAGE,
) -> List[str]:
    """What is refused in a Dockerfile, as sentences; ``args`` are the build's arguments."""
    found = refused_frontends(text, name, frontends)
    too_large = _too_large(text, args)
    if too_large:
        return [*found, "{0}: {1}.".format(name, too_large)]
    for instruction in parse(text, heredocs=False):
        words = re.sub(r"(?i)\Aonbuild\s+", "", instruction.text)
        if re.match(r"(?i)label\s", words) and _names.PREFIX in words.lower():
            found.append(
                "{0}:{1}: LABEL {2}... is refused: labels that begin so are the platform's. "
                "Remove it.".format(name, instruction.line, _names.PREFIX)
            )
    for line, image, reason in _bases(parse(text), args, set(contexts), images):
        found.append(
            "{0}:{1}: image {2} is refused: {3}.".format(name, line, plain(image, 80), reason)
        )
    return found


def refused_frontends(text: str, name: str, frontends: Sequence[str]) -> List[str]:
    return [
        "{0}: # syntax={1} is refused: this program would read the Dockerfile on the builder. Use "
        "one of {2}, or let the platform list it in preview_build_frontends.".format(
            name, plain(frontend, 80), ", ".join(frontends)
        )
        for frontend in syntaxes(text)
        if not may_read(frontend, frontends)
    ]


def syntaxes(text: str) -> List[str]:
    """Every frontend that a version of BuildKit may read out of the file's head."""
    text = text.lstrip("\ufeff")
    found = []
    for line in text.split("\n"):
        if line.startswith("#!"):
            continue
        if not line.lstrip().startswith(("#", "//")):
            break
        match = _DIRECTIVE.match(line)
        if match and match.group(1).lower() == "syntax":
            found.append(match.group(2))
    body = text.split("\n", 1)[-1] if text.startswith("#!") else text
    if body.lstrip().startswith("{"):
        try:
            value = json.loads(body)
        except RecursionError:
            # BuildKit reads on where we cannot.
            return [*found, "(JSON that is nested too deep)"]
        except ValueError:
            value = None
        # BuildKit reads JSON's keys in any case.
        for key, each in value.items() if isinstance(value, dict) else ():
            if key.lower() == "syntax" and isinstance(each, str):
                found.append(each)
    return found


_OWN = re.compile(r"docker/dockerfile(?::(?:1(?:\.[0-9]+)*|latest))?(?:@sha256:[0-9a-f]{64})?")


def is_own(frontend: str) -> bool:
    """Whether the engine's own frontend stands for it, so that nothing is pulled."""
    return _OWN.fullmatch(_without_hub(frontend)) is not None


def may_read(frontend: str, patterns: Iterable[str]) -> bool:
    """Whether a frontend is listed; ``*`` is a version such as 7 or 7.1, and nothing else.

    What is pulled is what the platform lists: no digest is added to it. Old frontends and strange
    ones would keep no cache mounts apart.
    """
    name = _without_hub(frontend)
    if is_own(frontend):
        name = name.partition("@")[0]
    listed = (re.escape(each).replace(r"\*", r"[0-9]+(?:\.[0-9]+)*") for each in patterns)
    return any(re.fullmatch(expression, name) for expression in listed)


def _without_hub(frontend: str) -> str:
    return re.sub(r"\A(?:index\.)?docker\.io/", "", frontend)


def _escape(text: str) -> str:
    head = re.match(r"(?:\s*#[^\n]*\n)*", text.lstrip("\ufeff"))
    ticks = head and re.search(r"(?im)^[ \t]*#[ \t]*escape[ \t]*=[ \t]*`", head.group())
    return "`" if ticks else "\\"


def parse(text: str, heredocs: bool = True, escape: str = "") -> List[Instruction]:
    """The instructions of a Dockerfile, without the texts of here-documents.

    With ``heredocs`` false no such text is looked for, so that none can hide an instruction.
    """
    escape = escape or _escape(text)
    found: List[Instruction] = []
    parts: List[str] = []
    start = 0
    lines = text.lstrip("\ufeff").replace("\r\n", "\n").split("\n")
    places: Dict[str, List[int]] = {}
    for index, line in enumerate(lines):
        places.setdefault(line.lstrip("\t"), []).append(index)
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.lstrip().startswith("#") or (parts and not line.strip()):
            continue
        if not parts:
            start = number
        stripped = line.rstrip(" \t")
        if stripped.endswith(escape) and not stripped.endswith(escape * 2):
            parts.append(stripped[:-1])
            continue
        parts.append(line)
        joined = "".join(parts).strip()
        parts = []
        if joined:
            found.append(Instruction(start, joined))
        if heredocs and re.match(r"(?i)(?:onbuild\s+)?(?:run|copy|add)\s", joined):
            for end in re.findall(r"(?<!<)<<-?[\"']?([A-Za-z_][A-Za-z0-9_]*)[\"']?", joined):
                at = bisect.bisect_left(places.get(end, []), number)
                if at < len(places.get(end, [])):
                    number = places[end][at] + 1
    if parts:
        found.append(Instruction(start, "".join(parts).strip()))
    return found


def _too_large(text: str, args: Mapping[str, Any]) -> Optional[str]:
    """Whether the engine, which fills in variables in its own memory, would run out of it."""
    for escape in sorted({"\\", _escape(text)}):
        sizes = _Sizes({name: len(str(value)) for name, value in args.items()})
        filled = 0
        instructions = parse(text, heredocs=False, escape=escape)
        if len(instructions) > INSTRUCTIONS_MAX:
            return "it has more than {0} instructions".format(INSTRUCTIONS_MAX)
        for instruction in instructions:
            words = re.sub(r"(?i)\Aonbuild\s+", "", instruction.text)
            size = sizes.of(words)
            # Every RUN is handed the whole environment.
            filled += size + (sizes.together if words[:3].lower() == "run" else 0)
            if filled > FILLED_MAX:
                return (
                    "with its variables filled in it is longer than {0} MiB by line {1}. Let no "
                    "ARG or ENV repeat others so often".format(FILLED_MAX >> 20, instruction.line)
                )
            if re.match(r"(?i)(?:arg|env)\s", words):
                sizes.assign(words, size)
    return None


class _Sizes:
    """How many characters each variable of a Dockerfile may hold, at most."""

    def __init__(self, sizes: Dict[str, int]) -> None:
        self.sizes = sizes
        self.any = 0  # what may have been assigned to any of them
        self.together = sum(sizes.values())

    def assign(self, words: str, size: int) -> None:
        """Know what ARG or ENV assigns; all its words are ``size`` long once filled in."""
        given = [(name, self.of(value)) for name, value in _ASSIGNMENT.findall(words)]
        old_form = re.match(r"(?i)env\s+(\w+)\s", words)
        if old_form:
            given.append((old_form.group(1), size))
        elif re.search(r"[^\w\s]", _ASSIGNMENT.sub("", words)):
            self.any = max(self.any, size)
            self.together += size
        for name, length in given:
            known = self.sizes.get(name, 0)
            self.sizes[name] = max(known, length)
            self.together += self.sizes[name] - known

    def of(self, text: str, level: int = 0) -> int:
        """The most characters a text can have once its variables are filled in."""
        total, at = len(text), 0
        while total <= FILLED_MAX:
            found = _VARIABLE.search(text, at)
            if not found:
                break
            at = found.end()
            name = found.group(1) or found.group(2)
            size = max(self.sizes.get(name, UNKNOWN_SIZE), self.any)
            total += size
            if found.group(3):  # ${name/that/this}: each character may become what follows
                if level == NESTING_MAX:
                    return FILLED_MAX + 1
                close = closing(text, found.start() + 1)
                at = len(text) if close is None else close
                total += (size + 1) * self.of(text[found.end() : at], level + 1)
        return total


def _bases(
    instructions: List[Instruction],
    args: Mapping[str, Any],
    contexts: Set[str],
    images: Images,
) -> List[Tuple[int, str, str]]:
    """The images a Dockerfile builds upon that may not be used: line, image, reason."""
    known: Dict[str, str] = {}
    stages = {name.lower() for name in contexts} | {"scratch"}
    found = []
    before_stages = True
    for line, text in instructions:
        arg = _ARG.match(text) if before_stages else None
        if arg:
            for assignment in arg.group(1).split():
                name, given, default = assignment.partition("=")
                if name in args and args[name] is not None:
                    known[name] = str(args[name])
                elif given:
                    value = _filled(default.strip("\"'"), known)
                    known.pop(name, None)
                    if value is not None:
                        known[name] = value
        used = []
        base = _FROM.match(text)
        if base:
            before_stages = False
            used = [base.group(1)]
        elif re.match(r"(?i)(?:onbuild\s+)?(?:copy|add|run)\s", text):
            used = _USES.findall(text)
        for written in used:
            image = _filled(written.strip("\"'"), known)
            if image is None:
                if images.patterns:
                    found.append((line, written, "which one it is can't be told before the build"))
            elif image.lower() not in stages and not image.isdigit():
                reason = images.refused(image)
                if reason:
                    found.append((line, image, reason))
        if base and base.group(2):
            stages.add(base.group(2).lower())
    return found


def _filled(text: str, known: Mapping[str, str]) -> Optional[str]:
    """A text with a Dockerfile's arguments filled in, None where that can't be told."""
    missing: List[Any] = []
    try:
        value = substitute(text, known.get, missing)
    except TemplateError:
        return None
    return None if missing else value
