# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""YAML of an unknown author, within limits.

The document is built from the parser's events, so that nothing is expanded, nested or constructed
before it has been counted: an alias counts as much as what it stands for. Scalars are read as
Compose reads them (YAML 1.2: ``yes`` and ``22:22`` are text). What comes out is plain data, with
aliases and merge keys resolved; ``emit`` writes it for Compose, which so never sees the author's
own bytes and can't read them differently.
"""

from __future__ import annotations

import re
import traceback
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils._refusal import (
    Path,
    Refused,
    key_path,
    plain,
    shown,
)

try:
    import yaml
except ImportError:
    YAML_IMPORT_ERROR: Optional[str] = traceback.format_exc()
else:
    YAML_IMPORT_ERROR = None


class Limits(NamedTuple):
    """``size`` in bytes, ``nodes`` and ``characters`` after aliases, ``depth`` in levels."""

    size: int = 256 << 10
    nodes: int = 10000
    characters: int = 1 << 20
    depth: int = 32
    key: int = 256


LIMITS = Limits()


class Document(NamedTuple):
    """Plain data, and the line on which each key path stands."""

    value: Any
    lines: Dict[Path, int]


class _Node:
    """A scalar, or a list or mapping of nodes, with its size after aliases are expanded."""

    __slots__ = ("characters", "height", "items", "line", "nodes", "value")

    def __init__(self, line: int, value: Any = None, items: Optional[List[Any]] = None) -> None:
        self.line = line
        self.value = value
        self.items = items
        self.nodes = 1
        self.characters = len(value) if isinstance(value, str) else 1
        self.height = 1


class _List(_Node):
    __slots__ = ()


class _Map(_Node):
    __slots__ = ()


_MERGE = object()

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")


def load(data: bytes, name: str, limits: Limits = LIMITS) -> Document:
    """The one document in ``data``; ``name`` is the file's name in messages. Raises Refused."""
    if len(data) > limits.size:
        raise Refused(
            ["{0}: is larger than {1} KiB, the most that is read.".format(name, limits.size >> 10)]
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(
            ["{0}: is not UTF-8 text (at byte {1}). Save it as UTF-8.".format(name, error.start)]
        ) from None
    lines: Dict[Path, int] = {}
    root = _Builder(name, limits).build(text)
    return Document(_expand(root, (), lines, name), lines)


class _Builder:
    """Makes nodes of events, without recursion, and stops at the first limit."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.limits = limits
        self.anchors: Dict[str, _Node] = {}
        self.unfinished: Dict[str, int] = {}
        self.stack: List[Tuple[_Node, Optional[str]]] = []
        self.root: Optional[_Node] = None

    def refused(self, line: int, sentence: str) -> Refused:
        return Refused(["{0}:{1}: {2}".format(self.name, line, sentence)])

    def build(self, text: str) -> _Node:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        documents = 0
        try:
            for event in yaml.parse(text, Loader=loader):
                line = event.start_mark.line + 1 if event.start_mark else 1
                if isinstance(event, yaml.DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        raise self.refused(line, "a second document begins; one file holds one.")
                elif isinstance(event, yaml.AliasEvent):
                    self.add(self.alias(str(event.anchor), line))
                elif isinstance(event, yaml.ScalarEvent):
                    node = _Node(line, self.scalar(event, line))
                    if event.anchor:
                        self.anchors[event.anchor] = node
                    self.add(node)
                elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                    self.open(event, line)
                elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                    self.close()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self.refused(
                mark.line + 1 if mark else 1,
                "is not YAML: {0}.".format(plain(error.problem or "it can't be read", 200)),
            ) from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            reason = plain(str(error).splitlines()[0] if str(error) else "it can't be read", 200)
            raise Refused(["{0}: is not YAML: {1}.".format(self.name, reason)]) from None
        if self.root is None:
            raise Refused(["{0}: is empty.".format(self.name)])
        return self.root

    def alias(self, anchor: str, line: int) -> _Node:
        if anchor in self.unfinished:
            raise self.refused(line, "*{0} stands within itself.".format(plain(anchor, 80)))
        if anchor not in self.anchors:
            raise self.refused(line, "*{0} is not defined.".format(plain(anchor, 80)))
        return self.anchors[anchor]

    def open(self, event: Any, line: int) -> None:
        is_map = isinstance(event, yaml.MappingStartEvent)
        self.check_tag(event.tag, "map" if is_map else "seq", line)
        if len(self.stack) >= self.limits.depth:
            raise self.too("deep", line)
        node = (_Map if is_map else _List)(line, None, [])
        if event.anchor:
            self.unfinished[event.anchor] = self.unfinished.get(event.anchor, 0) + 1
        self.stack.append((node, event.anchor))

    def close(self) -> None:
        node, anchor = self.stack.pop()
        items = node.items or []
        if isinstance(node, _Map):
            self.check_keys(items)
        if anchor:
            self.unfinished[anchor] -= 1
            if not self.unfinished[anchor]:
                del self.unfinished[anchor]
            self.anchors[anchor] = node
        self.add(node)

    def add(self, node: _Node) -> None:
        """Hang a finished node under the open one, and count."""
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1][0]
        if parent.items is None:
            raise TypeError("a scalar holds no nodes")
        parent.items.append(node)
        parent.nodes += node.nodes
        parent.characters += node.characters
        parent.height = max(parent.height, node.height + 1)
        if parent.nodes > self.limits.nodes or parent.characters > self.limits.characters:
            raise self.too("large", node.line)
        if parent.height + len(self.stack) - 1 > self.limits.depth:
            raise self.too("deep", node.line)

    def too(self, what: str, line: int) -> Refused:
        if what == "deep":
            return self.refused(line, "is nested deeper than {0} levels.".format(self.limits.depth))
        return self.refused(
            line,
            "is too large: with its aliases written out it has more than {0} values or {1} KiB "
            "of text.".format(self.limits.nodes, self.limits.characters >> 10),
        )

    def check_tag(self, tag: Optional[str], kind: str, line: int) -> None:
        if tag in (None, "!", _TAG + kind):
            return
        if tag in ("!reset", "!override"):
            raise self.refused(
                line,
                "the tag {0} is refused: it changes what another file says, and a preview reads "
                "one file. Write the value itself, or remove the key.".format(tag),
            )
        written = str(tag).replace(_TAG, "!!")
        raise self.refused(
            line, "the tag {0} is refused: write the value without it.".format(plain(written, 80))
        )

    def scalar(self, event: Any, line: int) -> Any:
        text = event.value
        if _UNPRINTABLE.search(text):
            raise self.refused(line, "holds a control character; a text may not.")
        tag = event.tag
        is_plain = event.style in (None, "") and tag is None
        if is_plain and text == "<<":
            return _MERGE
        if tag is None or tag == "!":
            return _resolve(text) if is_plain else text
        kind = tag[len(_TAG) :] if tag.startswith(_TAG) else ""
        if kind == "merge" and text == "<<":
            return _MERGE
        if kind == "str":
            return text
        if kind not in ("int", "float", "bool", "null"):
            self.check_tag(tag, "", line)
        value = _resolve(text)
        if kind == "float" and isinstance(value, int):
            value = float(value)
        if type(value).__name__ != {"null": "NoneType"}.get(kind, kind):
            raise self.refused(line, "{0} is no !!{1}.".format(shown(text), kind))
        return value

    def check_keys(self, items: List[_Node]) -> None:
        seen = set()
        for key in items[::2]:
            if key.value is _MERGE:
                text = "<<"
            elif isinstance(key.value, str) and key.items is None:
                text = key.value
            else:
                raise self.refused(key.line, "a key must be a text; put it in quotes.")
            if len(text) > self.limits.key:
                raise self.refused(
                    key.line, "a key is longer than {0} characters.".format(self.limits.key)
                )
            if text in seen:
                raise self.refused(key.line, "the key {0} stands here twice.".format(shown(text)))
            seen.add(text)


def _resolve(text: str) -> Any:
    """A plain scalar as Compose reads it."""
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if len(text) <= 40:
        if _INT.match(text):
            number = _integer(text.replace("_", ""))
            if number is not None and -(1 << 63) <= number < 1 << 64:
                return number
        elif _FLOAT.match(text):
            return float(text)
    return text


def _integer(text: str) -> Optional[int]:
    digits = text.lstrip("+-")
    base = {"0b": 2, "0o": 8, "0x": 16}.get(digits[:2], 10)
    if base != 10:
        digits = digits[2:]
    elif len(digits) > 1 and digits[0] == "0":
        base = 8
    try:
        return int(digits, base) * (-1 if text[0] == "-" else 1)
    except ValueError:
        return None


def _expand(node: _Node, path: Path, lines: Dict[Path, int], name: str) -> Any:
    """The node as plain data. Sizes and depth have been counted, so this stays within limits."""
    lines[path] = node.line
    items = node.items or []
    if isinstance(node, _List):
        return [_expand(item, path + (i,), lines, name) for i, item in enumerate(items)]
    if not isinstance(node, _Map):
        return "<<" if node.value is _MERGE else node.value
    own: Dict[str, Any] = {}
    merged: Dict[str, Any] = {}
    for key, value in zip(items[::2], items[1::2]):
        if key.value is not _MERGE:
            own[key.value] = _expand(value, path + (key.value,), lines, name)
            lines[path + (key.value,)] = key.line
            continue
        for source in value.items if isinstance(value, _List) and value.items else [value]:
            if not isinstance(source, _Map):
                raise Refused(
                    [
                        "{0}:{1}: {2}: << takes a mapping, or a list of mappings.".format(
                            name, source.line, key_path(path + ("<<",))
                        )
                    ]
                )
            inner: Dict[Path, int] = {}
            new = _expand(source, path, inner, name)
            new = {k: v for k, v in new.items() if k not in merged}
            merged.update(new)
            # What the mapping says itself comes last and wins, and so do its lines.
            for at, line in inner.items():
                if len(at) > len(path) and at[len(path)] in new:
                    lines.setdefault(at, line)
    for key in own:
        merged.pop(key, None)
    return dict(merged, **own)


def emit(value: Any) -> str:
    """Plain data as YAML in one line, every text in double quotes and in ASCII."""
    if isinstance(value, dict):
        pairs = ("{0}: {1}".format(_quoted(k), emit(v)) for k, v in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(emit(item) for item in value) + "]"
    if isinstance(value, str):
        return _quoted(value)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _quoted(text: str) -> str:
    out = ['"']
    for char in text:
        code = ord(char)
        if char in '"\\':
            out.append("\\" + char)
        elif 0x20 <= code < 0x7F:
            out.append(char)
        else:
            out.append("\\u{0:04x}".format(code) if code < 0x10000 else "\\U{0:08x}".format(code))
    out.append('"')
    return "".join(out)
