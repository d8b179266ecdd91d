# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kinds of values a setting can have: what each is called, its rule, how one is read. Pure.

A kind takes a value as YAML has it or as ``-e key=value`` gives it, which is always a string, and
returns one of its type, or raises ``Wrong``. What YAML may have altered is not guessed at.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence

from ansible_collections.ephemera.preview.plugins.module_utils import _names


class Wrong(Exception):
    """A value that is not of its kind. ``where`` leads to it inside the setting's value."""

    def __init__(self, value: object, rule: str, where: str = "") -> None:
        super().__init__(rule)
        self.value = value
        self.rule = rule
        self.where = where


class Kind(NamedTuple):
    """A type of value: its name, its rule in words, and how a value given becomes one."""

    label: str
    rule: str
    read: Callable[[Any], Any]


def text(pattern: str = r"[^\x00-\x1f\x7f]+", rule: str = "a text of one line") -> Kind:
    known = re.compile(pattern)

    def read(value: Any) -> str:
        if isinstance(value, (int, float)):
            raise Wrong(value, f"it must be {rule}; put it in quotes")
        if not isinstance(value, str) or not known.fullmatch(value):
            raise Wrong(value, f"it must be {rule}")
        return str(value)

    return Kind("str", rule, read)


def identifier() -> Kind:
    """A text that is often written as a bare number."""
    plain = text()

    def read(value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return plain.read(str(value) if whole else value)

    return Kind("str", plain.rule, read)


def lines(rule: str) -> Kind:
    def read(value: Any) -> str:
        if not isinstance(value, str) or "\0" in value:
            raise Wrong(value, f"it must be {rule}")
        return str(value)

    return Kind("str", rule, read)


def choice(*choices: str) -> Kind:
    rule = f"one of {', '.join(choices)}"

    def read(value: Any) -> str:
        # YAML 1.1 reads a bare off as false.
        plain = "off" if value is False and "off" in choices else value
        if not isinstance(plain, str) or plain not in choices:
            raise Wrong(value, f"it must be {rule}")
        return str(plain)

    return Kind("str", rule, read)


def whole(minimum: int, maximum: Optional[int] = None) -> Kind:
    rule = f"a whole number from {minimum} " + (f"to {maximum}" if maximum else "on")

    def read(value: Any) -> int:
        number = value
        if isinstance(value, str) and re.fullmatch(r"0|-?[1-9][0-9]{0,18}", value):
            number = int(value)
        if isinstance(number, bool) or not isinstance(number, int):
            raise Wrong(value, f"it must be {rule}")
        if number < minimum or (maximum is not None and number > maximum):
            raise Wrong(value, f"it must be {rule}")
        return int(number)

    return Kind("int", rule, read)


def boolean() -> Kind:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

    def read(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        raise Wrong(value, "it must be true or false")

    return Kind("bool", "true or false", read)


def duration(maximum: int = 86400, minimum: int = 1) -> Kind:
    """Seconds, given as such or as ``90s``, ``5m``, ``2h``, ``3d``."""
    units = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
    rule = f"a time from {minimum} to {maximum} seconds, such as 90, 90s, 5m or 1h"

    def read(value: Any) -> int:
        seconds = value
        if isinstance(value, str):
            match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value)
            seconds = int(match.group(1)) * units[match.group(2)] if match else None
        if isinstance(seconds, bool) or not isinstance(seconds, int):
            raise Wrong(value, f"it must be {rule}")
        if not minimum <= seconds <= maximum:
            raise Wrong(value, f"it must be {rule}")
        return int(seconds)

    return Kind("duration", rule, read)


def path(rule: str = "an absolute path", pattern: str = r"/[^\x00-\x1f\x7f]*") -> Kind:
    plain = text(pattern, rule)

    def read(value: Any) -> str:
        found = str(plain.read(value))
        if ".." in found.split("/"):
            raise Wrong(value, f"it must be {rule} that goes nowhere up (..)")
        return found.rstrip("/") or "/"

    return Kind("path", rule, read)


def list_of(kind: Kind, minimum: int = 0) -> Kind:
    def read(value: Any) -> List[Any]:
        if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple)):
            raise Wrong(value, "it must be a list (give it to -e as JSON)")
        if len(value) < minimum:
            raise Wrong(value, f"it must hold at least {minimum}")
        return [_inside(kind, item, f"[{at}]") for at, item in enumerate(value)]

    return Kind(f"list of {kind.label}", f"each {kind.rule}", read)


def map_of(kind: Kind, key_pattern: str, key_rule: str) -> Kind:
    known = re.compile(key_pattern)

    def read(value: Any) -> Dict[str, Any]:
        for key in _mapping(value):
            if not isinstance(key, str) or not known.fullmatch(key):
                raise Wrong(key, f"each key must be {key_rule}")
        return {str(key): _inside(kind, value[key], f".{key}") for key in value}

    return Kind("dict", f"keys: {key_rule}; values: {kind.rule}", read)


def record(
    fields: Mapping[str, Kind], optional: Iterable[str] = (), one_of: Sequence[str] = ()
) -> Kind:
    """A dictionary of these fields, and exactly ``one_of`` these."""
    allowed = ", ".join(fields)
    needed = [name for name in fields if name not in {*optional, *one_of}]

    def read(value: Any) -> Dict[str, Any]:
        given = _mapping(value)
        for key in given:
            if key not in fields:
                raise Wrong(key, f"it may hold {allowed}")
        for name in needed:
            if given.get(name) is None:
                raise Wrong(None, f"{name} is missing")
        if one_of and sum(given.get(name) is not None for name in one_of) != 1:
            raise Wrong(None, f"it must hold either {' or '.join(one_of)}")
        return {
            name: _inside(kind, given[name], f".{name}")
            for name, kind in fields.items()
            if given.get(name) is not None
        }

    return Kind("dict", "; ".join(f"{name}: {kind.rule}" for name, kind in fields.items()), read)


VARIABLE = r"(?!PREVIEW(_|\Z))[A-Za-z_][A-Za-z0-9_]*"
VARIABLE_RULE = "a variable's name that is not one of ours (PREVIEW, PREVIEW_…)"


def environment() -> Kind:
    """Variables for an app. Only what comes out the same on every way is taken for a value."""
    rule = "a text or a whole number"

    def value_of(value: Any) -> str:
        if isinstance(value, (bool, float)):
            raise Wrong(value, "put it in quotes, for YAML may have altered it")
        if not isinstance(value, (str, int)) or "\0" in str(value):
            raise Wrong(value, f"it must be {rule}")
        return str(value)

    return map_of(Kind("str", rule, value_of), VARIABLE, VARIABLE_RULE)


def network(version: int = 0, longest: int = 128) -> Kind:
    rule = "a network such as 10.213.0.0/16"
    if longest < 32:
        rule += f", of /{longest} or larger"

    def read(value: Any) -> str:
        try:
            found = ipaddress.ip_network(value if isinstance(value, str) else "")
        except ValueError:
            raise Wrong(value, f"it must be {rule}, without bits set after its prefix") from None
        if (version and found.version != version) or found.prefixlen > longest:
            raise Wrong(value, f"it must be {rule}")
        return str(found)

    return Kind("str", rule, read)


def destination() -> Kind:
    """``network[:port]``; an IPv6 network with a port stands in brackets."""
    rule = "a network, and a port if only that: 10.1.2.0/24, 10.1.2.3/32:5432, [fd00::/64]:443"
    port = whole(1, 65535)

    def read(value: Any) -> str:
        match = re.fullmatch(r"(?:\[([^\]]+)\]|([0-9./]+))(?::([0-9]+))?|(.+)", str(value))
        inner = match and (match.group(1) or match.group(2) or match.group(4))
        try:
            found = network().read(inner)
            number = f":{port.read(match.group(3))}" if match and match.group(3) else ""
        except Wrong:
            raise Wrong(value, f"it must be {rule}") from None
        return f"[{found}]{number}" if number and ":" in found else f"{found}{number}"

    return Kind("str", rule, read)


def address() -> Kind:
    rule = "an IPv4 or IPv6 address"

    def read(value: Any) -> str:
        try:
            return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
        except ValueError:
            raise Wrong(value, f"it must be {rule}") from None

    return Kind("str", rule, read)


def named(option: str, rule: str) -> Kind:
    """A value that goes into names, judged by what makes them."""
    plain = text(rule=rule)

    def read(value: Any) -> str:
        found = str(plain.read(value))
        options: Dict[str, Any] = {"domain": "example.org"} if option == "host_format" else {}
        options[option] = found
        try:
            _names.names("app", 1, **options)
        except _names.NameRefused as refused:
            raise Wrong(value, refused.rule) from None
        return found.lower() if option == "domain" else found

    return Kind("str", rule, read)


def commit() -> Kind:
    plain = text(r"[0-9A-Fa-f]{40}", "a commit with all its 40 hex digits")
    return plain._replace(read=lambda value: plain.read(value).lower())


def repository() -> Kind:
    rule = "an https or ssh URL, user@host:path, or an absolute path"
    plain = text(r"(https?|ssh|file)://[^\s]+|[A-Za-z0-9._-]+@[^\s:/]+:[^\s]+|/[^\x00-\x1f]*", rule)

    def read(value: Any) -> str:
        found = str(plain.read(value))
        if re.match(r"https?://[^/]*@|ssh://[^/@]*:[^/]*@", found):
            raise Wrong(value, "leave out what stands before @ and set preview_source_token")
        return found

    return Kind("str", rule, read)


def key_of_secrets() -> Kind:
    rule = "at least 32 bytes, as `openssl rand -hex 32` makes them"

    def read(value: Any) -> str:
        if not isinstance(value, str) or len(value.encode("utf-8", "replace")) < 32:
            raise Wrong(value, f"it must be {rule}")
        return str(value)

    return Kind("str", rule, read)


def cpus() -> Kind:
    rule = "a number of CPUs above 0, such as 0.5"

    def read(value: Any) -> float:
        try:
            number = 0.0 if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = 0.0
        if not 0 < number <= 1024:
            raise Wrong(value, f"it must be {rule}")
        return number

    return Kind("float", rule, read)


def _mapping(value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise Wrong(value, "it must be a dictionary (give it to -e as JSON)")
    return value


def _inside(kind: Kind, value: Any, where: str) -> Any:
    try:
        return kind.read(value)
    except Wrong as wrong:
        raise Wrong(wrong.value, wrong.rule, where + wrong.where) from None
