# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The wall around previews and builds, as iptables rules. Pure.

Two chains of ours are entered from the engine's and the host's:

* ``DOCKER-USER`` → ``EPHEMERA-PREVIEW``: what containers send to other machines and containers;
* ``INPUT`` → ``EPHEMERA-PREVIEW-HOST``: what they send to the host itself, on any address of its.

A rule of ours refuses or returns, it never accepts: what the host's own rules refuse stays so.
Rules are written exactly as ``iptables-save`` prints them, so that comparing needs no parser.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

FORWARD = "EPHEMERA-PREVIEW"
FORWARD_OUT = "EPHEMERA-PREVIEW-OUT"
HOST = "EPHEMERA-PREVIEW-HOST"
HOST_IN = "EPHEMERA-PREVIEW-HOST-IN"
CHAINS = (FORWARD, FORWARD_OUT, HOST, HOST_IN)
JUMPS = (("DOCKER-USER", FORWARD), ("INPUT", HOST))
_ENTRIES = ["-A {0} -j {1}".format(*jump) for jump in JUMPS]

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


def rules(
    subnets: Sequence[str],
    allow: Sequence[str],
    dns: Sequence[str],
    gateway: Tuple[str, str],
    bridges: Sequence[str],
) -> Rules:
    """Every rule of our chains.

    :param subnets: those of the previews' networks.
    :param allow: exceptions, as :func:`allowed` reads them.
    :param dns: addresses of name servers, reached on port 53 wherever they are.
    :param gateway: the gateway's own interface, which is not closed, and its subnet.
    :param bridges: interfaces whose containers are closed as previews are: those of builds.
    :raises FirewallRefused: an exception cannot be read.
    """
    exceptions = [allowed(text) for text in allow]
    exceptions += [Allowed(ipaddress.ip_network(address), 53) for address in dns]
    return Rules(*(_family(version, subnets, exceptions, gateway, bridges) for version in (4, 6)))


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
            *_table(family),
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
    ours = tuple("-A {0} ".format(chain) for chain in CHAINS)
    return [jump for jump in _ENTRIES if jump in lines] + _by_chain(
        line for line in lines if line.startswith(ours)
    )


def wanted(family: Sequence[str]) -> List[str]:
    """What :func:`present` returns once these rules are in force."""
    return [*_ENTRIES, *_by_chain(family)]


def restore(family: Sequence[str], saved: str) -> str:
    """The input of ``iptables-restore --noflush`` that puts these rules in force, all at once."""
    have = present(saved)
    chains = [line.split()[0][1:] for line in saved.splitlines() if line.startswith(":")]
    missing = [jump for jump in JUMPS if "-A {0} -j {1}".format(*jump) not in have]
    table = _table(family)
    # Naming a chain empties it: the engine's is named only where the engine has not made it yet.
    table[1:1] = [":{0} - [0:0]".format(j[0]) for j in missing if j[0] not in chains]
    table[-1:-1] = ["-I {0} 1 -j {1}".format(*jump) for jump in missing]
    return "\n".join(table) + "\n"


def removal(saved: str) -> str:
    """The input of ``iptables-restore --noflush`` that removes every rule and chain of ours."""
    chains = [line.split()[0][1:] for line in saved.splitlines() if line.startswith(":")]
    mine = [chain for chain in CHAINS if chain in chains]
    jumps = [line.strip() for line in saved.splitlines() if line.strip() in _ENTRIES]
    return "\n".join(
        ["*filter"]
        + [":{0} - [0:0]".format(chain) for chain in mine]
        + ["-D" + line[2:] for line in jumps]
        + ["-X {0}".format(chain) for chain in mine]
        + ["COMMIT", ""]
    )


def _by_chain(lines: Iterable[str]) -> List[str]:
    return sorted(lines, key=lambda line: CHAINS.index(line.split()[1]))


def _table(family: Iterable[str]) -> List[str]:
    return ["*filter", *(":{0} - [0:0]".format(chain) for chain in CHAINS), *family, "COMMIT"]


def _family(
    version: int,
    subnets: Sequence[str],
    exceptions: Sequence[Allowed],
    gateway: Tuple[str, str],
    bridges: Sequence[str],
) -> List[str]:
    interface, gateway_subnet = gateway
    mine = [s for s in subnets if ipaddress.ip_network(s).version == version]
    own = [gateway_subnet] if ipaddress.ip_network(gateway_subnet).version == version else []
    known = [
        "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        "-i {0} -j RETURN".format(interface),
    ]
    reject = "-j REJECT --reject-with " + _REJECT[version]
    excepted = [
        rule
        for one in dict.fromkeys(exceptions)
        if one.network.version == version
        for rule in _exception(one)
    ]
    bodies: Dict[str, List[str]] = {
        FORWARD: known
        + ["-s {0} -j {1}".format(s, FORWARD_OUT) for s in mine]
        # Its containers among themselves are the engine's business, not ours.
        + ["-i {0} ! -o {0} -j {1}".format(b, FORWARD_OUT) for b in bridges],
        FORWARD_OUT: excepted
        + ["-d {0} {1}".format(s, reject) for s in own]
        # Within a network all is open, and the engine itself keeps networks apart.
        + ["-d {0} -j RETURN".format(s) for s in mine]
        + ["-d {0} {1}".format(s, reject) for s in CLOSED[version]],
        HOST: known
        + ["-s {0} -j {1}".format(s, HOST_IN) for s in mine]
        + ["-i {0} -j {1}".format(b, HOST_IN) for b in bridges],
        # Without neighbour discovery IPv6 does not get as far as the internet.
        HOST_IN: excepted + (["-p ipv6-icmp -j RETURN"] if version == 6 else []) + [reject],
    }
    return ["-A {0} {1}".format(chain, rule) for chain in CHAINS for rule in bodies[chain]]


def _exception(one: Allowed) -> List[str]:
    target = "-d {0} ".format(one.network) if one.network.prefixlen else ""
    if one.port is None:
        return [target + "-j RETURN"]
    return [
        "{0}-p {1} -m {1} --dport {2} -j RETURN".format(target, protocol, one.port)
        for protocol in ("tcp", "udp")
    ]
