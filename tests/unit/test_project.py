"""The Compose project that is applied: written from planned fields, never copied."""

from __future__ import annotations

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _plan, _project
from test_plan import COMMIT, complete, identity, settings, shop


def web(**service):
    of = shop()
    of["services"]["web"].update(service)
    return complete(of).project["services"]["web"]


def test_a_key_that_is_not_known_here_is_not_copied():
    """Should the screen ever let one pass, it still reaches no engine."""
    hostile = {
        "privileged": True,
        "network_mode": "host",
        "devices": ["/dev/kmsg"],
        "labels": {"ephemera.preview/owner": "mine"},
        "container_name": "other-pr-1-web-1",
        "ports": [{"target": 8000, "published": "22"}],
        "security_opt": ["apparmor:unconfined"],
        "post_start": [{"command": "id", "privileged": True}],
        "logging": {"driver": "syslog"},
        "networks": {"host": {"aliases": ["db"]}},
        "use_api_socket": True,
    }
    plain, asked = web(), web(**hostile)
    assert asked == plain
    assert plain["security_opt"] == ["no-new-privileges:true"]
    assert plain["cap_drop"] == ["NET_RAW"]


def test_a_bind_cannot_be_written_nor_make_a_path():
    mount = {"type": "bind", "source": "./conf", "target": "/c", "bind": {"propagation": "shared"}}
    assert web(volumes=[mount])["volumes"] == [
        {
            "type": "bind",
            "source": f"/var/lib/ephemera-preview/previews/shop-pr-42/source/{COMMIT}/conf",
            "target": "/c",
            "read_only": True,
            "bind": {"create_host_path": False},
        }
    ]


def test_what_waits_for_the_end_of_a_service_ends_it_for_good():
    of = shop()
    of["services"]["web"]["depends_on"]["worker"] = {"condition": "service_completed_successfully"}
    services = complete(of).project["services"]
    assert services["worker"]["restart"] == "no"
    assert services["web"]["restart"] == "unless-stopped"
    assert services["web"]["depends_on"]["worker"] == {
        "condition": "service_completed_successfully",
        "required": True,
    }


def test_reports_of_an_app_carry_its_preview_and_commit_where_set():
    services = complete(
        preview_sentry_dsn="https://k@sentry.example.com/1",
        preview_otel_endpoint="http://otel.example.com:4318",
    ).project["services"]
    environment = services["web"]["environment"]
    commit = environment["SENTRY_RELEASE"]
    assert environment["SENTRY_ENVIRONMENT"] == "shop-pr-42"
    assert environment["OTEL_SERVICE_NAME"] == "shop-pr-42-web"
    assert f"service.version={commit}" in environment["OTEL_RESOURCE_ATTRIBUTES"]
    assert "SENTRY_DSN" not in services["db"].get("environment", {})
    own = shop()
    own["services"]["web"]["environment"]["SENTRY_DSN"] = "mine"
    project = complete(own, preview_sentry_dsn="https://k@sentry.example.com/1").project
    assert project["services"]["web"]["environment"]["SENTRY_DSN"] == "mine"
    assert not _project.observability(identity(), "web", {})
    dsn = "https://k@sentry.example.com/1"
    granted = _plan.grants(identity(), settings(preview_sentry_dsn=dsn)).variables
    assert (granted["SENTRY_DSN"], granted["SENTRY_RELEASE"]) == (dsn, COMMIT)
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in granted


@pytest.mark.parametrize(
    ("recorded", "labels", "other"),
    [
        ("", [], ""),
        ("", ["me"], ""),
        ("me", [], ""),
        ("me", ["you"], ""),
        ("", ["me", "you"], ""),
        ("you", [], "you"),
        ("", ["you"], "you"),
        ("you", ["you"], "you"),
    ],
)
def test_a_preview_is_anothers_when_nothing_of_it_is_ours(recorded, labels, other):
    preview = identity()
    owners = {"me": preview["owner"], "you": "f" * 16, "": ""}
    preview["observed"]["state"] = {"owner": owners[recorded]} if recorded else {}
    preview["observed"]["volumes"] = [
        {"name": f"v{label}", "labels": {"ephemera.preview/owner": owners[label]}}
        for label in labels
    ]
    assert _plan.stranger(preview) == owners[other]
