# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``x-preview``: what an app wishes for its previews, beyond what Compose has words for."""

from __future__ import annotations

import difflib
import math
import shlex
import traceback
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import _arguments
from ansible_collections.ephemera.preview.plugins.module_utils._checks import replicas_of, seconds
from ansible_collections.ephemera.preview.plugins.module_utils._refusal import Path
from ansible_collections.ephemera.preview.plugins.module_utils._screen import (
    REPLICAS_MAX,
    Problem,
    too_many_containers,
)

try:
    import jsonschema
except ImportError:
    JSONSCHEMA_IMPORT_ERROR: Optional[str] = traceback.format_exc()
else:
    JSONSCHEMA_IMPORT_ERROR = None

HOOK_TIMEOUT = 300
TIME_MAX = 3600
CPU = 80
"""At so much of its CPU, in percent, a service is given more pods."""

# Python's $ matches before a newline at the end too, and JSON Schema has no \Z.
_END = r"$(?!\n)"
# No // at its beginning, which would be read as a host, and nothing a template is made of.
_ABSOLUTE = r"^/([A-Za-z0-9._~%!$&'()*+,;=:@?-][A-Za-z0-9._~%!$&'()*+,;=:@?/-]*)?" + _END
_DURATION = {
    "description": "a time such as 30s or 5m, or a number of seconds, up to an hour",
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": TIME_MAX},
        {
            "type": "string",
            "maxLength": 60,
            "pattern": r"^([0-9]+(\.[0-9]+)?|([0-9]+(\.[0-9]+)?(ms|s|m|h))+)" + _END,
        },
    ],
}
_WHOLE = r"^[0-9]{1,5}" + _END
_STATUS = {
    "description": "a status such as 200",
    "anyOf": [
        {"type": "integer", "minimum": 100, "maximum": 599},
        {"type": "string", "pattern": r"^[1-5][0-9][0-9]" + _END},
    ],
}
_WORDS = {
    "description": "a command, in one text or as a list of words",
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": 8192},
        {
            "type": "array",
            "minItems": 1,
            "maxItems": 256,
            "items": {"description": "a text", "type": "string", "maxLength": 8192},
        },
    ],
}
_HOOK = {
    "description": "a command, or a mapping with command and timeout",
    "anyOf": [
        *_WORDS["anyOf"],
        {
            "type": "object",
            "required": ["command"],
            "additionalProperties": False,
            "properties": {
                "command": {"$ref": "#/$defs/words"},
                "timeout": {"$ref": "#/$defs/duration"},
            },
        },
    ],
}
_PATH = {
    "description": "a path such as /health",
    "type": "string",
    "pattern": _ABSOLUTE,
    "maxLength": 1024,
}
_HEALTH = {
    "description": "a path such as /health, or a mapping with path, status, interval, ...",
    "anyOf": [
        {"$ref": "#/$defs/path"},
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "path": {"$ref": "#/$defs/path"},
                "deep": {"$ref": "#/$defs/path"},
                "status": {
                    "description": "a status such as 200, or a list of them",
                    "anyOf": [
                        *_STATUS["anyOf"],
                        {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 32,
                            "items": {"$ref": "#/$defs/status"},
                        },
                    ],
                },
                "interval": {"$ref": "#/$defs/duration"},
                "timeout": {"$ref": "#/$defs/duration"},
                "start_period": {"$ref": "#/$defs/duration"},
                "retries": {
                    "description": "a number from 1 to 1000",
                    "anyOf": [
                        {"type": "integer", "minimum": 1, "maximum": 1000},
                        {"type": "string", "pattern": r"^([1-9][0-9]{0,2}|1000)" + _END},
                    ],
                },
            },
        },
    ],
}


_COUNT = {
    "description": "a number from 1 to {0}".format(REPLICAS_MAX),
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": REPLICAS_MAX},
        {"type": "string", "pattern": "^([1-9]|{0})".format(REPLICAS_MAX) + _END},
    ],
}
_AUTOSCALE = {
    "description": "a mapping with max, and min or cpu if they are not the default",
    "type": "object",
    "required": ["max"],
    "additionalProperties": False,
    "properties": {
        "min": {"$ref": "#/$defs/count"},
        "max": {"$ref": "#/$defs/count"},
        "cpu": {
            "description": "a percentage from 10 to 95",
            "anyOf": [
                {"type": "integer", "minimum": 10, "maximum": 95},
                {"type": "string", "pattern": "^([1-8][0-9]|9[0-5])" + _END},
            ],
        },
    },
}
SCHEMA: Dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "x-preview: wishes of an app for its previews, in its Compose file",
    "description": "This describes the x-preview at the top of the file. What stands under a "
    "service is in $defs/service.",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "web": {
            "description": "the name of the service a preview's URL leads to",
            "type": "string",
        }
    },
    "$defs": {
        "service": {
            "description": "a mapping",
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "migrate": {"$ref": "#/$defs/hook"},
                "seed": {"$ref": "#/$defs/hook"},
                "after_deploy": {"$ref": "#/$defs/hook"},
                "before_down": {"$ref": "#/$defs/hook"},
                "health": {"$ref": "#/$defs/health"},
                "expose": {
                    "description": "a port from 1 to 65535, or false",
                    "anyOf": [
                        {"type": "integer", "minimum": 1, "maximum": 65535},
                        {"type": "string", "pattern": _WHOLE},
                        {"enum": [False, "off", "false"]},
                    ],
                },
                "size": {"description": "the name of a size", "type": "string"},
                "exactly_one": {
                    "description": "true or false",
                    "enum": [True, False, "true", "false"],
                },
                "autoscale": {"$ref": "#/$defs/autoscale"},
            },
        },
        "hook": _HOOK,
        "words": _WORDS,
        "health": _HEALTH,
        "autoscale": _AUTOSCALE,
        "count": _COUNT,
        "path": _PATH,
        "status": _STATUS,
        "duration": _DURATION,
    },
}


class Wishes(NamedTuple):
    """``x-preview`` with every default filled in: the web service, and the wishes of each."""

    web: Optional[str]
    services: Dict[str, Dict[str, Any]]


# -- its form -----------------------------------------------------------------------------------


def validate(top: Any, services: Mapping[str, Any]) -> List[Problem]:
    """What is wrong with the form: all at once, by key path."""
    found = []
    if top is not None:
        found += list(_errors(top, SCHEMA, ("x-preview",)))
    service = dict(SCHEMA["$defs"]["service"], **{"$defs": SCHEMA["$defs"]})
    for name, wish in services.items():
        if wish is not None:
            found += list(_errors(wish, service, ("services", name, "x-preview")))
    return found


def _errors(value: Any, schema: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    without = {k: v for k, v in schema.items() if k != "$schema"}
    for error in validator()(without).iter_errors(value):
        yield from _told(error, path)


def validator() -> Any:
    """jsonschema's class for the schema; version 3 has none, and this one serves as well."""
    return getattr(jsonschema, "Draft202012Validator", None) or jsonschema.Draft7Validator


def _told(error: Any, path: Path) -> Iterator[Problem]:
    at = path + tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = list(error.schema["properties"])
        for key in sorted(set(error.instance) - set(known)):
            near = difflib.get_close_matches(key[:40], known, 1, 0.6)
            yield Problem(
                at + (key,),
                error.instance[key],
                "this key is not known; did you mean {0}".format(near[0])
                if near
                else "this key is not known; {0} are".format(", ".join(known)),
            )
    elif error.validator == "required":
        yield Problem(at, error.instance, "it needs {0}".format(", ".join(error.validator_value)))
    else:
        inner = _meant(error)
        for each in inner:
            yield from _told(each, path)
        if not inner:
            yield Problem(at, error.instance, "it must be " + error.schema["description"])


def _meant(error: Any) -> List[Any]:
    """Of a value that may have several forms: the errors of the one that was meant.

    That is the one of the same type as the value, where it says more than that all is wrong.
    """
    forms: Dict[Any, List[Any]] = {}
    for each in error.context or ():
        forms.setdefault(each.relative_schema_path[0], []).append(each)
    for errors in forms.values():
        if all(len(e.relative_path) or e.validator in _TELLING for e in errors):
            return errors
    return []


_TELLING = ("additionalProperties", "required")


# -- its meaning --------------------------------------------------------------------------------


def normalise(
    top: Any,
    wishes: Mapping[str, Any],
    services: Mapping[str, Any],
    sizes: Sequence[str] = _arguments.SIZES,
) -> Tuple[Wishes, List[Problem], List[str]]:
    """The wishes with defaults, what is wrong with them, and warnings.

    :param wishes: ``x-preview`` of each service that has one, of a valid form.
    :param services: the services in Compose's normal form.
    """
    found: List[Problem] = []
    warnings: List[str] = []
    wanted = {name: wishes.get(name) or {} for name in services}
    for name, wish in wanted.items():
        path: Path = ("services", name, "x-preview")
        size = wish.get("size")
        if size is not None and size not in sizes:
            found.append(
                Problem(path + ("size",), size, "the sizes are {0}".format(", ".join(sizes)))
            )
        replicas = replicas_of(services[name])
        if _truth(wish.get("exactly_one")) and replicas > 1:
            found.append(
                Problem(
                    path + ("exactly_one",),
                    True,
                    "the service also asks for {0} replicas".format(replicas),
                )
            )
        port = _wished_port(wish)
        if port is not None and port > 65535:
            found.append(Problem(path + ("expose",), port, "it must be a port up to 65535"))
        ports = ports_of(services[name])
        if port and ports and port not in ports:
            warnings.append(
                "services.{0}.x-preview.expose: {1} is not among the service's ports ({2}).".format(
                    name, port, ", ".join(str(p) for p in ports)
                )
            )
    web, problems, notes = _web(top or {}, wanted, services)
    found += problems
    warnings += notes
    normal: Dict[str, Dict[str, Any]] = {}
    for name, wish in wanted.items():
        path = ("services", name, "x-preview")
        normal[name] = {
            hook: _hook(wish.get(hook), path + (hook,), found) for hook in _arguments.HOOKS
        }
        normal[name].update(
            health=_health(wish.get("health"), path + ("health",), found),
            expose=_expose(name, wish, services[name], web),
            size=wish.get("size"),
            exactly_one=_truth(wish.get("exactly_one")),
            autoscale=_autoscale(wish, services[name], path + ("autoscale",), found),
        )
    found += too_many_containers(
        (normal[name]["autoscale"] or {}).get("max") or replicas_of(service)
        for name, service in services.items()
    )
    return Wishes(web, normal), found, warnings


def ports_of(service: Mapping[str, Any]) -> List[int]:
    """The TCP ports a service says it listens on, those of ``ports`` first."""
    found = [
        int(port["target"])
        for port in service.get("ports") or []
        if port.get("protocol", "tcp") == "tcp"
    ]
    for text in service.get("expose") or []:
        number, _slash, protocol = str(text).partition("/")
        if protocol in ("", "tcp"):
            found.append(int(number.split("-")[0]))
    return list(dict.fromkeys(found))


def _truth(value: Any) -> bool:
    return value in (True, "true")


def _wished_port(wish: Mapping[str, Any]) -> Optional[int]:
    value = wish.get("expose")
    return None if value in (None, False, "off", "false") else int(value)


def _expose(
    name: str, wish: Mapping[str, Any], service: Mapping[str, Any], web: Optional[str]
) -> Any:
    """``{"port": N}`` or False. Without a wish: the web service, and what is built here and has
    ``ports``. A database's port is there for a developer's tools; HTTP would not lead to it."""
    if wish.get("expose") is not None:
        port = _wished_port(wish)
        return {"port": port} if port else False
    ports = ports_of(service)
    shown_by_default = service.get("build") and service.get("ports")
    return {"port": ports[0]} if ports and (name == web or shown_by_default) else False


def _web(
    top: Mapping[str, Any], wishes: Mapping[str, Mapping[str, Any]], services: Mapping[str, Any]
) -> Tuple[Optional[str], List[Problem], List[str]]:
    """The service a preview's URL leads to: as wished, else the only one it can be."""
    name = top.get("web")
    path: Path = ("x-preview", "web")
    can = [
        service
        for service in services
        if wishes[service].get("expose") not in (False, "off", "false")
        and (ports_of(services[service]) or _wished_port(wishes[service]))
    ]
    if name is not None:
        if name not in services:
            near = difflib.get_close_matches(name, list(services), 1, 0.5)
            hint = (
                "did you mean {0}".format(near[0])
                if near
                else "there are {0}".format(", ".join(services))
            )
            return None, [Problem(path, name, "no service has this name; " + hint)], []
        if name not in can:
            return (
                None,
                [
                    Problem(
                        path,
                        name,
                        "it says no port to lead to. Give services.{0} ports: ['8000'], with the "
                        "port it listens on".format(name),
                    )
                ],
                [],
            )
        return str(name), [], []
    if not can:
        return (
            None,
            [
                Problem(
                    path,
                    None,
                    "no service has a port, so a preview's URL leads nowhere. Give the service "
                    "that answers HTTP ports: ['8000'], with the port it listens on",
                )
            ],
            [],
        )
    built = [service for service in can if services[service].get("build")]
    for few in (can, built):
        if len(few) == 1:
            note = "x-preview.web is not set: a preview's URL leads to {0}, the only service {1}."
            which = "with a port" if few is can else "that is built here and has a port"
            return few[0], [], [note.format(few[0], which)]
    return (
        None,
        [
            Problem(
                path,
                None,
                "which of {0} does a preview's URL lead to? Write at the top of the file "
                "x-preview: {{web: {1}}}".format(", ".join(can), (built or can)[0]),
            )
        ],
        [],
    )


def likely_web(top: Any, wishes: Mapping[str, Any], services: Mapping[str, Any]) -> Optional[str]:
    """The same choice from a definition nobody has screened yet; None where it is not clear."""
    name = top.get("web") if isinstance(top, dict) else None
    if name is not None:
        return str(name)

    def leads(name: str, service: Mapping[str, Any]) -> bool:
        wish = wishes.get(name)
        wished = wish.get("expose") if isinstance(wish, dict) else None
        if wished is not None:
            return wished not in (False, "off", "false")
        given = service.get("ports") or service.get("expose") or []
        return any("udp" not in str(port) for port in given) if isinstance(given, list) else False

    can = [name for name, s in services.items() if isinstance(s, dict) and leads(name, s)]
    built = [name for name in can if services[name].get("build")]
    return next((few[0] for few in (can, built) if len(few) == 1), None)


def _hook(value: Any, path: Path, found: List[Problem]) -> Optional[Dict[str, Any]]:
    if value is None:
        return None
    timeout: Any = None
    if isinstance(value, dict):
        value, timeout = value["command"], value.get("timeout")
    try:
        # Like Compose: words as a shell splits them, but no shell.
        command = shlex.split(value) if isinstance(value, str) else list(value)
    except ValueError as error:
        found.append(Problem(path, value, "its quotes are not closed ({0})".format(error)))
        return None
    if not command or not command[0] or any("\0" in word for word in command):
        found.append(Problem(path, value, "it is no command"))
        return None
    return {
        "command": command,
        "timeout": math.ceil(_time(timeout, HOOK_TIMEOUT, path + ("timeout",), found)),
    }


def _health(value: Any, path: Path, found: List[Problem]) -> Optional[Dict[str, Any]]:
    if value is None:
        return None
    wish = {"path": value} if isinstance(value, str) else value
    status = wish.get("status", 200)
    return {
        "path": wish.get("path", "/"),
        "deep": wish.get("deep"),
        "status": [int(s) for s in (status if isinstance(status, list) else [status])],
        "interval": _time(wish.get("interval"), 1, path + ("interval",), found),
        "timeout": _time(wish.get("timeout"), 5, path + ("timeout",), found),
        "start_period": _time(wish.get("start_period"), 0, path + ("start_period",), found),
        "retries": int(wish.get("retries", 60)),
    }


def _autoscale(
    wish: Mapping[str, Any], service: Mapping[str, Any], path: Path, found: List[Problem]
) -> Optional[Dict[str, int]]:
    """Between how many pods a service may have, and at how much of its CPU it is given more."""
    asked = wish.get("autoscale")
    if asked is None:
        return None
    scale = {"min": replicas_of(service), "cpu": CPU}
    scale.update({key: int(value) for key, value in asked.items()})
    if not 1 <= scale["min"] <= scale["max"]:
        reason = "it has to be from 1 to max, which is {0}".format(scale["max"])
        found.append(Problem(path + ("min",), scale["min"], reason))
    if _truth(wish.get("exactly_one")):
        found.append(Problem(path, asked, "the service also asks for exactly_one"))
    if any(each["type"] == "volume" and each.get("source") for each in service.get("volumes", [])):
        reason = "the service mounts a volume, which belongs to one container"
        found.append(Problem(path, asked, reason))
    return scale


def _time(value: Any, default: float, path: Path, found: List[Problem]) -> float:
    """Seconds, whole where they are."""
    if value is None:
        return default
    if isinstance(value, str):
        length = float(value) if value.replace(".", "", 1).isdigit() else seconds(value)
    else:
        length = float(value)
    if length is None or not 0 < length <= TIME_MAX:
        found.append(Problem(path, value, "it must be {0}".format(_DURATION["description"])))
        return default
    return int(length) if length == int(length) else length
