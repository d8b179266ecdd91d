# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the doctor knows of an app's places: the shapes, and what a machine is asked. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, field
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from ansible_collections.ephemera.preview.plugins.module_utils import _diagnose, _docker, _names

# What stages run on the host, and the package of Debian that has it.
COMMANDS = {
    "cat": "coreutils",
    "cmp": "diffutils",
    "cut": "coreutils",
    "date": "coreutils",
    "flock": "util-linux",
    "grep": "grep",
    "head": "coreutils",
    "mktemp": "coreutils",
    "sed": "sed",
    "sha256sum": "coreutils",
    "sort": "coreutils",
    "stat": "coreutils",
    "tail": "coreutils",
    "timeout": "coreutils",
    "tr": "coreutils",
}


class Network(NamedTuple):
    """A network of the engine; ``preview`` names the preview whose label it carries, or ""."""

    name: str
    preview: str
    subnets: Tuple[str, ...]


class Disk(NamedTuple):
    """Room in bytes where something lies."""

    free: int
    mount: str
    type: str


class State(NamedTuple):
    """``at`` is the state folder, or the nearest thing above it that exists."""

    at: str
    folder: bool
    writable: bool
    mode: str


class Gateway(NamedTuple):
    """The container of the gateway's name. ``ports`` are those of the host it is given."""

    ours: bool
    state: str
    health: str
    networks: Tuple[str, ...] = ()
    ports: Tuple[int, ...] = ()


@dataclass
class Machine:
    """What ``SCRIPT`` saw; ``builder`` is what buildx says of preview_buildx_builder."""

    user: str = ""
    root: bool = False
    commands: Set[str] = field(default_factory=set)
    info: Dict[str, Any] = field(default_factory=dict)
    said: str = ""
    builder: Optional[str] = None
    networks: List[Network] = field(default_factory=list)
    gateway: Optional[Gateway] = None
    routes: List[Tuple[str, str]] = field(default_factory=list)
    listeners: List[Tuple[str, int]] = field(default_factory=list)
    holders: Dict[int, str] = field(default_factory=dict)
    disks: Dict[str, Disk] = field(default_factory=dict)
    memory: Dict[str, int] = field(default_factory=dict)
    state: Optional[State] = None
    firewall: _docker.Firewall = field(default_factory=_docker.Firewall)
    addresses: List[str] = field(default_factory=list)
    now: int = 0

    @property
    def answers(self) -> bool:
        """Whether the engine did."""
        return bool(self.info.get("ServerVersion"))

    def plugin(self, name: str) -> Optional[Dict[str, Any]]:
        """A plugin of Docker's client that works: at least ``Version`` and ``Path``."""
        for plugin in (self.info.get("ClientInfo") or {}).get("Plugins") or []:
            if plugin.get("Name") == name and plugin.get("Version"):
                return dict(plugin)
        return None


class Python(NamedTuple):
    """What the module doctor_info saw; ``said`` is why it could not run.

    ``missing`` maps a library to why it cannot be imported. ``compose`` is the program and the
    version that reads apps' definitions. ``repository`` is None where it was not asked.
    """

    said: str = ""
    executable: str = ""
    version: str = ""
    missing: Mapping[str, str] = {}
    git: str = ""
    compose: Tuple[str, str] = ("", "")
    repository: Optional[str] = None


class Collection(NamedTuple):
    """A collection that ours depends on; ``found`` is its version or ""."""

    name: str
    wanted: str
    found: str
    fits: bool


class Name(NamedTuple):
    """A name that no preview has, and what the controller's resolver says of it."""

    host: str
    domain: str
    addresses: Tuple[str, ...]
    said: str


class Endpoint(NamedTuple):
    """What answered at that name, as from ``_http.get``."""

    url: str
    port: int
    status: int
    ours: bool
    said: str


class Certificate(NamedTuple):
    """``source`` is a file or where it is served; ``default`` is Traefik's own."""

    source: str
    said: str = ""
    not_after: float = 0
    names: Tuple[str, ...] = ()
    default: bool = False
    untrusted: str = ""


class Login(NamedTuple):
    """The outcome of logging in to a registry; ``said`` is "" when it let us in. Without a
    ``password`` it says why there is none."""

    registry: str
    username: str
    said: str
    password: bool = True


class Cluster(NamedTuple):
    """What an API server was asked. What could not be asked is None or said why.

    :ivar said: why it does not answer; ``library`` whether what to ask it with is missing.
    :ivar missing: rights that the account has not got.
    :ivar ingress: class and controller; ``ingress_said`` why previews are not served.
    :ivar classes: the storage classes; ``default`` is the one of the cluster, or "".
    :ivar metrics: whether it knows how much pods use.
    :ivar enforced: whether network policies are; None where that is not known, for the reason
        ``policies_said``, or was not tried.
    """

    said: str = ""
    library: bool = True
    server: str = ""
    version: str = ""
    missing: Sequence[str] = ()
    ingress: Sequence[str] = ()
    ingress_said: str = ""
    classes: Optional[Sequence[str]] = None
    default: str = ""
    metrics: bool = False
    enforced: Optional[bool] = None
    policies_said: str = ""


@dataclass
class Facts:
    """All that is known of one app's places. None and empty stand for "not looked at"."""

    app: str
    where: str
    settings: Mapping[str, Any]
    local: bool = False
    refused: List[str] = field(default_factory=list)
    unreadable: Dict[str, str] = field(default_factory=dict)
    core: str = ""
    collections: List[Collection] = field(default_factory=list)
    unreachable: str = ""
    shell: str = ""
    machine: Optional[Machine] = None
    cluster: Optional[Cluster] = None
    python: Optional[Python] = None
    clock: float = 0
    name: Optional[Name] = None
    endpoint: Optional[Endpoint] = None
    certificates: List[Certificate] = field(default_factory=list)
    ca: str = ""
    logins: List[Login] = field(default_factory=list)


# $1 the state folder, $2 the gateway's container, $3 "firewall" to look at the rules around
# previews, $4 ports whose holders are named, $5 commands to look for; $6 and $7 are the formats
# below, $8 is a builder of buildx. Every line of output that counts is "<kind> TAB <value>"; what
# Docker says when it fails stands between.
SCRIPT = (
    _docker.FIREWALL
    + _docker.BUILDER
    + r"""
state=$1 gateway=$2 look=$3 ports=$4 commands=$5
t=$(printf '\t')
user=$(id -un 2>/dev/null || id -u)
printf 'user\t%s\t%s\n' "$user" "$(id -u)"
printf 'now\t%s\n' "$(date +%s)"
for name in $commands; do
    command -v "$name" >/dev/null 2>&1 && printf 'command\t%s\n' "$name"
done
root=
if command -v docker >/dev/null 2>&1; then
    if info=$(bounded docker info --format "info$t{{json .}}" 2>&1); then
        root=$(printf '%s\n' "$info" | sed -n 's/.*"DockerRootDir":"\([^"]*\)".*/\1/p')
        ids=$(docker network ls --quiet) &&
            docker network inspect --format "$6" $ids 2>/dev/null
        docker container inspect --format "$7" "$gateway" 2>/dev/null
    fi
    printf '%s\n' "$info"
    [ -z "$8" ] || builder "$8"
fi
at=$state
while [ ! -e "$at" ]; do
    at=${at%/*}
    [ -n "$at" ] || at=/
done
printf 'state\t%s\t%s\t%s\t%s\n' "$at" "$([ -d "$at" ] && echo folder)" \
    "$([ -w "$at" ] && [ -x "$at" ] && echo writable)" "$(stat -c %a "$at" 2>/dev/null)"
for pair in "state $at" "docker $root"; do
    path=${pair#* }
    [ -n "$path" ] && printf 'disk\t%s\t%s\t%s\n' "${pair%% *}" \
        "$(stat -f -c %T "$path" 2>/dev/null)" "$(df -Pk "$path" 2>/dev/null | tail -n 1)"
done
while read -r key value rest; do
    case $key in MemTotal: | MemAvailable:) printf 'memory\t%s\t%s\n' "$key" "$value" ;; esac
done 2>/dev/null </proc/meminfo
while read -r interface destination via flags a b c mask rest; do
    printf 'route\t%s\t%s\t%s\n' "$interface" "$destination" "$mask"
done 2>/dev/null </proc/net/route
for family in tcp tcp6; do
    [ -r /proc/net/$family ] || continue
    while read -r slot local remote status rest; do
        [ "$status" != 0A ] || printf 'listen\t%s\n' "$local"
    done </proc/net/$family
done
PATH=$PATH:/usr/sbin:/sbin
for port in $ports; do
    ss -Hltnp "sport = :$port" 2>/dev/null | sed "s/^/holder$t$port$t/"
done
{ hostname -I 2>/dev/null || ip -o address 2>/dev/null; } | sed "s/^/address$t/"
[ -z "$look" ] || firewall
exit 0
"""
)

_NETWORK = "\t".join(
    (
        "network",
        "{{.Name}}",
        '{{index .Labels "%sname"}}' % _names.PREFIX,
        "{{range .IPAM.Config}}{{.Subnet}} {{end}}",
    )
)
_GATEWAY = "\t".join(
    (
        "gateway",
        '{{index .Config.Labels "%sgateway"}}' % _names.PREFIX,
        "{{json .State}}",
        "{{json .NetworkSettings.Networks}}",
        "{{json .HostConfig.PortBindings}}",
    )
)

# $1 the registry, $2 the user; the password comes on standard input. Nothing is left behind.
LOGIN = r"""
tmp=$(mktemp -d) || exit 70
trap 'rm -rf "$tmp"' EXIT
timeout 30 docker --config "$tmp" login --username "$2" --password-stdin "$1" 2>&1
"""


def script(settings: Mapping[str, Any]) -> List[str]:
    """The argument list that runs ``SCRIPT`` for these settings."""
    commands = [*COMMANDS, "docker", "git", "ssh", "openssl"]
    return [
        "sh",
        "-c",
        SCRIPT,
        "doctor",
        settings["preview_state_dir"],
        _docker.GATEWAY,
        "firewall" if settings["preview_isolation"] else "",
        " ".join(str(port) for _setting, _address, port in wanted_ports(settings)),
        " ".join(commands),
        _NETWORK,
        _GATEWAY,
        settings["preview_buildx_builder"],
    ]


def wanted_ports(settings: Mapping[str, Any]) -> List[Tuple[str, str, int]]:
    """The ports of the host that the gateway takes: setting, address, port."""
    address = settings["preview_gateway_address"]
    found = [("preview_gateway_http_port", address)]
    if settings["preview_gateway_tls"] != "off":
        found.append(("preview_gateway_https_port", address))
    found.append(("preview_gateway_metrics_port", "127.0.0.1"))
    return [(setting, where, settings[setting]) for setting, where in found]


def parse(output: str) -> Machine:
    """A machine out of what ``SCRIPT`` printed. What is no line of its is what Docker said."""
    found = Machine()
    said = []
    for line in output.split("\n"):
        kind, dummy, rest = line.partition("\t")
        reader = _READERS.get(kind)
        if reader:
            reader(found, rest.split("\t"))
        elif line.strip():
            said.append(line.strip())
    found.said = " ".join(said[-3:])
    return found


def _read_user(machine: Machine, parts: List[str]) -> None:
    machine.user, machine.root = parts[0], parts[1] == "0"


def _read_now(machine: Machine, parts: List[str]) -> None:
    machine.now = int(parts[0])


def _read_command(machine: Machine, parts: List[str]) -> None:
    machine.commands.add(parts[0])


def _read_info(machine: Machine, parts: List[str]) -> None:
    machine.info = _object("\t".join(parts))


def _read_builder(machine: Machine, parts: List[str]) -> None:
    machine.builder = parts[0]


def _read_network(machine: Machine, parts: List[str]) -> None:
    machine.networks.append(Network(parts[0], parts[1], tuple(parts[2].split())))


def _read_gateway(machine: Machine, parts: List[str]) -> None:
    label, state, networks, bindings = parts
    status = _object(state)
    ports = {
        int(binding["HostPort"])
        for given in _object(bindings).values()
        for binding in given or []
        if str(binding.get("HostPort", "")).isdigit()
    }
    machine.gateway = Gateway(
        bool(label),
        status.get("Status", ""),
        (status.get("Health") or {}).get("Status", ""),
        tuple(sorted(_object(networks))),
        tuple(sorted(ports)),
    )


def _read_state(machine: Machine, parts: List[str]) -> None:
    at, folder, writable, mode = parts
    machine.state = State(at, bool(folder), bool(writable), mode)


def _read_disk(machine: Machine, parts: List[str]) -> None:
    # Filesystem, blocks, used, available, use%, mounted on
    columns = parts[2].split(None, 5)
    if len(columns) == 6 and columns[3].isdigit():
        machine.disks[parts[0]] = Disk(int(columns[3]) << 10, columns[5], parts[1])


def _read_memory(machine: Machine, parts: List[str]) -> None:
    machine.memory["total" if parts[0] == "MemTotal:" else "available"] = int(parts[1]) << 10


def _read_route(machine: Machine, parts: List[str]) -> None:
    """The kernel's ``eth0 0000D50A 0000FFFF`` as ("eth0", "10.213.0.0/16")."""
    interface, destination, mask = parts
    if not re.fullmatch(r"[0-9A-F]{8}", destination):
        return  # the heading
    numbers = [int.from_bytes(bytes.fromhex(text), "little") for text in (destination, mask)]
    length = bin(numbers[1]).count("1")
    if length:  # the default route takes what nothing else does
        machine.routes.append((interface, str(ipaddress.ip_network((numbers[0], length)))))


def _read_listen(machine: Machine, parts: List[str]) -> None:
    machine.listeners.append(_diagnose.listener(parts[0]))


def _read_holder(machine: Machine, parts: List[str]) -> None:
    named = re.search(r'users:\(\("([^"]+)",pid=(\d+)', parts[1])
    if named:
        machine.holders[int(parts[0])] = "{0} (process {1})".format(*named.groups())


def _read_address(machine: Machine, parts: List[str]) -> None:
    words = parts[0].split()
    for word in words[3:4] if "inet" in words or "inet6" in words else words:
        machine.addresses.append(word.split("/")[0])


def _read_firewall(machine: Machine, parts: List[str]) -> None:
    machine.firewall = machine.firewall.read("firewall", "\t".join(parts))


def _read_nofirewall(machine: Machine, parts: List[str]) -> None:
    machine.firewall = machine.firewall.read("nofirewall", parts[0])


_READERS: Dict[str, Callable[[Machine, List[str]], None]] = {
    "user": _read_user,
    "now": _read_now,
    "command": _read_command,
    "info": _read_info,
    "builder": _read_builder,
    "network": _read_network,
    "gateway": _read_gateway,
    "state": _read_state,
    "disk": _read_disk,
    "memory": _read_memory,
    "route": _read_route,
    "listen": _read_listen,
    "holder": _read_holder,
    "address": _read_address,
    "firewall": _read_firewall,
    "nofirewall": _read_nofirewall,
}


def _object(text: str) -> Dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
