# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door of a preview in a cluster: what it is made of, and who decides it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _ingress,
    _kubernetes_ingress,
    _manifests,
    _route,
    _settings,
)
from test_plan import complete, shop

ROOT = Path(__file__).parents[2]
CLUSTER = {"preview_target": "kubernetes", "preview_registry": "registry.example.org/previews"}
ROUTER = "traefik.ingress.kubernetes.io/router."
USERS = {"ann": "opensesame"}


def rendered(of: dict[str, Any] | None = None, **settings: Any) -> _manifests.Manifests:
    planned = complete(of or shop(), **{**CLUSTER, **settings})
    return _manifests.Manifests(**planned.project)


def kinds(made: _manifests.Manifests, *wanted: str) -> dict[str, Any]:
    """The objects of some kinds, by name."""
    services = [each for objects in made.services.values() for each in objects]
    every = [*made.base, *made.secret, *services]
    return {each["metadata"]["name"]: each for each in every if each["kind"] in wanted}


def ingress(made: _manifests.Manifests, name: str = "web") -> dict[str, Any]:
    return dict(kinds(made, "Ingress")[name])


def annotations(made: _manifests.Manifests, name: str = "web") -> dict[str, str]:
    return dict(ingress(made, name)["metadata"]["annotations"])


def chain(made: _manifests.Manifests) -> list[str]:
    return annotations(made)[ROUTER + "middlewares"].split(",")


def refusal(**settings: Any) -> str:
    with pytest.raises(_settings.SettingsRefused) as refused:
        _settings.resolve({**CLUSTER, **settings})
    return str(refused.value)


def two() -> dict[str, Any]:
    """Two services that are exposed."""
    api = {"image": "acme/api", "ports": [{"target": 9000}], "x-preview": {"expose": 9000}}
    return shop(api=api)


def test_an_ingress_leads_a_host_to_the_port_of_its_service() -> None:
    made = ingress(rendered(preview_ingress_class="public"))
    assert made["apiVersion"] == "networking.k8s.io/v1"
    assert made["metadata"]["namespace"] == "shop-pr-42"
    backend = {"service": {"name": "web", "port": {"number": 8000}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    assert made["spec"] == {
        "ingressClassName": "public",
        "rules": [{"host": "shop-pr-42.preview.example.com", "http": {"paths": [path]}}],
    }


def test_each_exposed_service_has_its_own_and_all_share_the_middlewares() -> None:
    made = rendered(two(), preview_auth_users=USERS)
    found = kinds(made, "Ingress")
    hosts = {name: each["spec"]["rules"][0]["host"] for name, each in found.items()}
    assert hosts == {
        "web": "shop-pr-42.preview.example.com",
        "api": "api--shop-pr-42.preview.example.com",
    }
    assert set(kinds(made, "Middleware")) == {"headers", "compress", "auth"}
    assert annotations(made, "web") == annotations(made, "api")
    assert set(kinds(made, "IngressRoute")) == {"web", "api"}


def test_where_nothing_is_exposed_there_is_no_door() -> None:
    of = shop()
    of["x_preview"]["services"]["web"]["expose"] = None
    made = rendered(of, preview_auth_users=USERS, preview_tls_secret="traefik/wildcard")
    assert not kinds(made, "Ingress", "IngressRoute", "Middleware")
    assert made.copies == [] and "auth" not in kinds(made, "Secret")


# What Traefik does


def test_a_request_passes_what_it_passes_on_a_docker_host_in_that_order() -> None:
    wanted = {"preview_auth_users": USERS, "preview_rate_limit": 10}
    made = rendered(**wanted)
    ours = ["headers", "compress", "rate", "auth"]
    assert chain(made) == [f"shop-pr-42-{name}@kubernetescrd" for name in ours]
    specs = {name: each["spec"] for name, each in kinds(made, "Middleware").items()}
    assert specs == {
        **_route.common(trusted=False),
        "rate": {"rateLimit": {"average": 10, "burst": 50}},
        "auth": {"basicAuth": {"realm": "shop-pr-42", "removeHeader": True, "secret": "auth"}},
    }
    assert all(e["apiVersion"] == "traefik.io/v1alpha1" for e in kinds(made, "Middleware").values())


def test_hashes_are_in_a_secret_and_nowhere_else() -> None:
    made = rendered(preview_auth_users={**USERS, "bob": "$2y$05$" + "a" * 53})
    secret = kinds(made, "Secret")["auth"]
    assert list(secret["data"]) == ["users"], "Traefik takes one key only"
    lines = base64.b64decode(secret["data"]["users"]).decode().splitlines()
    assert [line.split(":")[0] for line in lines] == ["ann", "bob"]
    assert "opensesame" not in "".join(lines)
    shown = json.dumps([made.base, made.services])
    assert "$apr1$" not in shown and "$2y$" not in shown and secret["data"]["users"] not in shown


def test_a_preflight_passes_all_but_the_password_and_only_where_its_ingress_is() -> None:
    own = {ROUTER + "middlewares": "office@file", ROUTER + "entrypoints": "private,inner"}
    given = {"preview_auth_users": USERS, "preview_ingress_class": "inside"}
    made = kinds(rendered(preview_ingress_annotations=own, **given), "IngressRoute")["web"]
    (route,) = made["spec"]["routes"]
    assert [each["name"] for each in route["middlewares"]] == ["office@file", "headers", "compress"]
    assert route["services"] == [{"name": "web", "port": 8000}]
    assert "Host(`shop-pr-42.preview.example.com`) && Method(`OPTIONS`)" in route["match"]
    assert made["spec"]["entryPoints"] == ["private", "inner"]
    assert made["metadata"]["annotations"] == {"kubernetes.io/ingress.class": "inside"}
    assert not kinds(rendered(), "IngressRoute"), "without a password there is nothing to pass"


def test_the_platforms_own_middlewares_come_before_ours_and_take_none_away() -> None:
    own = {ROUTER + "middlewares": "office@file, ops-log@kubernetescrd", "example.org/a": "b"}
    made = rendered(preview_ingress_annotations=own, preview_auth_users=USERS)
    assert chain(made)[:2] == ["office@file", "ops-log@kubernetescrd"]
    assert chain(made)[-1] == "shop-pr-42-auth@kubernetescrd"
    assert annotations(made)["example.org/a"] == "b"


# TLS


def test_http_has_no_tls_and_https_is_where_http_leads_to() -> None:
    assert "tls" not in ingress(rendered())["spec"]
    made = rendered(preview_ingress_tls=True, preview_gateway_https_port=8443)
    assert ingress(made)["spec"]["tls"] == [{"hosts": ["shop-pr-42.preview.example.com"]}]
    assert chain(made)[0] == "shop-pr-42-redirect@kubernetescrd"
    assert kinds(made, "Middleware")["redirect"]["spec"] == {
        "redirectScheme": {"scheme": "https", "port": "8443", "permanent": True}
    }


@pytest.mark.parametrize("settings", [{"preview_ingress_tls": True}, {}])
def test_only_a_certificate_that_was_given_is_worth_being_strict_about(settings: Any) -> None:
    def strict(**given: Any) -> int:
        made = kinds(rendered(**given, **settings), "Middleware")["headers"]
        return int(made["spec"]["headers"]["stsSeconds"])

    assert strict() == 0
    assert strict(preview_tls_secret="traefik/wildcard") == 86400


def test_a_given_secret_is_referred_to_and_is_to_be_copied_once() -> None:
    made = rendered(two(), preview_tls_secret="traefik/wildcard")
    for name in ("web", "api"):
        (tls,) = ingress(made, name)["spec"]["tls"]
        assert tls["secretName"] == _ingress.TLS
    assert made.copies == ["traefik/wildcard"]
    assert _ingress.TLS not in kinds(made, "Secret")
    assert rendered().copies == []


@pytest.mark.parametrize(
    ("issuer", "annotation"),
    [("ClusterIssuer/le", "cluster-issuer"), ("Issuer/le", "issuer")],
)
def test_an_issuer_is_named_to_cert_manager_and_its_limits_are_told(
    issuer: str, annotation: str
) -> None:
    made = rendered(two(), preview_tls_issuer=issuer)
    assert annotations(made)[f"cert-manager.io/{annotation}"] == "le"
    secrets = {ingress(made, name)["spec"]["tls"][0]["secretName"] for name in ("web", "api")}
    assert secrets == {"web-tls", "api-tls"}
    (note,) = made.notes
    assert issuer in note and "limits how many" in note


def test_a_host_has_one_certificate() -> None:
    both = {"preview_tls_secret": "a/b", "preview_tls_issuer": "Issuer/c"}
    assert "preview_tls_issuer and preview_tls_secret are both set" in refusal(**both)


# A controller that is not Traefik


def test_another_controller_gets_no_middleware_and_what_is_missing_is_told() -> None:
    made = rendered(preview_ingress_controller="other", preview_rate_limit=10)
    assert not kinds(made, "Middleware", "IngressRoute")
    assert annotations(made) == {}
    assert len(made.notes) == 2
    assert "X-Robots-Tag" in made.notes[0]
    assert made.notes[1].startswith("preview_rate_limit is not enforced")


def test_a_password_that_nothing_would_ask_for_is_refused() -> None:
    given = {"preview_ingress_controller": "other", "preview_auth_users": USERS}
    said = refusal(**given)
    assert "preview_auth_users" in said and "previews would be open" in said
    assert "opensesame" not in said
    made = rendered(preview_ingress_auth=True, **given)
    assert not kinds(made, "Middleware", "IngressRoute") and "auth" not in kinds(made, "Secret")
    # On a Docker host it is the gateway that asks.
    assert _settings.resolve({**given, "preview_target": "docker"})


def test_a_load_balancer_of_no_namespace_is_let_in_to_what_is_exposed() -> None:
    made = rendered(preview_ingress_networks=["10.20.0.0/24", "fd00:20::/64"])
    policies = kinds(made, "NetworkPolicy")
    assert set(policies) == {"default", "ingress-web"}
    spec = policies["ingress-web"]["spec"]
    (rule,) = spec["ingress"]
    controller, *networks = rule["from"]
    assert controller == {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "traefik"}}
    }
    assert [each["ipBlock"]["cidr"] for each in networks] == ["10.20.0.0/24", "fd00:20::/64"]
    assert rule["ports"] == [{"port": 8000, "protocol": "TCP"}]
    deployment = kinds(made, "Deployment")["web"]["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= deployment.items()
    assert _manifests.SERVICE in spec["podSelector"]["matchLabels"]


def test_the_sample_for_an_alb_makes_an_ingress_that_its_controller_takes() -> None:
    given = yaml.safe_load((ROOT / "examples/kubernetes/alb.yml").read_text(encoding="utf-8"))
    made = rendered(**given)
    found = ingress(made)
    assert found["spec"]["ingressClassName"] == "alb"
    host = "shop-pr-42.preview.example.org"
    assert found["spec"]["rules"][0]["host"] == host
    assert found["spec"]["tls"] == [{"hosts": [host]}]
    noted = annotations(made)
    alb = "alb.ingress.kubernetes.io/"
    assert noted[alb + "group.name"] == "previews" and noted[alb + "target-type"] == "ip"
    assert {"HTTPS": 443} in json.loads(noted[alb + "listen-ports"])
    assert noted[alb + "ssl-redirect"] == "443"
    assert noted[alb + "certificate-arn"].startswith("arn:aws:acm:")
    assert noted[alb + "healthcheck-path"] == "/health"
    assert all(isinstance(value, str) for value in noted.values())
    assert not kinds(made, "Middleware", "IngressRoute")
    assert len(kinds(made, "NetworkPolicy")["ingress-web"]["spec"]["ingress"][0]["from"]) > 1
    assert any("X-Robots-Tag" in note for note in made.notes)


def ingress_class(name: str, controller: str, default: str = "false") -> dict[str, Any]:
    annotations = {_kubernetes_ingress.DEFAULT: default}
    return {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"controller": controller},
    }


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("edge", ""),
        ("nginx", "is served by k8s.io/ingress-nginx, which passes over Traefik's middlewares"),
        ("", "The ingress class nginx is served by"),
        ("egde", "there is no ingress class egde (there are: bare, edge, nginx)"),
        ("bare", "is served by example.org/bare"),
    ],
)
def test_a_class_that_is_not_traefiks_is_not_taken_for_it(wanted: str, said: str) -> None:
    bare = {"metadata": {"name": "bare"}, "spec": {"controller": "example.org/bare"}}
    classes = [
        ingress_class("edge", "traefik.io/ingress-controller"),
        ingress_class("nginx", "k8s.io/ingress-nginx", default="true"),
        bare,
    ]
    found = _kubernetes_ingress.mismatch(classes, wanted)
    assert said in found if said else found == ""
    assert _kubernetes_ingress.mismatch([bare], "").startswith("No ingress class is the cluster's")


# Nothing of a pull request


def test_what_an_author_writes_reaches_no_annotation_class_or_host() -> None:
    hostile = {
        "labels": {ROUTER + "middlewares": "", "traefik.enable": "true"},
        "annotations": {"kubernetes.io/ingress.class": "other", ROUTER + "priority": "9999"},
        "hostname": "victim.example.org",
        "domainname": "victim.example.org",
    }
    of = shop()
    of["services"]["web"].update(hostile)
    given = {"preview_auth_users": USERS, "preview_rate_limit": 10}
    assert rendered(of, **given) == rendered(**given)


@pytest.mark.parametrize("host", ["a`) || PathPrefix(`/", "A.example.org", ""])
def test_a_host_of_another_form_reaches_no_rule(host: str) -> None:
    with pytest.raises(_route.RouteRefused, match="of a route"):
        _route.preflight_rule(host)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preview_tls_secret", "wildcard"),
        ("preview_tls_secret", "a/b/c"),
        ("preview_tls_secret", "../b"),
        ("preview_tls_secret", "a/.."),
        ("preview_tls_secret", "A/b"),
        ("preview_tls_issuer", "letsencrypt"),
        ("preview_tls_issuer", "Certificate/le"),
        ("preview_ingress_controller", "nginx"),
        ("preview_ingress_annotations", {"a/b/c": "x"}),
        ("preview_ingress_annotations", {"-a": "x"}),
        ("preview_ingress_annotations", {"a": "x\ny"}),
        ("preview_ingress_annotations", {"a": 443}),
        ("preview_ingress_networks", ["anywhere"]),
    ],
)
def test_a_setting_of_another_form_is_refused(name: str, value: Any) -> None:
    assert refusal(**{name: value}).startswith(name)
