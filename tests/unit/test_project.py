"""The Compose project that is applied: written from planned fields, never copied."""

from __future__ import annotations

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _drift,
    _plan,
    _project,
    _screen,
)
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
    assert _drift.stranger(preview) == owners[other]


# What the table takes over is in what is applied, or a note says why not

BEFORE_THE_PLAN = (
    "env_file",
    "profiles",
    "image",
    "build.secrets",
    "environment[]",
    "build.args[]",
)
"""What Compose or app_info has already made something of, or what names the service's image."""
LONG_FORM = ("build", "ports[]", "volumes[]", "configs[]", "secrets[]", "depends_on[]", "tmpfs")
"""Short forms, which Compose writes out; that of ``tmpfs`` it makes a list."""
VOLUME = {"type": "volume", "source": "data", "target": "/data"}
TMPFS = {"type": "tmpfs", "target": "/data"}
CHANGES = {
    "command": ["true"],
    "entrypoint": ["true"],
    "environment.*": {"A": "b"},
    "user": "1000",
    "working_dir": "/srv",
    "init": True,
    "tty": True,
    "stdin_open": True,
    "read_only": True,
    "stop_signal": "SIGINT",
    "stop_grace_period": "3s",
    "restart": "on-failure",
    "build.context": {"context": "api"},
    "build.dockerfile": {"context": ".", "dockerfile": "Other"},
    "build.dockerfile_inline": {"context": ".", "dockerfile_inline": "FROM busybox"},
    "build.target": {"context": ".", "target": "test"},
    "build.args.*": {"context": ".", "args": {"A": "b"}},
    "build.additional_contexts.*": {"context": ".", "additional_contexts": {"a": "b"}},
    "ports[].target": [{"target": 8001}],
    "ports[].protocol": [{"target": 8000, "protocol": "udp"}, {"target": 9000}],
    "expose[]": ["8001"],
    "depends_on.*.condition": {"db": {"condition": "service_completed_successfully"}},
    "depends_on.*.required": {"db": {"condition": "service_started", "required": False}},
    "extra_hosts.*": {"a": ["10.0.0.1"]},
    "volumes[].type": [TMPFS],
    "volumes[].source": [{**VOLUME, "source": "other"}],
    "volumes[].target": [{**VOLUME, "target": "/other"}],
    "volumes[].read_only": [{**VOLUME, "read_only": True}],
    "volumes[].volume.nocopy": [{**VOLUME, "volume": {"nocopy": True}}],
    "volumes[].tmpfs.size": [{**TMPFS, "tmpfs": {"size": "64"}}],
    "volumes[].tmpfs.mode": [{**TMPFS, "tmpfs": {"mode": "0700"}}],
    "tmpfs[]": ["/run"],
    "configs[].source": [{"source": "a", "target": "/a"}],
    "secrets[].source": [{"source": "a", "target": "/a"}],
    "healthcheck.test": {"test": ["CMD", "true"]},
    "scale": 2,
    "mem_limit": "100m",
    "cpus": 0.25,
    "pids_limit": 50,
    "shm_size": "1m",
    "ulimits.*": {"nofile": 100},
    "deploy.replicas": {"replicas": 2},
    "deploy.resources.limits.cpus": {"resources": {"limits": {"cpus": 0.25}}},
    "deploy.resources.limits.memory": {"resources": {"limits": {"memory": "100m"}}},
    "deploy.resources.limits.pids": {"resources": {"limits": {"pids": 50}}},
    "cap_drop[]": ["ALL"],
}
AS_A_WHOLE = (
    "healthcheck",
    "configs[]",
    "secrets[]",
    "ulimits",
    "extra_hosts",
    "command",
    "entrypoint",
)
"""Kept with all that stands below them."""


def taken_over() -> set[str]:
    """The keys of a service that hold values and are taken over, without those named above."""
    keys = {
        key.removeprefix("services.*.")
        for key, rule in _screen.RULES.items()
        if key.startswith("services.*.") and rule.verdict == "take" and rule.check
    }
    keys -= set(LONG_FORM)
    kept = tuple(f"{key.rstrip('[]')}{end}" for key in AS_A_WHOLE for end in (".", "["))
    return {
        key
        for key in keys
        if not key.startswith(BEFORE_THE_PLAN) and (key in CHANGES or not key.startswith(kept))
    } - {"depends_on.*"}


def applied(key: str, value: object) -> object:
    service = {
        "build": {"context": "."},
        "ports": [{"target": 8000, "protocol": "tcp"}],
        "volumes": [VOLUME],
        "depends_on": {"db": {"condition": "service_started"}},
    }
    if key == "expose":
        del service["ports"]
    if value:
        service[key] = value
    files = {"a": {"content": "a"}}
    done = complete(shop(web=service) | {"configs": files, "secrets": files})
    return {"project": done.project, **{k: done.preview[k] for k in ("services", "notes")}}


def test_the_table_of_changes_is_that_of_the_screen() -> None:
    assert taken_over() == set(CHANGES)


@pytest.mark.parametrize("key", sorted(CHANGES))
def test_what_is_taken_over_is_applied(key: str) -> None:
    top = key.partition(".")[0].removesuffix("[]")
    before = {"expose": ["9000"], "volumes": [TMPFS] if "tmpfs." in key else None}.get(top)
    assert applied(top, CHANGES[key]) != applied(top, before)
