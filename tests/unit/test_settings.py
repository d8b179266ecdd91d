# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Settings: read as YAML and the command line give them, and all that is wrong told at once."""

from __future__ import annotations

import difflib
import json
import re
import runpy
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ephemera.preview.plugins.doc_fragments import proxy
from ansible_collections.ephemera.preview.plugins.module_utils import _arguments, _settings
from ansible_collections.ephemera.preview.plugins.module_utils._settings import (
    TABLE,
    SettingsRefused,
)
from hypothesis import given, settings
from hypothesis import strategies as st

DOCS = Path(__file__).parents[2] / "docs"
SECRETS = sorted(name for name, setting in TABLE.items() if setting.secret)
COMMIT = "0123456789ABCDEF0123456789abcdef01234567"


def resolved(name: str, value: Any, **others: Any) -> Any:
    return _settings.resolve({name: value, **others})[name]


def refusal(variables: dict, required: tuple = ()) -> SettingsRefused:
    with pytest.raises(SettingsRefused) as caught:
        _settings.resolve(variables, required)
    return caught.value


def test_nothing_set_gives_every_default() -> None:
    found = _settings.resolve({"inventory_hostname": "shop", "preview": {}, "ansible_user": "me"})
    assert found == {name: setting.default for name, setting in TABLE.items()}
    assert (found["preview_target"], found["preview_number"]) == ("docker", None)
    assert found["preview_sizes"]["medium"] == {"cpus": 1.0, "memory": "512M", "pids": 512}


def test_defaults_are_never_shared() -> None:
    _settings.resolve({})["preview_sizes"]["small"]["pids"] = 1
    _settings.resolve({})["preview_build_frontends"].append("evil")
    assert _settings.resolve({})["preview_sizes"]["small"]["pids"] == 256
    assert _settings.resolve({})["preview_build_frontends"] == [
        "docker/dockerfile:1",
        "docker/dockerfile:1.*",
    ]


STORE = {"kind": "ClusterSecretStore", "name": "vault"}


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"store": STORE, "data": {"A": {"key": "a"}}}, "needs preview_target: kubernetes"),
        ({"data": {"A": {"key": "a"}}}, "store is missing"),
        ({"store": STORE | {"kind": "Vault"}}, "one of ClusterSecretStore, SecretStore"),
        ({"store": STORE, "data": {"PREVIEW_A": {"key": "a"}}}, "each key must be"),
        ({"store": STORE, "data": {"B": {"key": "a"}}}, "is set in preview_environment, too"),
    ],
)
def test_external_secrets_come_from_a_store_to_a_cluster(given_, told):
    with pytest.raises(_settings.SettingsRefused) as refused:
        _settings.resolve({"preview_external_secrets": given_, "preview_environment": {"B": "1"}})
    assert "preview_external_secrets" in str(refused.value) and told in str(refused.value)


def test_every_default_is_a_value_of_its_kind() -> None:
    for name, setting in TABLE.items():
        if setting.default not in (None, ""):
            assert setting.kind.read(setting.default) == setting.default, name
            assert resolved(name, setting.default) == setting.default, name


def test_every_example_can_be_used_as_it_stands() -> None:
    for name, setting in TABLE.items():
        plain = re.sub(r"\{\{ playbook_dir \}\}", "/srv", setting.example)
        plain = re.sub(r"\{\{ \w.*? \}\}", "x" * 32, plain)
        value = yaml.safe_load(plain)
        read = setting.kind.read(value)
        assert read != setting.default, f"{name}: the example shows nothing"
        assert setting.kind.read(read) == read, f"{name} does not read its own result"


def test_the_modules_take_the_proxies_as_yaml_gives_them() -> None:
    """The roles hand them over as they stand in the inventory, where a bare ``no`` is false."""
    text = proxy.ModuleDocFragment.DOCUMENTATION
    options = yaml.safe_load(text)["options"]["proxy"]["suboptions"]
    assert set(options) == set(_arguments.PROXY["options"])
    given = "{http_proxy: http://a:1, https_proxy: http://a:1, no_proxy: localhost}"
    assert resolved("preview_proxy", yaml.safe_load(given)) == yaml.safe_load(given)
    assert set(yaml.safe_load(given)) == set(options)
    assert "it may hold http_proxy" in str(refusal({"preview_proxy": yaml.safe_load("{no: a}")}))


def test_every_setting_is_documented() -> None:
    for name, setting in TABLE.items():
        assert name == setting.name and re.fullmatch(r"preview_[a-z]+(_[a-z]+)*", name)
        assert setting.meaning.endswith(".") and len(setting.meaning) > 15
    assert [row["name"] for row in _settings.documentation()] == list(TABLE)
    for row in _settings.documentation():
        json.dumps(row)


def test_the_page_holds_what_the_table_holds() -> None:
    page = runpy.run_path(str(DOCS / "generate.py"))["page"]()
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == page, "run docs/generate.py"


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("preview_number", "42", 42),
        ("preview_number", 42, 42),
        ("preview_commit", COMMIT, COMMIT.lower()),
        ("preview_trusted", "false", False),
        ("preview_trusted", "No", False),
        ("preview_trusted", True, True),
        ("preview_domain", "Example.ORG", "example.org"),
        ("preview_gateway_tls", False, "off"),
        ("preview_repository_id", 1296269, "1296269"),
        ("preview_verify_timeout", "5m", 300),
        ("preview_verify_timeout", "90", 90),
        ("preview_lease", "1h", 3600),
        ("preview_state_dir", "/srv/previews/", "/srv/previews"),
        ("preview_environment", {"N": 1, "T": "true"}, {"N": "1", "T": "true"}),
        ("preview_egress_allow", ["10.1.2.3", "::1"], ["10.1.2.3/32", "::1/128"]),
        ("preview_egress_allow", ["[fd00::/64]:443"], ["[fd00::/64]:443"]),
        ("preview_log_options", {}, {}),
        ("preview_domain", "", ""),
        ("preview_domain", None, ""),
        ("preview_gateway_image", None, "traefik:v3.7"),
        ("preview_sizes", {"medium": {"cpus": "2", "memory": "1G", "pids": "64"}}, None),
    ],
)
def test_values_are_read(name: str, given: Any, value: Any) -> None:
    if value is None:
        value = {"medium": {"cpus": 2.0, "memory": "1G", "pids": 64}}
    found = resolved(name, given)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "given", "rule"),
    [
        ("preview_number", 0, "a whole number from 1 to 2147483647"),
        ("preview_number", "042", "a whole number from 1"),
        ("preview_number", "42; id", "a whole number from 1"),
        ("preview_number", True, "a whole number from 1"),
        ("preview_number", 4.2, "a whole number from 1"),
        ("preview_number", "٤٢", "a whole number from 1"),
        ("preview_number", "", "a whole number from 1"),
        ("preview_number", 2**31, "a whole number from 1"),
        ("preview_commit", "main", "all its 40 hex digits"),
        ("preview_commit", COMMIT[:12], "all its 40 hex digits"),
        ("preview_commit", COMMIT + "\n", "all its 40 hex digits"),
        ("preview_commit", 1234567, "put it in quotes"),
        ("preview_trusted", "maybe", "true or false"),
        ("preview_trusted", 1, "true or false"),
        ("preview_target", "swarm", "one of docker, kubernetes"),
        ("preview_target", ["docker"], "one of docker, kubernetes"),
        ("preview_domain", "a b", "made of a-z, 0-9"),
        ("preview_domain", "example.org.", "without the dot"),
        ("preview_host_format", "pr.{domain}", "all pull requests would share one host"),
        ("preview_host_ip", "300.0.0.1", "an IPv4 or IPv6 address"),
        ("preview_state_dir", "relative", "an absolute path"),
        ("preview_state_dir", "/", "an absolute path"),
        ("preview_state_dir", "/srv/a b", "an absolute path"),
        ("preview_state_dir", "/srv/../etc", "goes nowhere up"),
        ("preview_compose_file", "/etc/passwd", "inside the repository"),
        ("preview_compose_file", "a/../../b", "goes nowhere up"),
        ("preview_compose_file", "${X}", "inside the repository"),
        ("preview_repository", "acme/shop", "an https or ssh URL"),
        ("preview_repository", "--upload-pack=id", "an https or ssh URL"),
        ("preview_repository", "ext::sh -c id", "an https or ssh URL"),
        ("preview_ref_format", "refs/pull/head", "{number}"),
        ("preview_ref_format", "refs/{number}; id", "{number}"),
        ("preview_profiles", "worker", "must be a list"),
        ("preview_environment", ["A=b"], "must be a dictionary"),
        ("preview_environment", "A=b", "must be a dictionary"),
        ("preview_environment", {"A": True}, "put it in quotes"),
        ("preview_environment", {"A": 1.10}, "put it in quotes"),
        ("preview_environment", {"A": None}, "a text or a whole number"),
        ("preview_environment", {"A B": "x"}, "a variable's name"),
        ("preview_environment", {"PREVIEW_URL": "x"}, "not one of ours"),
        ("preview_images", {"web": "acme/shop:{branch}"}, "{commit} and {number}"),
        ("preview_images", {"We b": "acme/shop"}, "a service's name"),
        ("preview_base_images", ["python:3.1?"], "a pattern of images' names"),
        ("preview_base_images", ["python:[34]"], "a pattern of images' names"),
        ("preview_verify_timeout", 0, "a time from 1 to 3600 seconds"),
        ("preview_verify_timeout", "2 days", "a time from 1"),
        ("preview_docker_subnets", [], "at least 1"),
        ("preview_docker_subnets", ["10.213.0.1/16"], "a network"),
        ("preview_docker_subnets", ["10.213.0.0/26"], "of /25 or larger"),
        ("preview_docker_subnets", ["fd00::/64"], "a network"),
        ("preview_egress_allow", ["10.0.0.0/8:0"], "a port"),
        ("preview_egress_allow", [5], "a network"),
        ("preview_sizes", {"medium": {"cpus": 0, "memory": "1G", "pids": 64}}, "above 0"),
        ("preview_sizes", {"medium": {"cpus": "nan", "memory": "1G", "pids": 64}}, "above 0"),
        ("preview_sizes", {"medium": {"cpus": 1, "pids": 64}}, "memory is missing"),
        ("preview_sizes", {"medium": {"cpu": 1}}, "it may hold cpus, memory, pids"),
        ("preview_size", "xl", "one of preview_sizes (large, medium, small)"),
        ("preview_gateway_http_port", 70000, "from 1 to 65535"),
        ("preview_gateway_trusted_proxies", ["any"], "a network"),
        ("preview_app", "a\nb", "a text of one line"),
    ],
)
def test_values_are_refused(name: str, given: Any, rule: str) -> None:
    refused = refusal({name: given})
    assert len(refused.problems) == 1, refused
    assert str(refused).startswith(name) and rule in str(refused)
    assert "\n" not in str(refused)


def test_a_refusal_says_where_and_what_to_do() -> None:
    assert str(refusal({"preview_environment": {"OK": "x", "DEBUG": True}})) == (
        "preview_environment.DEBUG: True is refused: put it in quotes, for YAML may have altered "
        "it. For instance preview_environment: {LOG_LEVEL: debug}"
    )
    assert str(refusal({"preview_number": "42; id"})) == (
        "preview_number: '42; id' is refused: it must be a whole number from 1 to 2147483647. "
        "For instance preview_number: 42"
    )


def test_all_problems_come_in_one_message() -> None:
    refused = refusal(
        {
            "preview_traget": "kubernetes",
            "preview_number": 0,
            "preview_trusted": "maybe",
            "preview_domain": "a b",
            "preview_gateway_tls": "acme",
            "preview_gateway_acme_dns_provider": "hetzner",
        },
        ("preview_number", "preview_commit"),
    )
    assert [problem.name for problem in refused.problems] == [
        "preview_traget",
        "preview_number",
        "preview_trusted",
        "preview_domain",
        "preview_commit",
        "preview_gateway_acme_email",
    ]
    first, *lines = str(refused).splitlines()
    assert first == "6 problems in the settings:"
    assert lines == [f"- {problem}" for problem in refused.problems]


def test_what_is_required_must_be_set() -> None:
    assert _settings.resolve({"preview_number": 1}, ["preview_number"])["preview_number"] == 1
    assert str(refusal({"preview_number": None}, ("preview_number",))) == (
        "preview_number is needed and not set. For instance preview_number: 42"
    )


def test_hosts_are_judged_together() -> None:
    own = {"preview_domain": "d.org", "preview_host_format": "pr-{number}.{domain}"}
    assert _settings.resolve(own)
    assert "without {app}" in str(refusal({**own, "preview_domain_shared": True}))
    assert "without {app}" in str(refusal({**own, "preview_domain": ""}))


def test_secrets_need_a_key() -> None:
    given = {"preview_secrets": {"TOKEN": "hunter2"}}
    assert "preview_secrets needs preview_secret_key, which is not set" in str(refusal(given))
    short = refusal({**given, "preview_secret_key": "k" * 31}).problems
    assert [problem.name for problem in short] == ["preview_secret_key"]
    assert _settings.resolve({**given, "preview_secret_key": "k" * 32})


@pytest.mark.parametrize("given", [{}, {"password": "p", "password_command": ["cat", "x"]}])
def test_a_login_has_a_password_or_a_command_that_prints_it(given: dict[str, Any]) -> None:
    login = {"registry": "r.example.org", "username": "u"}
    assert resolved("preview_registries", [{**login, "password_command": ["aws", "ecr"]}])
    assert str(refusal({"preview_registries": [{**login, **given}]})).startswith(
        "preview_registries[0]: it must hold either password or password_command."
    )


def test_a_cluster_needs_a_registry_to_pull_from() -> None:
    assert str(refusal({"preview_target": "kubernetes"})) == (
        "preview_registry is needed because preview_target is kubernetes: the cluster pulls images "
        "there. For instance preview_registry: registry.example.org/previews"
    )


def test_a_misspelt_target_does_not_deploy_to_docker() -> None:
    assert str(refusal({"preview_traget": "kubernetes"})) == (
        "preview_traget is no setting of ephemera.preview. Did you mean preview_target?"
    )
    assert "docs/settings.md" in str(refusal({"preview_zzzzqqq": 1}))


@st.composite
def misspelt(draw: st.DrawFn) -> tuple[str, str]:
    """A setting and the same with one letter gone, doubled, swapped, replaced or in capitals."""
    name = draw(st.sampled_from(sorted(TABLE)))
    at = draw(st.integers(len("preview_"), len(name) - 1))
    letter = draw(st.sampled_from(string.ascii_lowercase))
    wrong = draw(
        st.sampled_from(
            [
                name[:at] + name[at + 1 :],
                name[:at] + name[at] + name[at:],
                name[:at] + name[at : at + 2][::-1] + name[at + 2 :],
                name[:at] + letter + name[at + 1 :],
                name[:at] + name[at:].upper(),
            ]
        )
    )
    return name, wrong


def likeness(one: str, other: str) -> float:
    cut = len("preview_")
    return difflib.SequenceMatcher(None, one[cut:].lower(), other[cut:]).ratio()


@settings(max_examples=300)
@given(misspelt(), st.text().map(lambda text: f"hunter2{text}"))
def test_the_nearest_setting_is_suggested(names: tuple[str, str], value: str) -> None:
    name, wrong = names
    if wrong in TABLE:
        return
    refused = str(refusal({wrong: value}))
    suggested = re.search(r"Did you mean (\w+)\?", refused)
    assert suggested and suggested.group(1) in TABLE
    assert max(likeness(wrong, suggested.group(1)), likeness(suggested.group(1), wrong)) >= min(
        likeness(wrong, name), likeness(name, wrong)
    )
    assert value not in refused


@settings(max_examples=300)
@given(
    st.sampled_from(SECRETS),
    st.sampled_from(
        [
            lambda s: s,
            lambda s: [s],
            lambda s: {"KEY": [s]},
            lambda s: {s: "x"},
            lambda s: {"KEY": s + "\0"},
            lambda s: [{"registry": "r.org", "username": "u", "password": [s]}],
            lambda s: [{"registry": "r.org", "username": "u", s: s}],
            lambda s: [{"registry": s + " ", "username": "u", "password": s}],
            lambda s: [{"registry": "r.org", "username": "u", "password_command": s}],
            lambda s: [
                {"registry": "r.org", "username": "u", "password": s, "password_command": [s]}
            ],
            lambda s: {"http": s},
        ]
    ),
)
def test_secrets_never_appear(name: str, shape: Any) -> None:
    secret = "Tr0ub4 dor&3"
    try:
        found = _settings.resolve({name: shape(secret), "preview_number": 0})
    except SettingsRefused as refused:
        assert secret not in str(refused)
        assert all(secret not in str(problem) for problem in refused.problems)
    else:
        raise AssertionError(f"preview_number 0 was taken: {found}")


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@example.org/shop", "https://hunter2@example.org/shop"]
)
def test_credentials_in_a_repository_are_refused_and_not_shown(url: str) -> None:
    refused = str(refusal({"preview_repository": url}))
    assert "preview_source_token" in refused and "hunter2" not in refused
    assert resolved("preview_repository", "ssh://git@example.org/shop")
    assert resolved("preview_repository", "git@example.org:acme/shop.git")


def test_a_short_secret_key_is_refused() -> None:
    assert "at least 32 bytes" in str(refusal({"preview_secret_key": "s3cret"}))
    assert "s3cret" not in str(refusal({"preview_secret_key": "s3cret"}))
    assert resolved("preview_secret_key", "ü" * 16)


def test_what_is_public_holds_no_secret() -> None:
    given = {"preview_secrets": {"A": "hunter2"}, "preview_secret_key": "k" * 32}
    found = _settings.resolve(given)
    shown = _settings.public(found)
    assert set(found) - set(shown) == set(SECRETS)
    assert "hunter2" not in repr(shown)
    assert {"preview_secret_key", "preview_source_token", "preview_registries"} <= set(SECRETS)


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(TABLE)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
)
def test_whatever_is_given_is_read_or_refused(name: str, value: Any) -> None:
    try:
        found = _settings.resolve({name: value})
    except SettingsRefused as refused:
        assert all(problem.name.startswith(name) for problem in refused.problems) or (
            name == "preview_gateway_tls" or name == "preview_sizes"
        )
    else:
        json.dumps(found)
        assert _settings.resolve(found) == found


@pytest.mark.parametrize("name", ["preview_apps", "preview_"])
def test_only_settings_may_begin_like_settings(name: str) -> None:
    assert "is no setting" in str(refusal({name: 1}))
