# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door of a preview in a cluster: an Ingress for each exposed service, and what belongs to it.
Pure. What ``_route`` is for a Docker host.

Class, annotations and what the controller can do are the platform's settings. Of a service there
are its name, its port and its host, all of which are checked names.
"""

from __future__ import annotations

import base64
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence

from ansible_collections.ephemera.preview.plugins.module_utils import _route
from ansible_collections.ephemera.preview.plugins.module_utils._names import SERVICE

TLS = "tls"
"""The Secret of a preview's namespace that the platform's certificate is copied to."""
AUTH = "auth"
"""The middleware that asks for a password, and the Secret that holds the users' hashes."""
CONTROLLER = ("preview_ingress_controller", "preview_ingress_class")
"""The settings that say who serves Ingresses."""
ROUTER = "traefik.ingress.kubernetes.io/router."

Object = Dict[str, Any]
Make = Callable[..., Object]
"""Makes an object of a kind and name, for a service, with the labels of the preview."""


class Shared(NamedTuple):
    """What the Ingresses of a preview have in common.

    :ivar objects: may be shown; ``secrets`` never.
    :ivar copies: Secrets to copy into the preview's namespace, as ``namespace/name``; see
        ``_kubernetes_tls``.
    :ivar notes: what is not as the settings have it for a Docker host.
    """

    objects: List[Object]
    secrets: List[Object]
    copies: List[str]
    notes: List[str]


def shared(preview: Mapping[str, Any], settings: Mapping[str, Any], make: Make) -> Shared:
    """What the Ingresses of a preview refer to: middlewares, users and a certificate."""
    if not any(planned["expose"] for planned in preview["services"]):
        return Shared([], [], [], [])
    middlewares = _middlewares(preview, settings)
    secrets = []
    if AUTH in middlewares:
        users = _route.user_lines(settings["preview_auth_users"], settings["preview_secret_key"])
        data = {"users": base64.b64encode("\n".join(users).encode()).decode()}
        secrets.append(make("Secret", AUTH, data=data))
    copied = settings["preview_tls_secret"]
    return Shared(
        [make("Middleware", name, spec=spec) for name, spec in middlewares.items()],
        secrets,
        [copied] if copied else [],
        _notes(settings),
    )


def ingress(
    preview: Mapping[str, Any],
    planned: Mapping[str, Any],
    settings: Mapping[str, Any],
    make: Make,
) -> List[Object]:
    """Where a reviewer comes in to one exposed service."""
    name, expose = planned["name"], planned["expose"]
    service = {"name": name, "port": {"number": expose["port"]}}
    path = {"path": "/", "pathType": "Prefix", "backend": {"service": service}}
    spec: Dict[str, Any] = {"rules": [{"host": expose["host"], "http": {"paths": [path]}}]}
    if settings["preview_ingress_class"]:
        spec["ingressClassName"] = settings["preview_ingress_class"]
    annotations = dict(settings["preview_ingress_annotations"])
    if _is_https(preview):
        spec["tls"] = [_tls(name, expose["host"], settings)]
        annotations.update(_issuer(settings))
    middlewares = list(_middlewares(preview, settings))
    if middlewares:
        within = preview["names"]["namespace"]
        ours = ["{0}-{1}@kubernetescrd".format(within, each) for each in middlewares]
        annotations[ROUTER + "middlewares"] = ",".join(_platforms(settings) + ours)
    made = make("Ingress", name, name, spec=spec)
    made["metadata"]["annotations"] = annotations
    found = [made]
    if AUTH in middlewares:
        found.append(_preflight(planned, settings, middlewares, make))
    return [*found, _policy(planned, settings, make)]


def _is_https(preview: Mapping[str, Any]) -> bool:
    return bool(preview["url"].startswith("https:"))


def _middlewares(preview: Mapping[str, Any], settings: Mapping[str, Any]) -> Dict[str, Any]:
    """Traefik's, by name, in the order in which a request passes them."""
    if settings["preview_ingress_controller"] != "traefik":
        return {}
    found: Dict[str, Any] = {}
    if _is_https(preview):
        # Before a password is asked for.
        port = str(settings["preview_gateway_https_port"])
        found["redirect"] = {"redirectScheme": {"scheme": "https", "port": port, "permanent": True}}
    # What the controller serves by itself may be a certificate that nobody vouches for.
    given = bool(settings["preview_tls_secret"] or settings["preview_tls_issuer"])
    found.update(_route.common(given))
    if settings["preview_rate_limit"]:
        found["rate"] = _route.rate_limit(settings["preview_rate_limit"])
    if settings["preview_auth_users"]:
        found[AUTH] = _route.basic_auth(preview["name"], secret=AUTH)
    return found


def _platforms(settings: Mapping[str, Any]) -> List[str]:
    """Middlewares of the platform's own: who may not come in at all is asked for no password."""
    named = settings["preview_ingress_annotations"].get(ROUTER + "middlewares", "")
    return [each.strip() for each in named.split(",") if each.strip()]


def _preflight(
    planned: Mapping[str, Any],
    settings: Mapping[str, Any],
    middlewares: Sequence[str],
    make: Make,
) -> Object:
    """Lets a browser ask, without a password, whether it may send one: no Ingress knows methods."""
    name, expose = planned["name"], planned["expose"]
    passed = _platforms(settings) + [each for each in middlewares if each != AUTH]
    route = {
        "kind": "Rule",
        "match": _route.preflight_rule(expose["host"]),
        "middlewares": [{"name": each} for each in passed],
        "services": [{"name": name, "port": expose["port"]}],
    }
    spec: Dict[str, Any] = {"routes": [route]}
    annotations = settings["preview_ingress_annotations"]
    # It is to be reached where its Ingress is, and nowhere else.
    if annotations.get(ROUTER + "entrypoints"):
        spec["entryPoints"] = annotations[ROUTER + "entrypoints"].split(",")
    if annotations.get(ROUTER + "tls") == "true":
        spec["tls"] = {}
    made = make("IngressRoute", name, name, spec=spec)
    if settings["preview_ingress_class"]:
        made["metadata"]["annotations"] = {
            "kubernetes.io/ingress.class": settings["preview_ingress_class"]
        }
    return made


def _tls(name: str, host: str, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """With which certificate a host is served; without a Secret, with the controller's own."""
    if settings["preview_tls_secret"]:
        return {"hosts": [host], "secretName": TLS}
    if settings["preview_tls_issuer"]:
        # One of its own for each Ingress: cert-manager lets no two of them share one.
        return {"hosts": [host], "secretName": certificate(name)}
    return {"hosts": [host]}


def certificate(service: str) -> str:
    """The certificate of a service's host that is issued for that alone, and its Secret."""
    return "{0}-{1}".format(service, TLS)


def _issuer(settings: Mapping[str, Any]) -> Dict[str, str]:
    kind, dummy, name = settings["preview_tls_issuer"].partition("/")
    known = {"ClusterIssuer": "cluster-issuer", "Issuer": "issuer"}
    return {"cert-manager.io/" + known[kind]: name} if kind else {}


def _policy(planned: Mapping[str, Any], settings: Mapping[str, Any], make: Make) -> Object:
    """Lets the ingress controller in, and a load balancer that is no pod of any namespace."""
    name, namespace = planned["name"], settings["preview_ingress_namespace"]
    pods = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    networks = [{"ipBlock": {"cidr": each}} for each in settings["preview_ingress_networks"]]
    rule = {
        "from": [{"namespaceSelector": pods}, *networks],
        "ports": [{"port": planned["expose"]["port"], "protocol": "TCP"}],
    }
    spec = {
        "podSelector": {"matchLabels": {SERVICE: name}},
        "policyTypes": ["Ingress"],
        "ingress": [rule],
    }
    return make("NetworkPolicy", "ingress-" + name, name, spec=spec)


def _notes(settings: Mapping[str, Any]) -> List[str]:
    notes = []
    if settings["preview_ingress_controller"] == "other":
        why = "preview_ingress_controller is other, so that is up to preview_ingress_annotations."
        notes.append(
            "Previews are sent without X-Robots-Tag, security headers and compression: " + why
        )
        if settings["preview_rate_limit"]:
            notes.append("preview_rate_limit is not enforced: " + why)
    if settings["preview_tls_issuer"]:
        notes.append(
            "preview_tls_issuer: {0} issues a certificate for each host of each preview, and a "
            "public authority limits how many (Let's Encrypt: 50 a week for a domain). One "
            "wildcard certificate for all has no such limit: the ingress controller's own, or "
            "preview_tls_secret.".format(settings["preview_tls_issuer"])
        )
    return notes
