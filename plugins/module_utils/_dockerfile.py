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
from ansible_collections.ephemera.preview.plugins.module_utils._checks import (
    image_allowed,
    image_name,
)
from ansible_collections.ephemera.preview.plugins.module_utils._interpolate import (
    TemplateError,
    substitute,
)
from ansible_collections.ephemera.preview.plugins.module_utils._refusal import plain

SIZE_MAX = 256 << 10
FRONTENDS = ("docker/dockerfile:1", "docker/dockerfile:1.*")

_DIRECTIVE = re.compile(r"\s*(?:#|//)\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(\S+)")
_FROM = re.compile(r"from\s+(?:--\S+\s+)*(\S+)(?:\s+as\s+(\S+))?", re.IGNORECASE)
_ARG = re.compile(r"arg\s+(.*)", re.IGNORECASE | re.DOTALL)
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
    images: Tuple[str, ...] = (),
) -> List[str]:
    """What is refused in a Dockerfile, as sentences; ``args`` are the build's arguments."""
    found = [
        "{0}: # syntax={1} is refused: this program would read the Dockerfile on the builder. Use "
        "one of {2}, or let the platform list it in preview_build_frontends.".format(
            name, plain(frontend, 80), ", ".join(frontends)
        )
        for frontend in syntaxes(text)
        if not any(_matches(pattern, frontend) for pattern in frontends)
    ]
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


def _matches(pattern: str, frontend: str) -> bool:
    for prefix in ("docker.io/", "index.docker.io/"):
        if frontend.startswith(prefix):
            frontend = frontend[len(prefix) :]
    expression = re.escape(pattern).replace(r"\*", r"[A-Za-z0-9._-]*")
    return re.fullmatch(expression + r"(?:@sha256:[0-9a-f]{64})?", frontend) is not None


def parse(text: str, heredocs: bool = True) -> List[Instruction]:
    """The instructions of a Dockerfile, without the texts of here-documents.

    With ``heredocs`` false no such text is looked for, so that none can hide an instruction.
    """
    escape = "\\"
    head = re.match(r"(?:\s*#[^\n]*\n)*", text.lstrip("\ufeff"))
    if head and re.search(r"(?im)^[ \t]*#[ \t]*escape[ \t]*=[ \t]*`", head.group()):
        escape = "`"
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
        if stripped.endswith(escape):
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


def _bases(
    instructions: List[Instruction],
    args: Mapping[str, Any],
    contexts: Set[str],
    images: Tuple[str, ...],
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
                    known[name] = _filled(default.strip("\"'"), known) or ""
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
                if images:
                    found.append((line, written, "which one it is can't be told before the build"))
            elif image.lower() not in stages and not image.isdigit():
                reason = _base_refused(image, images)
                if reason:
                    found.append((line, image, reason))
        if base and base.group(2):
            stages.add(base.group(2).lower())
    return found


def _base_refused(image: str, images: Tuple[str, ...]) -> Optional[str]:
    if "/{0}/".format(_names.IMAGES) in image_name(image.lower())[0] + "/":
        return "it is the image of a preview, and previews don't share images"
    if images and not image_allowed(image, images):
        return "the platform's preview_base_images does not list it"
    return None


def _filled(text: str, known: Mapping[str, str]) -> Optional[str]:
    """A text with a Dockerfile's arguments filled in, None where that can't be told."""
    missing: List[Any] = []
    try:
        value = substitute(text, known.get, missing)
    except TemplateError:
        return None
    return None if missing else value
