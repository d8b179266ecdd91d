"""The firewall's rules, as text. That they hold is tried in tests/integration/test_gateway.py."""

from __future__ import annotations

import ipaddress
import os
from types import SimpleNamespace

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _firewall
from ansible_collections.ephemera.preview.plugins.modules import firewall

EMPTY = "*filter\n:INPUT ACCEPT [0:0]\n:DOCKER-USER - [0:0]\nCOMMIT\n"


def rules(allow=(), dns=(), **others):
    return _firewall.rules({"shop": list(allow), **others}, list(dns))


def saved(family, *more):
    """What ``iptables-save`` prints once these are in force."""
    lines = ["-A FORWARD -j DOCKER-USER", *_firewall.wanted(family), *more]
    chains = {line.split()[1] for line in lines}
    return "\n".join(["*filter", *(f":{chain} - [0:0]" for chain in chains), *lines, "COMMIT"])


def of(chain, family):
    return [rule for rule in family if rule.startswith(f"-A {chain} ")]


@pytest.mark.parametrize(
    ("text", "network", "port"),
    [
        ("10.0.0.5", "10.0.0.5/32", None),
        ("10.0.0.0/24:5432", "10.0.0.0/24", 5432),
        ("fd00::1", "fd00::1/128", None),
        ("fd00::/8", "fd00::/8", None),
        ("[fd00::1]:443", "fd00::1/128", 443),
        ("[fd00::/64]:443", "fd00::/64", 443),
    ],
)
def test_an_exception_is_read(text, network, port):
    assert _firewall.allowed(text) == (ipaddress.ip_network(network), port)


@pytest.mark.parametrize(
    "text", ["db.example.org", "10.0.0.5/24", "10.0.0.5:0", "10.0.0.5:65536", "10.0.0.5:ssh", ""]
)
def test_what_is_no_exception_is_refused_with_the_forms_there_are(text):
    with pytest.raises(_firewall.FirewallRefused, match="10.0.0.0/24:5432"):
        _firewall.allowed(text)


def test_an_app_has_its_own_exceptions_before_all_is_closed():
    family = rules(["10.0.0.5:5432"], blog=["10.9.9.9"]).v4
    shop, blog = _firewall._chains("shop"), _firewall._chains("blog")
    excepted = ["-d 10.0.0.5/32 -p tcp -m tcp --dport 5432 -j RETURN",
                "-d 10.0.0.5/32 -p udp -m udp --dport 5432 -j RETURN"]  # fmt: skip
    for chain, closed in zip(shop, (_firewall.FORWARD_OUT, _firewall.HOST_IN), strict=True):
        assert of(chain, family) == [f"-A {chain} {r}" for r in [*excepted, f"-j {closed}"]]
    assert of(blog[0], family)[0] == f"-A {blog[0]} -d 10.9.9.9/32 -j RETURN"
    entry = f"-A {_firewall.FORWARD} -i {_firewall.interface('shop')} -j {shop[0]}"
    assert entry in family


def test_builds_that_nobody_can_tell_apart_reach_what_all_apps_allow():
    builds = _firewall._chains("")[0]

    def reached(**others):
        family = rules(["10.0.0.5", "10.0.0.6"], **others).v4
        return [r.split()[3] for r in of(builds, family) if "RETURN" in r]

    assert reached() == ["10.0.0.5/32", "10.0.0.6/32"]
    assert reached(blog=["10.0.0.6", "10.0.0.7"]) == ["10.0.0.6/32"]
    assert reached(blog=[]) == []


def test_an_interface_names_its_app_within_what_linux_takes():
    name = _firewall.interface("shop", "shop-pr-42_edge")
    assert len(name) == 15 and name.isalnum()
    assert name.startswith(_firewall.interface("shop").rstrip("+"))
    others = {_firewall.interface("shop", f"shop-pr-{n}_edge") for n in range(10_000)}
    assert len(others) == 10_000
    apps = {_firewall.interface(f"app{n}") for n in range(300)}
    assert len(apps) == 300
    assert not _firewall.GATEWAY.startswith(_firewall.BRIDGE)


def test_no_rule_accepts():
    for family in rules(allow=["0.0.0.0/0", "::/0"], dns=["10.0.0.2"]):
        assert not [rule for rule in family if "ACCEPT" in rule]


def test_an_exception_for_one_family_is_none_for_the_other():
    both = rules(allow=["fd00::5:0/112"])
    assert not [rule for rule in both.v4 if "fd00" in rule]
    assert len([rule for rule in both.v6 if "-d fd00::5:0/112 -j RETURN" in rule]) == 4


def test_name_servers_are_those_a_container_asks_itself():
    text = "# no\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\nnameserver\n"
    assert _firewall.resolvers(text) == ["10.0.0.2", "fe80::1"]


def test_restore_empties_no_chain_of_others():
    text = _firewall.restore(rules().v4, EMPTY)
    assert ":DOCKER-USER" not in text and ":INPUT" not in text
    assert "-I DOCKER-USER 1 -j EPHEMERA-PREVIEW\n" in text
    assert "-I INPUT 1 -j EPHEMERA-PREVIEW-HOST\n" in text


def test_restore_makes_the_engines_chain_only_where_there_is_none():
    without = EMPTY.replace(":DOCKER-USER - [0:0]\n", "")
    assert ":DOCKER-USER - [0:0]\n" in _firewall.restore(rules().v4, without)


def test_what_is_in_force_is_recognised_in_any_order_of_chains():
    family = rules().v4
    text = saved(sorted(family, key=lambda rule: rule.split()[1] != _firewall.HOST_IN))
    text = text.replace("COMMIT", "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT")
    assert _firewall.present(text) == _firewall.wanted(family)
    without = text.replace("-A INPUT -j EPHEMERA-PREVIEW-HOST\n", "")
    assert _firewall.present(without) != _firewall.wanted(family)
    assert "INPUT" not in _firewall.restore(family, text)


def test_an_app_sees_what_is_missing_of_its_own_and_no_more():
    text = saved(rules(["10.0.0.5"], ["10.0.0.2"], blog=["10.9.9.9"]).v4)
    assert _firewall.gaps(text, "shop", ["10.0.0.5"]) == []
    assert _firewall.gaps(text, "blog", ["10.9.9.9"]) == []
    chain = _firewall._chains("shop")[0]
    assert f"-A {chain} -d 10.0.0.5/32 -j RETURN" in _firewall.gaps(text, "shop", [])
    assert _firewall.gaps(text, "other", [])
    private = f"-A {_firewall.FORWARD_OUT} -d 10.0.0.0/8 -j REJECT"
    for rule in (
        "-A FORWARD -j DOCKER-USER",
        "-A DOCKER-USER -j EPHEMERA-PREVIEW",
        "-A INPUT -j EPHEMERA-PREVIEW-HOST",
        f"-A {chain} -d 10.0.0.5/32 -j RETURN",
        f"{private} --reject-with icmp-admin-prohibited",
    ):
        assert rule in text
        assert rule in _firewall.gaps(text.replace(rule + "\n", ""), "shop", ["10.0.0.5"])


def test_an_app_that_is_gone_leaves_no_chain():
    text = saved(rules(blog=["10.9.9.9"]).v4)
    lines = _firewall.restore(rules().v4, text).splitlines()
    for chain in _firewall._chains("blog"):
        assert lines.index(f":{chain} - [0:0]") < lines.index(f"-X {chain}")
    assert not [line for line in lines if "10.9.9.9" in line]


def test_removal_takes_what_is_ours_and_no_more():
    text = EMPTY.replace("COMMIT", "-A INPUT -j EPHEMERA-PREVIEW-HOST\nCOMMIT").replace(
        "COMMIT", "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT"
    )
    text = text.replace("*filter\n", "*filter\n:EPHEMERA-PREVIEW-HOST - [0:0]\n")
    assert _firewall.restore([], text).splitlines() == [
        "*filter",
        ":EPHEMERA-PREVIEW-HOST - [0:0]",
        "-D INPUT -j EPHEMERA-PREVIEW-HOST",
        "-X EPHEMERA-PREVIEW-HOST",
        "COMMIT",
    ]


class Failed(Exception):
    pass


def refusing(**answers):
    def fail_json(msg):
        raise Failed(msg)

    return SimpleNamespace(
        params={"folder": "/nowhere", "app": "shop", "allow": [], "builder": ""},
        fail_json=fail_json,
        **answers,
    )


def test_who_is_not_root_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    module = refusing()
    module.params["state"] = "present"
    with pytest.raises(Failed, match="needs root.*ansible_become.*preview_isolation to false"):
        firewall.Firewall(module).run()
    # Nothing of ours can be in force then, so there is nothing to remove.
    module.params["state"] = "absent"
    assert firewall.Firewall(module).run()["changed"] is False


def test_a_host_without_iptables_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    module = refusing(get_bin_path=lambda name: None)
    module.params["state"] = "present"
    with pytest.raises(Failed, match="iptables, which is not installed"):
        firewall.Firewall(module).run()


def test_where_the_builder_stands_elsewhere_nothing_takes_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = "Name: apart\nDriver: {0}\nEndpoint: tcp://b:1234\n"

    def module(driver):
        found = refusing(
            get_bin_path=lambda name: None if name == "iptables" else "/usr/bin/" + name,
            run_command=lambda argv: (0, said.format(driver), ""),
        )
        found.params.update(state="present", builder="apart")
        return firewall.Firewall(found)

    assert module("remote").run()["changed"] is False
    with pytest.raises(Failed, match="needs root"):
        module("docker-container").run()
