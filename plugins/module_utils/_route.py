# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the gateway is told about a preview: one Traefik file a preview, from checked fields. Pure.

A file holds only what differs between previews: hosts, addresses, users, rate. Entry points, TLS,
and what is :func:`common` stand in the gateway's own configuration and apply to every router, so
that switching TLS on rewrites no route. In a cluster, ``_ingress`` makes objects of the same.

Traefik renders each file as a Go template and drops *all* files when one cannot be read. Hence
:func:`serialise`, the only way from a route to text.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import re
from typing import Any, Dict, List, Mapping, Sequence, Set

from ansible_collections.ephemera.preview.plugins.module_utils import _firewall

NETWORK_PREFIX = 26

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(_LABEL + r"\Z")
_HOST = re.compile(r"(?=.{1,253}\Z)" + _LABEL + r"(\." + _LABEL + r")*\Z")
_USER = re.compile(r"[^:\x00-\x1f\x7f]+\Z")
_HASH = re.compile(
    r"(\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}"
    r"|\$apr1\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}"
    r"|\{SHA\}[+/=A-Za-z0-9]{28})\Z"
)
_RULE_HOST = re.compile(r"Host\(`([^`]*)`\)")

# A browser asks before it sends a request to another origin, and never with credentials.
_PREFLIGHT = (
    " && Method(`OPTIONS`) && HeaderRegexp(`Origin`, `.`)"
    " && HeaderRegexp(`Access-Control-Request-Method`, `.`)"
)


class RouteRefused(ValueError):
    """A field that must not reach the gateway. The message names it, its value and the rule."""


def route(preview: Mapping[str, Any], settings: Mapping[str, Any]) -> Dict[str, Any]:
    """The route of a preview that serves.

    :param preview: ``name``, and ``services``: each with ``name`` and ``expose``, which is empty
        or holds ``host``, ``alias`` and ``port``.
    :param settings: ``preview_auth_users``, ``preview_rate_limit`` and ``preview_secret_key``.
    :raises RouteRefused: a field is not what it must be.
    """
    name = _checked("preview", preview["name"], _NAME)
    middlewares = _middlewares(name, settings)
    open_ones = [key for key in middlewares if not key.endswith("--auth")]
    routers: Dict[str, Any] = {}
    services: Dict[str, Any] = {}
    for service in preview["services"]:
        if not service["expose"]:
            continue
        # A name holds no `--`, so this one is taken apart again at the first.
        key = "{0}--{1}".format(name, _checked("service", service["name"], _NAME))
        rule = _host_rule(service["expose"]["host"])
        routers[key] = _router(rule, key, list(middlewares))
        if len(open_ones) < len(middlewares):
            preflight = preflight_rule(service["expose"]["host"])
            routers[key + "--preflight"] = _router(preflight, key, open_ones)
        url = "http://{0}:{1}".format(
            _checked("alias", service["expose"]["alias"], _HOST), _port(service["expose"]["port"])
        )
        services[key] = {"loadBalancer": {"passHostHeader": True, "servers": [{"url": url}]}}
    return _configuration(routers, middlewares, services)


def common(trusted: bool) -> Dict[str, Any]:
    """The middlewares of every preview by name, in the order in which a request passes them.

    :param trusted: browsers trust the certificate. They let nobody past a warning on a host that
        once told them to be strict.
    """
    headers = {
        "contentTypeNosniff": True,
        "referrerPolicy": "strict-origin-when-cross-origin",
        "stsSeconds": 86400 if trusted else 0,
        "customResponseHeaders": {"X-Robots-Tag": "noindex, nofollow"},
    }
    # What is streamed must not wait for enough to compress.
    streams = ["text/event-stream", "application/x-ndjson", "application/grpc"]
    return {
        "headers": {"headers": headers},
        "compress": {"compress": {"excludedContentTypes": streams}},
    }


def rate_limit(rate: int) -> Dict[str, Any]:
    """A middleware that answers to one client so many requests a second."""
    # A page asks for all it shows at once.
    return {"rateLimit": {"average": rate, "burst": 5 * rate}}


def basic_auth(realm: str, **users: Any) -> Dict[str, Any]:
    """A middleware that asks for a password. ``users`` says where they are, as Traefik has it."""
    # The app must not see what its reviewers type.
    return {"basicAuth": {"realm": realm, "removeHeader": True, **users}}


def preflight_rule(host: str) -> str:
    """What a browser asks of a host before it sends a request of another origin there.

    :raises RouteRefused: it is no host name.
    """
    return _host_rule(host) + _PREFLIGHT


def hosts(configuration: Mapping[str, Any]) -> Set[str]:
    """The hosts that a route takes."""
    routers = (configuration.get("http") or {}).get("routers") or {}
    return {
        host for router in routers.values() for host in _RULE_HOST.findall(router.get("rule", ""))
    }


def serialise(configuration: Mapping[str, Any]) -> str:
    """A configuration as the text of a file that Traefik reads: JSON, which YAML includes.

    :raises RouteRefused: a value would be rendered as a template.
    """
    text = json.dumps(configuration, indent=2, sort_keys=True) + "\n"
    # JSON itself never puts two opening braces side by side, so they came in a value.
    if "{{" in text:
        raise RouteRefused(
            "The route holds `{{`, which Traefik would render as a template: "
            + text[text.index("{{") :][:40].splitlines()[0]
        )
    return text


def gateway_network(subnets: Sequence[str], existing: str = "") -> Dict[str, str]:
    """The gateway's own network: the first /26 of the first IPv4 subnet.

    :param existing: its subnet where there is one already. It stays where it is, so that apps with
        other subnets share the gateway, and as a preview's networks do.
    :returns: ``subnet``, ``host`` (the engine's host on it), ``address`` (the gateway's) and
        ``interface``, its bridge.
    :raises RouteRefused: no subnet has room for it.
    """
    for text in [existing] if existing else subnets:
        whole = ipaddress.ip_network(text)
        if whole.version == 4 and whole.prefixlen <= NETWORK_PREFIX:
            subnet = ipaddress.ip_network((int(whole.network_address), NETWORK_PREFIX))
            return {
                "subnet": str(subnet),
                "host": str(subnet[1]),
                "address": str(subnet[2]),
                "interface": _firewall.GATEWAY,
            }
    raise RouteRefused(
        "preview_docker_subnets ({0}) holds no IPv4 subnet of /{1} or larger, as the gateway's "
        "network needs.".format(", ".join(subnets), NETWORK_PREFIX)
    )


def is_hash(password: str) -> bool:
    """Whether a password is given as the hash that ``htpasswd`` makes of it."""
    return _HASH.match(password) is not None


def user_lines(users: Mapping[str, Any], secret_key: str) -> List[str]:
    """``user:hash`` for each user. A password in the clear is hashed, always to the same hash."""
    lines = []
    for user, given in sorted(users.items()):
        password = str(given)
        if not _USER.match(str(user)) or not password:
            raise RouteRefused(
                "preview_auth_users: {0!r} cannot be a user. A name holds no colon and no control "
                "character, and its password is not empty.".format(user)
            )
        lines.append(
            "{0}:{1}".format(
                user, password if is_hash(password) else apr1(password, _salt(secret_key, user))
            )
        )
    return lines


def apr1(password: str, salt: str) -> str:
    """Apache's MD5 hash. Traefik compares one with every request, where bcrypt would cost 60 ms."""
    secret, grain = password.encode("utf-8"), salt.encode("ascii")
    digest = _md5(secret + grain + secret)
    size = len(secret)
    mixed = secret + b"$apr1$" + grain + (digest * (size // 16 + 1))[:size]
    while size:
        mixed += b"\0" if size & 1 else secret[:1]
        size >>= 1
    digest = _md5(mixed)
    for turn in range(1000):
        mixed = secret if turn & 1 else digest
        mixed += grain if turn % 3 else b""
        mixed += secret if turn % 7 else b""
        digest = _md5(mixed + (digest if turn & 1 else secret))
    order = ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5))
    text = "".join(_itoa64(int.from_bytes(bytes(digest[i] for i in at), "big"), 4) for at in order)
    return "$apr1$" + salt + "$" + text + _itoa64(digest[11], 2)


def _configuration(
    routers: Mapping[str, Any], middlewares: Mapping[str, Any], services: Mapping[str, Any]
) -> Dict[str, Any]:
    # Traefik refuses a key that is there and empty.
    parts = {"routers": routers, "middlewares": middlewares, "services": services}
    return {"http": {key: part for key, part in parts.items() if part}}


def _router(rule: str, service: str, middlewares: Sequence[str]) -> Dict[str, Any]:
    router: Dict[str, Any] = {"rule": rule, "service": service}
    if middlewares:
        router["middlewares"] = list(middlewares)
    return router


def _middlewares(name: str, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Those of this preview alone, in the order in which a request passes them."""
    middlewares: Dict[str, Any] = {}
    rate = settings["preview_rate_limit"]
    if rate:
        middlewares[name + "--rate"] = rate_limit(rate)
    users = user_lines(settings["preview_auth_users"], settings["preview_secret_key"])
    if users:
        middlewares[name + "--auth"] = basic_auth(name, users=users)
    return middlewares


def _host_rule(host: str) -> str:
    return "Host(`{0}`)".format(_checked("host", host, _HOST))


def _port(port: Any) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536:
        raise RouteRefused(
            "The port {0!r} of a route is not a number from 1 to 65535.".format(port)
        )
    return port


def _checked(what: str, value: Any, rule: Any) -> str:
    if not isinstance(value, str) or not rule.match(value):
        raise RouteRefused(
            "The {0} {1!r} of a route is not lower-case letters, digits and hyphens{2}.".format(
                what, value, " between dots" if rule is _HOST else ""
            )
        )
    return value


def _salt(secret_key: str, user: str) -> str:
    digest = hmac.new(secret_key.encode("utf-8"), b"basic auth:" + user.encode("utf-8"), "sha256")
    return base64.b64encode(digest.digest()[:6], b"./").decode("ascii")


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _itoa64(number: int, length: int) -> str:
    alphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    return "".join(alphabet[number >> 6 * at & 63] for at in range(length))
