# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What single values of a Compose file may be: the checks that the screen's table is made of."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Callable, Dict, FrozenSet, Mapping, NamedTuple, Optional, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import _names
from ansible_collections.ephemera.preview.plugins.module_utils._refusal import plain

NOFILE_MAX = 1 << 20
PORTS_MAX = 1000
TEXT_MAX = 32 << 10
CHECK_MIN = 1.0
"""Seconds between two health checks: each starts a process through the engine."""
DURATION_MAX = 86400.0


class Policy(NamedTuple):
    """What the platform's settings say. ``normal`` is set for Compose's own output.

    ``allow``: exceptions such as ``cap_add=NET_ADMIN``. ``build_secrets``: the ids of secrets that
    builds are granted.
    """

    project: str
    allow: FrozenSet[str] = frozenset()
    build_secrets: FrozenSet[str] = frozenset()
    normal: bool = False


Check = Callable[[Any, Policy], Optional[str]]
"""Says what is wrong with a value, None when nothing is."""


def late(check: Check) -> Check:
    """The check, but a text that still holds variables is judged in the normal form only."""

    def checked(value: Any, policy: Policy) -> Optional[str]:
        if not policy.normal and isinstance(value, str) and "$" in value:
            return None
        return check(value, policy)

    return checked


def text(value: Any, policy: Policy) -> Optional[str]:
    if not isinstance(value, str):
        return "it must be a text; put it in quotes"
    if "\0" in value:
        return "it holds a NUL character"
    return "it is longer than {0} KiB".format(TEXT_MAX >> 10) if len(value) > TEXT_MAX else None


def scalar(value: Any, policy: Policy) -> Optional[str]:
    return text(value, policy) if isinstance(value, str) else None


def like(pattern: str, what: str) -> Check:
    found = re.compile(pattern)

    def checked(value: Any, policy: Policy) -> Optional[str]:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            return "it must be {0}".format(what)
        return None if found.fullmatch(str(value)) else "it must be {0}".format(what)

    return late(checked)


def one_of(*choices: str) -> Check:
    def checked(value: Any, policy: Policy) -> Optional[str]:
        return None if value in choices else "it must be {0}".format(" or ".join(choices))

    return checked


def between(low: float, high: float) -> Check:
    def checked(value: Any, policy: Policy) -> Optional[str]:
        try:
            number = float(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None:
            return "it must be a number"
        if not low <= number <= high:
            return "it must be from {0:g} to {1:g}".format(low, high)
        return None

    return late(checked)


def literal_boolean(value: Any, policy: Policy) -> Optional[str]:
    return None if isinstance(value, bool) else "it must be true or false"


boolean = late(literal_boolean)


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


def in_bytes(value: Any) -> Optional[int]:
    """``64m`` or ``1gb`` as a number, None for anything else."""
    match = None if isinstance(value, bool) else _SIZE.fullmatch(str(value))
    if match is None or len(str(value)) > 24:
        return None
    return int(float(match.group(1)) * 1024 ** " kmgt".index(match.group(2).lower() or " "))


def size(most: Optional[int] = None) -> Check:
    def checked(value: Any, policy: Policy) -> Optional[str]:
        number = in_bytes(value)
        if number is None:
            return "it must be a size such as 64m"
        if most is not None and number > most:
            return "it is more than {0}m".format(most >> 20)
        return None

    return late(checked)


_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ns|us|µs|ms|s|m|h))+")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(value: Any) -> Optional[float]:
    """``1m30s`` in seconds, None for anything else."""
    if not isinstance(value, str) or len(value) > 60 or not _DURATION.fullmatch(value):
        return None
    parts = re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", value)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def duration(least: float = 0, most: float = DURATION_MAX) -> Check:
    def checked(value: Any, policy: Policy) -> Optional[str]:
        length = seconds(value)
        if length is None:
            return "it must be a duration such as 30s or 1m30s"
        if length and length < least:
            return "it is shorter than {0:g}s".format(least)
        return "it is longer than {0:g}s".format(most) if length > most else None

    return late(checked)


def service_name(value: Any, policy: Policy) -> Optional[str]:
    if not isinstance(value, str):
        return "it must be the name of a service"
    try:
        _names.service_name(value)
    except _names.NameRefused as refusal:
        better = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[: _names.SERVICE_MAX]
        return "{0} Rename it{1}".format(
            refusal.rule, " " + better.strip("-") if better.strip("-") else ""
        )
    return None


def object_name(value: Any, policy: Policy) -> Optional[str]:
    if re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", value):
        return None
    return "a name is made of letters, digits, _ . and -, at most 63"


def variable_name(value: Any, policy: Policy) -> Optional[str]:
    if value != "<<" and re.fullmatch(r"[^\s=$\x00-\x1f\x7f-\x9f]{1,200}", value):
        return None
    return "it is no name of a variable"


@late
def assignment(value: Any, policy: Policy) -> Optional[str]:
    wrong = text(value, policy)
    return wrong or variable_name(value.split("=", 1)[0], policy)


# Build arguments that steer BuildKit instead of the Dockerfile: frontend, cache, contexts.
_STEERING = ("BUILDKIT_", "BUILDX_")


# BuildKit leaves these out of what a step's result is kept under: what came through one preview's
# proxy would be served to all.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")


def steers_builder(argument: str) -> bool:
    """Whether a build argument of this name is for the builder and not for the Dockerfile."""
    return argument.upper().startswith(_STEERING) or argument.upper() in _PROXIES


def argument_name(value: Any, policy: Policy) -> Optional[str]:
    if steers_builder(str(value)):
        return "an argument of this name steers the builder, which is the platform's"
    return variable_name(value, policy)


def argument(value: Any, policy: Policy) -> Optional[str]:
    wrong = text(value, policy)
    if wrong:
        return wrong
    name = value.split("=", 1)[0]
    if "$" in name and not policy.normal:
        return "an argument's name may hold no variable"
    return argument_name(name, policy)


def local(value: Any, policy: Policy) -> Optional[str]:
    """A relative path that stays below the checkout, as text."""
    wrong = text(value, policy)
    if wrong:
        return wrong
    if not value.strip() or not value.isprintable():
        return "it is no path"
    if "$" in value:
        return "a path may hold no variable: it could become any path. Write the path itself"
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|git@|github\.com/", value):
        return "it is an address, not a path. Only what is in the repository is used"
    if value.startswith("/"):
        return "it is outside the repository. Use a path relative to the Compose file"
    if value.startswith("~"):
        return "it is someone's home folder. Use a path relative to the Compose file"
    if "\\" in value:
        return "write paths with /"
    if "," in value:
        return "it holds a comma, which Docker takes for the end of a path"
    parts = value.lower().split("/")
    if ".git" in parts:
        return "it is git's own folder, which is never given to an app"
    if any(part.startswith("-") for part in parts):
        return "a name that begins with - would be taken for an option"
    return None


def name_or_variable(value: Any, policy: Policy) -> Optional[str]:
    wrong = text(value, policy)
    return wrong or late(object_name)(value, policy)


_IMAGE = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?/)?[a-z0-9]+(?:(?:[._/]|__|-+)[a-z0-9]+)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)


def image_name(value: str) -> Tuple[str, str]:
    """(name with registry, tag and digest) of an image, as Docker completes it."""
    head, at, digest = value.partition("@")
    path, colon, tag = head.rpartition(":")
    if not colon or "/" in tag:
        path, tag = head, ""
    first, slash, rest = path.partition("/")
    # Docker takes capital letters for a host's, since a repository has none.
    is_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    if not slash or not is_host:
        first, rest = "docker.io", path
    if first in ("docker.io", "index.docker.io", "registry-1.docker.io"):
        first = "docker.io"
        rest = rest if "/" in rest else "library/" + rest
    return "{0}/{1}".format(first, rest), (":" + tag if tag else "") + at + digest


# For Python and for Go: an address in any notation, localhost, a host without a domain.
LOCAL_REGISTRY = (
    r"(?i:\[[^/]*|[^/.]*|(?:[^/]*\.)?(?:[0-9][^/.:]*|localhost|localdomain)\.?)(?::[0-9]+)?"
)


def image_pattern(pattern: str) -> str:
    """``postgres:*``, ``ghcr.io/acme/*`` as an expression over completed names, likewise."""
    name, tag = image_name(pattern)
    expression = re.escape(name + tag).replace(r"\*", ".*")
    return expression + ("" if "@" in tag else "(@.*)?" if tag else "([:@].*)?")


class Images(NamedTuple):
    """The images that may be used: those of ``patterns``; without any, all but those of registries
    on the platform's own machines. Of these ``registries`` names those to be used."""

    patterns: Tuple[str, ...] = ()
    registries: Tuple[str, ...] = ()

    def refused(self, value: str) -> Optional[str]:
        """Why an image may not be used, None when it may."""
        name, tag = image_name(value)
        host = name.partition("/")[0]
        known = [registry.partition("/")[0] for registry in self.registries]
        if is_of_a_preview(value):
            return OF_A_PREVIEW
        if self.patterns:
            listed = any(
                re.fullmatch(image_pattern(pattern), name + (tag or ":latest"))
                for pattern in self.patterns
            )
            return None if listed else "the platform's preview_base_images does not list it"
        if re.fullmatch(LOCAL_REGISTRY, host) and host not in known:
            return (
                "{0} is a registry of the platform's own machines or network, which the platform "
                "has to list in preview_registries or preview_base_images".format(host)
            )
        return None


ANY_IMAGE = Images()
OF_A_PREVIEW = "it is the image of a preview, and previews don't share images"


def is_of_a_preview(value: str) -> bool:
    return "/{0}/".format(_names.IMAGES) in image_name(value)[0].lower() + "/"


@late
def image(value: Any, policy: Policy) -> Optional[str]:
    """The image of a service. One without ``build`` is pulled."""
    wrong = text(value, policy)
    if wrong:
        return wrong
    if len(value) > 512 or not _IMAGE.fullmatch(value):
        return "it is no name of an image such as postgres:17"
    # Docker takes such a name for the beginning of an image's id: any image on the host.
    if re.fullmatch(r"[0-9a-f]+|sha256:[0-9a-f]+", value):
        return "it can be read as the id of an image on the host. Add a tag: {0}:latest".format(
            value.split(":")[-1]
        )
    return OF_A_PREVIEW if is_of_a_preview(value) else None


def label_keys(value: Any, policy: Policy) -> Optional[str]:
    """No label of ours, wherever labels are written."""
    keys = value if isinstance(value, (dict, list)) else [value]
    for key in keys:
        if str(key).strip().lower().startswith(_names.PREFIX):
            return "labels that begin with {0} are the platform's".format(_names.PREFIX)
    return None


_PORT = r"[0-9]{1,5}(?:-[0-9]{1,5})?"
port_text = like(
    r"(?:(?:[0-9.]+|\[[0-9a-fA-F:]+\]|localhost):)?(?:%s)?:?%s(?:/(?:tcp|udp))?" % (_PORT, _PORT),
    "a port such as 8000 or 8000:8000",
)
port_number = like(_PORT, "a port such as 8000")
expose_text = like(_PORT + r"(?:/(?:tcp|udp))?", "a port such as 8000")
user_text = like(r"[A-Za-z0-9_.-]{1,64}(?::[A-Za-z0-9_.-]{1,64})?", "a user such as 1000:1000")
number_text = like(r"[0-9]{1,10}", "a whole number")
mode_text = like(r"(?:0o?)?[0-7]{1,5}|[0-9]{1,5}", "a file mode such as 0444")
signal_text = like(r"[A-Z0-9+]{1,20}", "a signal such as SIGTERM")
profile_text = like(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", "a name of letters, digits, _ . and -")
capability_text = like(r"[A-Za-z_]{1,40}", "a capability such as ALL")
restart_text = like(
    r"no|always|unless-stopped|on-failure(?::[0-9]{1,4})?",
    "no, always, unless-stopped or on-failure",
)
stage_text = like(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", "a stage of the Dockerfile")


@late
def inner_path(value: Any, policy: Policy) -> Optional[str]:
    """An absolute path inside the container."""
    wrong = text(value, policy)
    if wrong or not (value.startswith("/") and "\n" not in value and "\0" not in value):
        return wrong or "it must be an absolute path in the container"
    if ".." in value.split("/"):
        return "it must be a path without .."
    return None


_TMPFS = re.compile(
    r"(?:size=[0-9]+[kmgKMG%]?|mode=[0-7]{1,5}|(?:uid|gid)=[0-9]{1,10}|r[wo]|(?:no)?(?:exec|suid"
    r"|dev|atime))"
)


@late
def tmpfs_text(value: Any, policy: Policy) -> Optional[str]:
    wrong = text(value, policy)
    if wrong:
        return wrong
    path, colon, options = value.partition(":")
    for option in options.split(",") if colon else ():
        if not _TMPFS.fullmatch(option):
            return "the option {0} is not known".format(plain(option, 40))
    return inner_path(path, policy)


@late
def host_address(value: Any, policy: Policy) -> Optional[str]:
    """An address in ``extra_hosts``."""
    if value == "host-gateway":
        return "it is the host's own address, which previews don't reach"
    try:
        ipaddress.ip_address(str(value).strip("[]"))
    except ValueError:
        return "it must be an IP address"
    return None


def host_entry(value: Any, policy: Policy) -> Optional[str]:
    wrong = text(value, policy)
    if wrong:
        return wrong
    name, separator, address = value.partition("=" if "=" in value else ":")
    if not separator:
        return "it must read host=address"
    return host_name(name, policy) or host_address(address, policy)


host_name = like(r"[A-Za-z0-9_.-]{1,253}", "a host's name")


def ulimit_name(value: Any, policy: Policy) -> Optional[str]:
    known = ("core", "memlock", "nofile", "nproc", "stack")
    return None if value in known else "only {0} are known".format(", ".join(known))


def ulimits(value: Any, policy: Policy) -> Optional[str]:
    nofile = value.get("nofile")
    for limit in nofile.values() if isinstance(nofile, dict) else [nofile]:
        wrong = between(0, NOFILE_MAX)(limit, policy) if limit is not None else None
        if wrong:
            return "nofile: " + wrong
    return None


def volume_text(value: Any, policy: Policy) -> Optional[str]:
    """The short form, ``source:target:options``."""
    wrong = text(value, policy)
    if wrong:
        return wrong
    if "$" in value:
        return "a mount may hold no variable: it could become any path. Write the paths themselves"
    return mount(mount_of(value), policy)


def mount_of(value: str) -> Dict[str, Any]:
    """The short form of a mount as the long one; ``options`` are those that are not known."""
    parts = value.split(":")
    found: Dict[str, Any] = {"type": "volume"}
    if len(parts) == 1:
        found["target"] = value
        return found
    found["source"], found["target"] = parts[0], parts[1]
    if parts[0][:1] in (".", "/", "~") or "\\" in parts[0]:
        found["type"] = "bind"
    options = [o for part in parts[2:] for o in part.split(",")]
    if "ro" in options:
        found["read_only"] = True
    if "nocopy" in options:
        found["volume"] = {"nocopy": True}
    known = {"ro", "rw", "nocopy", "z", "Z", "cached", "delegated", "consistent"}
    found["options"] = [o for o in options if o not in known]
    return found


def mount(value: Any, policy: Policy) -> Optional[str]:
    """A mount in its long form."""
    kind = value.get("type")
    source = value.get("source")
    if value.get("options"):
        return "the option {0} can't be used".format(plain(value["options"][0], 40))
    wrong = inner_path(value.get("target"), policy)
    if wrong:
        return "its target: " + wrong
    if kind is None:
        wrong = "it needs a type: bind, volume or tmpfs"
    elif kind == "bind":
        wrong = _bind(value, policy)
    elif kind == "volume" and source is not None:
        wrong = text(source, policy) or object_name(source, policy)
        if wrong and isinstance(source, str) and "/" in source:
            wrong = "a folder of the repository is written ./{0}".format(plain(source, 60))
    elif kind == "tmpfs" and source is not None:
        wrong = "a tmpfs has no source"
    return wrong


def _bind(value: Mapping[str, Any], policy: Policy) -> Optional[str]:
    source = value.get("source")
    if isinstance(source, str) and re.search(r"(docker|containerd|podman)\.sock", source):
        return "whoever has the engine's socket is root on the host"
    wrong = local(source, policy)
    if wrong:
        return wrong + ". For data that lives as long as the preview, use a named volume"
    if value.get("read_only") is not True:
        return (
            "a preview may not write to the checkout. Make it read-only (:ro), use a named volume, "
            "or move it to compose.override.yaml, which previews don't read"
        )
    return None


def build_secret(value: Any, policy: Policy) -> Optional[str]:
    if value in policy.build_secrets:
        return None
    return "the platform grants builds no secret of this name (preview_build_secrets)"


def environment_secret(value: Any, policy: Policy) -> Optional[str]:
    """The variable a config or secret is made of."""
    wrong = text(value, policy)
    return wrong or ("it may hold no variable" if "$" in value else variable_name(value, policy))


def mapping_only(value: Any, policy: Policy) -> Optional[str]:
    return "it must be a mapping"


def together(value: Any, policy: Policy) -> Optional[str]:
    """For mappings that mean something only as a whole."""
    return None


def replicas_of(service: Mapping[str, Any]) -> int:
    """How many containers a service in the normal form asks for."""
    deploy = service.get("deploy") or {}
    for value in (service.get("scale"), deploy.get("replicas")):
        if value is not None:
            return int(value)
    return 1
