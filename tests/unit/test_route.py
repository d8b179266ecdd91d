"""Routes: only checked fields reach the gateway, and only as JSON."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _route

SETTINGS = {
    "preview_auth_users": {},
    "preview_rate_limit": 0,
    "preview_secret_key": "k" * 32,
}


def preview(**expose):
    exposed = {
        "host": "shop-pr-42.example.org",
        "alias": "web.shop-pr-42.preview.internal",
        "port": 8000,
    }
    return {
        "name": "shop-pr-42",
        "services": [
            {"name": "web", "expose": dict(exposed, **expose)},
            {"name": "worker", "expose": None},
        ],
    }


def test_a_route_leads_a_host_to_the_alias_of_its_service():
    assert _route.route(preview(), SETTINGS) == {
        "http": {
            "routers": {
                "shop-pr-42--web": {
                    "rule": "Host(`shop-pr-42.example.org`)",
                    "service": "shop-pr-42--web",
                }
            },
            "services": {
                "shop-pr-42--web": {
                    "loadBalancer": {
                        "passHostHeader": True,
                        "servers": [{"url": "http://web.shop-pr-42.preview.internal:8000"}],
                    }
                }
            },
        }
    }


def test_rate_and_password_come_before_the_app_and_a_preflight_needs_no_password():
    settings = dict(SETTINGS, preview_auth_users={"ann": "secret"}, preview_rate_limit=10)
    http = _route.route(preview(), settings)["http"]
    routers = http["routers"]
    assert routers["shop-pr-42--web"]["middlewares"] == ["shop-pr-42--rate", "shop-pr-42--auth"]
    preflight = routers["shop-pr-42--web--preflight"]
    assert preflight["middlewares"] == ["shop-pr-42--rate"]
    assert "Method(`OPTIONS`)" in preflight["rule"]
    assert "Access-Control-Request-Method" in preflight["rule"]
    # Traefik takes the longer rule first.
    assert len(preflight["rule"]) > len(routers["shop-pr-42--web"]["rule"])
    auth = http["middlewares"]["shop-pr-42--auth"]["basicAuth"]
    assert auth["removeHeader"] is True
    assert "secret" not in json.dumps(http)
    assert http["middlewares"]["shop-pr-42--rate"] == {"rateLimit": {"average": 10, "burst": 50}}


def test_no_exposed_service_is_an_empty_configuration():
    assert _route.route({"name": "shop-pr-42", "services": []}, SETTINGS) == {"http": {}}


def test_hosts_are_read_back():
    found = _route.hosts(_route.route(preview(), dict(SETTINGS, preview_auth_users={"a": "b"})))
    assert found == {"shop-pr-42.example.org"}
    assert _route.hosts({}) == set()


@pytest.mark.parametrize(
    "field",
    [
        {"host": "a`) || PathPrefix(`/"},
        {"host": "{{ env `TOKEN` }}.example.org"},
        {"host": "Shop.example.org"},
        {"host": "example.org\n"},
        {"host": ""},
        {"host": None},
        {"host": "a" * 64 + ".org"},
        {"host": ".".join(["a" * 60] * 5)},
        {"alias": "web:80/x"},
        {"port": 0},
        {"port": 65536},
        {"port": "8000"},
        {"port": True},
    ],
)
def test_a_field_of_another_form_is_refused(field):
    with pytest.raises(_route.RouteRefused, match="of a route"):
        _route.route(preview(**field), SETTINGS)


@pytest.mark.parametrize("name", ["../_gateway", "a/b", "", "-a", "A"])
def test_a_name_of_another_form_is_refused(name):
    with pytest.raises(_route.RouteRefused):
        _route.route(dict(preview(), name=name), SETTINGS)


def test_what_traefik_would_render_is_refused_wherever_it_stands():
    users = {'{{ env "TOKEN" }}': "x"}
    made = _route.route(preview(), dict(SETTINGS, preview_auth_users=users))
    with pytest.raises(_route.RouteRefused, match="template"):
        _route.serialise(made)
    assert json.loads(_route.serialise({"a": {"b": {"c": {}}}})) == {"a": {"b": {"c": {}}}}


def test_a_password_has_one_hash_and_a_hash_stays_as_it_is():
    given = {"ann": "secret", "bob": "$2y$05$" + "a" * 53}
    lines = _route.user_lines(given, "key")
    assert lines == _route.user_lines(given, "key")
    assert lines[0].startswith("ann:$apr1$")
    assert lines[1] == "bob:$2y$05$" + "a" * 53
    assert _route.user_lines({"ann": "secret"}, "other")[0] != lines[0]
    with pytest.raises(_route.RouteRefused, match="colon"):
        _route.user_lines({"a:b": "x"}, "key")


@pytest.mark.skipif(not shutil.which("openssl"), reason="compares with openssl")
@pytest.mark.parametrize("password", ["a", "fifteen letters", "sixteen letters!", "ü" * 40])
def test_apr1_is_apaches(password):
    argv = ["openssl", "passwd", "-apr1", "-salt", "abcd./12", password]
    expected = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    assert _route.apr1(password, "abcd./12") == expected


def test_the_gateways_network_is_the_first_of_the_subnets():
    assert _route.gateway_network(["10.213.0.0/16", "10.214.0.0/16"]) == {
        "subnet": "10.213.0.0/26",
        "host": "10.213.0.1",
        "address": "10.213.0.2",
        "interface": "ephemera-gw",
    }
    # Where it is already it stays, whatever subnets the next app has.
    assert _route.gateway_network(["10.9.0.0/16"], "10.213.0.0/26")["host"] == "10.213.0.1"
    with pytest.raises(_route.RouteRefused, match="/26"):
        _route.gateway_network(["10.0.0.0/27"])
