# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""x-preview: its form, its defaults, and what is said of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _arguments,
    _screen,
    _xpreview,
)
from hypothesis import given, settings
from hypothesis import strategies as st

SHIPPED = Path(__file__).parents[2] / "extensions" / "schemas" / "x-preview.schema.json"
WEB = {"web": {"build": {"context": "."}, "ports": [{"target": 8000, "protocol": "tcp"}]}}
BUILD = {"context": "."}
NONE = {
    "migrate": None,
    "seed": None,
    "after_deploy": None,
    "before_down": None,
    "health": None,
    "size": None,
    "exactly_one": False,
    "autoscale": None,
}
VOLUME = {"type": "volume", "source": "data", "target": "/data"}


def validate(wish: Any, top: Any = None) -> list[str]:
    found = _xpreview.validate(top, {"web": wish})
    return [_screen.describe(each, "compose.yaml", {}) for each in found]


def normalise(
    wish: dict[str, Any] | None = None, top: Any = None, services: Any = None
) -> dict[str, Any]:
    services = services or WEB
    found, problems, warnings = _xpreview.normalise(top, {"web": wish or {}}, services)
    return {
        "web": found.web,
        "wish": found.services.get("web"),
        "problems": [_screen.describe(each, "compose.yaml", {}) for each in problems],
        "warnings": warnings,
    }


def test_the_schema_that_is_shipped_is_the_one_that_is_used() -> None:
    assert json.loads(SHIPPED.read_text()) == _xpreview.SCHEMA, (
        "write it anew: python -m json.tool of _xpreview.SCHEMA"
    )
    if hasattr(jsonschema, "Draft202012Validator"):
        jsonschema.Draft202012Validator.check_schema(_xpreview.SCHEMA)
    without = {k: v for k, v in _xpreview.SCHEMA.items() if k != "$schema"}
    jsonschema.Draft7Validator.check_schema(without)


def test_it_works_with_an_old_jsonschema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_xpreview, "validator", lambda: jsonschema.Draft7Validator)
    assert validate({"health": {"path": "/x", "status": [200]}}) == []
    assert len(validate({"health": {"path": "x"}, "heatlh": 1})) == 2


@pytest.mark.parametrize(
    ("wish", "key", "value"),
    [
        ({}, "expose", {"port": 8000}),
        ({"expose": 9000}, "expose", {"port": 9000}),
        ({"expose": "9000"}, "expose", {"port": 9000}),
        (
            {"migrate": "alembic upgrade 'the head'"},
            "migrate",
            {"command": ["alembic", "upgrade", "the head"], "timeout": 300},
        ),
        ({"seed": ["a", "b c"]}, "seed", {"command": ["a", "b c"], "timeout": 300}),
        (
            {"after_deploy": {"command": "a; b", "timeout": "1m30s"}},
            "after_deploy",
            {"command": ["a;", "b"], "timeout": 90},
        ),
        ({"before_down": {"command": ["a"], "timeout": 5}}, "before_down",
         {"command": ["a"], "timeout": 5}),
        (
            {"health": "/health"},
            "health",
            {
                "path": "/health",
                "deep": None,
                "status": [200],
                "interval": 1,
                "timeout": 5,
                "start_period": 0,
                "retries": 60,
            },
        ),
        (
            {
                "health": {
                    "path": "/a?b=c",
                    "deep": "/d",
                    "status": ["204", 200],
                    "interval": "500ms",
                    "timeout": "2",
                    "start_period": "1m",
                    "retries": "3",
                }
            },
            "health",
            {
                "path": "/a?b=c",
                "deep": "/d",
                "status": [204, 200],
                "interval": 0.5,
                "timeout": 2,
                "start_period": 60,
                "retries": 3,
            },
        ),
        ({"size": "small"}, "size", "small"),
        ({"exactly_one": True}, "exactly_one", True),
        ({"exactly_one": "false"}, "exactly_one", False),
    ],
)  # fmt: skip
def test_wishes_with_their_defaults(wish: dict[str, Any], key: str, value: Any) -> None:
    assert validate(wish) == []
    found = normalise(wish)
    assert found["problems"] == [] and found["web"] == "web"
    assert found["wish"] == {**NONE, "expose": {"port": 8000}, key: value}


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"helth": "/x"}, "helth: /x is refused: this key is not known; did you mean health."),
        ({"zzz": 1}, "zzz: 1 is refused: this key is not known; migrate, seed, after_deploy"),
        ({"health": {"paths": "/x"}}, "health.paths: /x is refused: this key is not known; did"),
        ({"health": "x"}, "health: x is refused: it must be a path such as /health, or a mapping"),
        ({"health": "//example.org/x"}, "health: //example.org/x is refused: it must be a path"),
        ({"health": '/{{ env "TOKEN" }}'}, "is refused: it must be a path"),
        ({"health": {"path": "x"}}, "health.path: x is refused: it must be a path such as"),
        ({"health": {"status": [99]}}, "health.status[0]: 99 is refused: it must be a status"),
        ({"health": {"status": "ok"}}, "health.status: ok is refused: it must be a status such"),
        ({"health": {"interval": "soon"}}, "health.interval: soon is refused: it must be a time"),
        ({"health": {"interval": -1}}, "health.interval: -1 is refused: it must be a time"),
        ({"health": {"retries": 0}}, "health.retries: 0 is refused: it must be a number from 1"),
        ({"migrate": {"timeout": 5}}, "migrate: {\"timeout\": 5} is refused: it needs command"),
        ({"migrate": {"command": "a", "time": 5}}, "migrate.time: 5 is refused: this key is not"),
        ({"migrate": {"command": {}}}, "migrate.command: {} is refused: it must be a command"),
        ({"migrate": 5}, "migrate: 5 is refused: it must be a command, or a mapping"),
        ({"migrate": []}, "migrate: [] is refused: it must be a command, or a mapping"),
        ({"migrate": ["a", 5]}, "migrate[1]: 5 is refused: it must be a text"),
        ({"expose": True}, "expose: true is refused: it must be a port from 1 to 65535, or false"),
        ({"expose": 0}, "expose: 0 is refused: it must be a port"),
        ({"expose": "web"}, "expose: web is refused: it must be a port"),
        ({"exactly_one": "once"}, "exactly_one: once is refused: it must be true or false"),
        ({"size": 3}, "size: 3 is refused: it must be the name of a size"),
        ("yes", "x-preview: yes is refused: it must be a mapping"),
    ],
)  # fmt: skip
def test_a_wrong_form_is_told_by_key(wish: Any, says: str) -> None:
    (only,) = validate(wish)
    assert only.startswith("compose.yaml: services.web.x-preview") and says in only


def test_all_is_told_at_once() -> None:
    found = validate({"a": 1, "health": {"b": 1, "path": 3}, "expose": "x"}, {"webb": "web"})
    assert len(found) == 5
    assert "x-preview.webb: web is refused: this key is not known; did you mean web." in found[0]


@pytest.mark.parametrize(
    ("wish", "services", "says"),
    [
        ({"size": "huge"}, None, "size: huge is refused: the sizes are small, medium, large"),
        ({"migrate": "a 'b"}, None, "migrate: a 'b is refused: its quotes are not closed"),
        ({"migrate": " "}, None, "is refused: it is no command"),
        ({"migrate": {"command": "a", "timeout": "2h"}}, None, "timeout: 2h is refused: it must"),
        ({"health": {"interval": "0s"}}, None, "interval: 0s is refused"),
        ({"expose": "99999"}, None, "expose: 99999 is refused"),
        (
            {"exactly_one": True},
            {"web": {**WEB["web"], "deploy": {"replicas": 2}}},
            "the service also asks for 2 replicas",
        ),
        (
            {"exactly_one": True},
            {"web": {**WEB["web"], "scale": 3}},
            "the service also asks for 3 replicas",
        ),
        (
            {"autoscale": {"min": 3, "max": "2"}},
            None,
            "autoscale.min: 3 is refused: it has to be from 1 to max, which is 2",
        ),
        (
            {"autoscale": {"max": 2}},
            {"web": {**WEB["web"], "deploy": {"replicas": 3}}},
            "autoscale.min: 3 is refused",
        ),
        (
            {"autoscale": {"max": 2}, "exactly_one": True},
            None,
            "is refused: the service also asks for exactly_one",
        ),
        (
            {"autoscale": {"max": 2}},
            {"web": {**WEB["web"], "volumes": [VOLUME]}},
            "is refused: the service mounts a volume, which belongs to one container",
        ),
    ],
)
def test_a_wrong_meaning_is_told_by_key(wish: Any, services: Any, says: str) -> None:
    assert validate(wish) == []
    (only,) = normalise(wish, services=services)["problems"]
    assert only.startswith("compose.yaml: services.web.x-preview") and says in only


def test_an_autoscaled_service_counts_as_many_containers_as_it_may_have() -> None:
    services = {f"s{i}": {} for i in range(10)} | WEB
    wishes = {name: {"autoscale": {"max": 10}} for name in services}
    found, problems, dummy = _xpreview.normalise(None, wishes, services)
    assert found.services["web"]["autoscale"] == {"min": 1, "max": 10, "cpu": 80}
    assert [each.value for each in problems] == ["110 containers"]


@pytest.mark.parametrize(
    "wish", [{}, {"max": 11}, {"max": 0}, {"max": 2, "cpu": 9}, {"max": 2, "cpu": "96"}, 3]
)
def test_an_autoscaler_of_a_wrong_form_is_refused(wish: Any) -> None:
    (only,) = validate({"autoscale": wish})
    assert "services.web.x-preview.autoscale" in only and "refused" in only


def test_a_port_that_is_not_among_the_services_own_is_a_warning() -> None:
    found = normalise({"expose": 9})
    assert found["problems"] == []
    assert found["warnings"][0] == (
        "services.web.x-preview.expose: 9 is not among the service's ports (8000)."
    )


def port(number: int, **more: Any) -> dict[str, Any]:
    return {"ports": [{"target": number, "protocol": "tcp"}], **more}


@pytest.mark.parametrize(
    ("services", "top", "web"),
    [
        ({"a": port(1), "b": {}}, None, "a"),
        ({"a": {"expose": ["80/tcp"]}, "b": {}}, None, "a"),
        ({"db": port(5432), "a": port(1, build={"context": "."})}, None, "a"),
        ({"a": port(1), "b": port(2)}, {"web": "b"}, "b"),
    ],
)
def test_the_web_service(services: Any, top: Any, web: str) -> None:
    found, problems, _warnings = _xpreview.normalise(top, {}, services)
    assert problems == [] and found.web == web
    assert found.services[web]["expose"]


@pytest.mark.parametrize(
    ("services", "top", "says"),
    [
        ({"a": {}}, None, "no service has a port"),
        ({"a": {"ports": [{"target": 1, "protocol": "udp"}]}}, None, "no service has a port"),
        (
            {"db": port(1), "a": port(1, build=BUILD), "b": port(2, build=BUILD)},
            None,
            "which of db, a, b does a preview's URL lead to? Write at the top of the file "
            "x-preview: {web: a}",
        ),
        ({"a": port(1)}, {"web": "aa"}, "no service has this name; did you mean a"),
        ({"a": port(1)}, {"web": "zz"}, "there are a"),
        ({"a": port(1), "b": {}}, {"web": "b"}, "Give services.b ports: ['8000']"),
    ],
)
def test_no_web_service(services: Any, top: Any, says: str) -> None:
    found, problems, _warnings = _xpreview.normalise(top, {}, services)
    assert found.web is None
    (only,) = problems
    assert only.path == ("x-preview", "web") and says in only.reason


def test_what_is_exposed_without_a_wish() -> None:
    services = {
        "web": port(8000, build={"context": "."}),
        "api": port(9000, build={"context": "."}),
        "db": port(5432),
        "inner": {"build": {"context": "."}, "expose": ["80"]},
    }
    found = _xpreview.normalise({"web": "web"}, {"api": {"expose": False}}, services)[0]
    exposed = {name: wish["expose"] for name, wish in found.services.items()}
    assert exposed == {"web": {"port": 8000}, "api": False, "db": False, "inner": False}
    found = _xpreview.normalise({"web": "web"}, {"db": {"expose": 5432}}, services)[0]
    assert found.services["db"]["expose"] == {"port": 5432}
    assert found.services["api"]["expose"] == {"port": 9000}


known = st.sampled_from(
    ["web", *_arguments.HOOKS, "health", "expose", "size", "path", "status", "command", "timeout"]
)
structures = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(known | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(structures, structures)
@settings(max_examples=400)
def test_no_structure_does_anything_but_pass_or_be_refused(top: Any, wish: Any) -> None:
    found = _xpreview.validate(top, {"web": wish})
    for each in found:
        assert _screen.describe(each, "compose.yaml", {}).startswith("compose.yaml: ")
    if not found:
        _xpreview.normalise(top, {"web": wish}, WEB)
