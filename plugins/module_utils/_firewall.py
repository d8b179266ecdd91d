# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The firewall around previews and builds, as iptables rules. Pure.

Two chains of ours are entered from the engine's and the host's:

* ``DOCKER-USER`` → ``EPHEMERA-PREVIEW``: what containers send to other machines and containers;
* ``INPUT`` → ``EPHEMERA-PREVIEW-HOST``: what they send to the host itself, on any address of its.

Both tell the apps of a host apart by the interface that something comes in on: the bridges of an
app's previews are named after it (:func:`interface`). So each app has exceptions of its own.

A rule of ours refuses or returns, it never accepts: what the host's own rules refuse stays so.
Rules are written exactly as ``iptables-save`` prints them, so that comparing needs no parser.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

PREFIX = "EPHEMERA-"
FORWARD = PREFIX + "PREVIEW"
FORWARD_OUT = FORWARD + "-OUT"
HOST = FORWARD + "-HOST"
HOST_IN = HOST + "-IN"
JUMPS = (("DOCKER-USER", FORWARD), ("INPUT", HOST))
_ENTRIES = ["-A {0} -j {1}".format(*jump) for jump in JUMPS]

GATEWAY = "ephemera-gw"
"""The gateway's own interface, which is not closed."""
BUILDS = "docker0"
"""Where the engine itself runs the steps of builds, whichever app's."""
BRIDGE = "epv"
"""What the names of all bridges of previews start with."""

CLOSED = {
    4: (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's platform channel, on a public address
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",  # Oracle's metadata among others
        "192.168.0.0/16",
        "198.18.0.0/15",
    ),
    6: (
        "::/96",
        "::ffff:0.0.0.0/96",
        "64:ff9b::/96",  # IPv4 addresses, private ones too, behind NAT64
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
    ),
}
"""What is not the internet: the host's neighbours, metadata services, other networks of its."""

# An IPv6 network takes a port behind brackets only.
_ALLOWED = re.compile(
    r"(?:\[(?P<six>[0-9a-fA-F:.]+(?:/\d+)?)\]|(?P<four>[0-9.]+(?:/\d+)?))(?::(?P<port>\d+))?\Z"
    r"|(?P<bare>[0-9a-fA-F:.]+(?:/\d+)?)\Z"
)
_REJECT = {4: "icmp-admin-prohibited", 6: "icmp6-adm-prohibited"}


class FirewallRefused(ValueError):
    """Settings that no rule can be made of. The message names the value and the form wanted."""


class Allowed(NamedTuple):
    """One exception: a network, and a port of it (TCP and UDP) or all of it."""

    network: Any
    port: Optional[int]


class Rules(NamedTuple):
    """Per IP version, the rules of our chains as ``iptables-save`` prints them."""

    v4: List[str]
    v6: List[str]


def interface(app: str, network: str = "") -> str:
    """The bridge of an app's network, within the 15 characters that Linux has for its name.

    Without a network, what iptables knows all bridges of the app by.
    """
    return BRIDGE + _short(app, 5) + (_short(network, 7) if network else "+")


def allowed(text: str) -> Allowed:
    """Read ``10.0.0.5``, ``10.0.0.0/24:5432`` or ``[fd00::1]:443``.

    :raises FirewallRefused: it is none of these.
    """
    matched = _ALLOWED.match(text)
    if matched:
        port = int(matched["port"]) if matched["port"] else None
        try:
            network = ipaddress.ip_network(matched["six"] or matched["four"] or matched["bare"])
        except ValueError:
            pass
        else:
            if port is None or 0 < port < 65536:
                return Allowed(network, port)
    raise FirewallRefused(
        "preview_egress_allow: {0!r} is not an address or a network (no bits set after its "
        "prefix), with or without a port: 10.0.0.5, 10.0.0.0/24:5432, [fd00::1]:443. A name is "
        "not possible, since rules know addresses only.".format(text)
    )


def resolvers(resolv_conf: str) -> List[str]:
    """The name servers of a ``resolv.conf`` that containers ask themselves: all but loopback."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.ip_address(words[1].split("%")[0])
        except ValueError:
            continue
        if not address.is_loopback:
            found.append(str(address))
    return found


def rules(apps: Mapping[str, Sequence[str]], dns: Sequence[str]) -> Rules:
    """Every rule of our chains.

    :param apps: the exceptions of each app, as :func:`allowed` reads them.
    :param dns: addresses of name servers, reached on port 53 wherever they are.
    :raises FirewallRefused: an exception cannot be read.
    """
    read = {app: [allowed(text) for text in apps[app]] for app in sorted(apps)}
    asked = [Allowed(ipaddress.ip_network(address), 53) for address in dns]
    # Nobody can tell whose a step is that the engine runs: it reaches what every app allows.
    shared = [one for one in next(iter(read.values()), []) if all(one in o for o in read.values())]
    return Rules(*(_family(version, read, shared, asked) for version in (4, 6)))


def script(wanted: Rules) -> str:
    """A shell script that puts the rules in force: at boot, before the engine starts."""
    lines = [
        "#!/bin/sh",
        "# Written by the role gateway of ephemera.preview, which also puts it in force.",
        "set -e",
    ]
    for command, family in (("iptables", wanted.v4), ("ip6tables", wanted.v6)):
        if command == "ip6tables":
            lines.append("[ -e /proc/net/if_inet6 ] || exit 0")
        lines.append("{0} -n -L DOCKER-USER >/dev/null 2>&1 || {0} -N DOCKER-USER".format(command))
        lines += [
            "{0}-restore --wait --noflush <<'RULES'".format(command),
            *_table(family, _names(family)),
            "RULES",
        ]
        lines += [
            "{0} -C {1} -j {2} 2>/dev/null || {0} -I {1} -j {2}".format(command, *jump)
            for jump in JUMPS
        ]
    return "\n".join(lines) + "\n"


def present(saved: str) -> List[str]:
    """Our rules, and the jumps to them, out of what ``iptables-save -t filter`` printed."""
    lines = [line.strip() for line in saved.splitlines()]
    return [jump for jump in _ENTRIES if jump in lines] + _by_chain(
        line for line in lines if line.startswith("-A " + PREFIX)
    )


def wanted(family: Sequence[str]) -> List[str]:
    """What :func:`present` returns once these rules are in force."""
    return [*_ENTRIES, *_by_chain(family)]


def gaps(saved: str, app: str, allow: Sequence[str], version: int = 4) -> List[str]:
    """How what is in force differs from what one app needs; empty when it is isolated as wanted.

    :param saved: what ``iptables-save -t filter`` printed, or all of it that is ours.
    :raises FirewallRefused: an exception cannot be read.
    """
    have = {line.strip() for line in saved.splitlines()}
    # Exceptions of builds and name servers depend on what an app does not know, and do not matter.
    family = _family(version, {app: [allowed(text) for text in allow]}, (), ())
    # Where the engine keeps its own rules elsewhere, nothing leads to ours.
    entered = ["-A FORWARD -j DOCKER-USER"] if version == 4 else []
    needed = [*entered, *_ENTRIES, *family]
    own = tuple("-A {0} ".format(chain) for chain in _chains(app))
    missing = [line for line in needed if line not in have]
    return missing + sorted(h for h in have if h.startswith(own) and h not in family)


def restore(family: Sequence[str], saved: str) -> str:
    """The input of ``iptables-restore --noflush`` that puts these rules in force, all at once.

    Without rules it removes every rule and chain of ours.
    """
    have = [line.strip() for line in saved.splitlines()]
    chains = [line.split(None, 1)[0][1:] for line in have if line.startswith(":")]
    kept = _names(family)
    stale = [chain for chain in chains if chain.startswith(PREFIX) and chain not in kept]
    missing = [jump for jump in JUMPS if kept and "-A {0} -j {1}".format(*jump) not in have]
    # Naming a chain empties it: the engine's is named only where the engine has not made it yet.
    made = [jump[0] for jump in missing if jump[0] not in chains]
    table = _table(family, [*made, *kept, *stale])
    table[-1:-1] = ["-I {0} 1 -j {1}".format(*jump) for jump in missing]
    if not kept:
        table[-1:-1] = ["-D" + line[2:] for line in have if line in _ENTRIES]
    table[-1:-1] = ["-X " + chain for chain in stale]
    return "\n".join(table) + "\n"


def _short(text: str, length: int) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return base64.b32encode(digest).decode("ascii").lower()[:length]


def _chains(app: str) -> Tuple[str, str]:
    """The chains of an app: what its previews send elsewhere, and to the host."""
    name = PREFIX + (_short(app, 5) if app else "BUILDS")
    return name, name + "-HOST"


def _names(family: Iterable[str]) -> List[str]:
    """The chains that these rules stand in, each once."""
    return list(dict.fromkeys(line.split(None, 2)[1] for line in family))


def _by_chain(lines: Iterable[str]) -> List[str]:
    return sorted(lines, key=lambda line: line.split(None, 2)[1])


def _table(family: Iterable[str], chains: Iterable[str]) -> List[str]:
    return ["*filter", *(":{0} - [0:0]".format(chain) for chain in chains), *family, "COMMIT"]


def _family(
    version: int,
    apps: Mapping[str, Sequence[Allowed]],
    builds: Sequence[Allowed],
    dns: Sequence[Allowed],
) -> List[str]:
    reject = "-j REJECT --reject-with " + _REJECT[version]
    known = ["-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"]
    asked = _exceptions(version, dns)
    chains: Dict[str, List[str]] = {FORWARD: list(known), HOST: list(known)}
    for app, allow in [*apps.items(), ("", builds)]:
        forward, host = _chains(app)
        name = interface(app) if app else BUILDS
        # What others run beside the engine's builds talks among itself as the engine lets it.
        elsewhere = "" if app else " ! -o " + BUILDS
        chains[FORWARD].append("-i {0}{1} -j {2}".format(name, elsewhere, forward))
        chains[HOST].append("-i {0} -j {1}".format(name, host))
        excepted = _exceptions(version, allow)
        chains[forward] = [*excepted, "-j " + FORWARD_OUT]
        chains[host] = [*excepted, "-j " + HOST_IN]
    chains[FORWARD_OUT] = [
        *asked,
        "-o {0} {1}".format(GATEWAY, reject),
        # Within a network all is open, and the engine itself keeps networks apart.
        "-o {0}+ -j RETURN".format(BRIDGE),
        *("-d {0} {1}".format(subnet, reject) for subnet in CLOSED[version]),
    ]
    # Without neighbour discovery IPv6 does not get as far as the internet.
    discovery = ["-p ipv6-icmp -j RETURN"] if version == 6 else []
    chains[HOST_IN] = [*asked, *discovery, reject]
    return ["-A {0} {1}".format(chain, rule) for chain, body in chains.items() for rule in body]


def _exceptions(version: int, allow: Sequence[Allowed]) -> List[str]:
    return [
        rule
        for one in dict.fromkeys(allow)
        if one.network.version == version
        for rule in _exception(one)
    ]


def _exception(one: Allowed) -> List[str]:
    target = "-d {0} ".format(one.network) if one.network.prefixlen else ""
    if one.port is None:
        return [target + "-j RETURN"]
    return [
        "{0}-p {1} -m {1} --dport {2} -j RETURN".format(target, protocol, one.port)
        for protocol in ("tcp", "udp")
    ]
