"""The wall's rules, as text. That they hold is tried in tests/integration/test_gateway.py."""

from __future__ import annotations

import ipaddress
import os
from types import SimpleNamespace

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _firewall
from ansible_collections.ephemera.preview.plugins.modules import firewall

GATEWAY = ("ephemera-gw", "10.213.0.0/26")
EMPTY = "*filter\n:INPUT ACCEPT [0:0]\n:DOCKER-USER - [0:0]\nCOMMIT\n"


def rules(**other):
    wanted = {
        "subnets": ["10.213.0.0/16"],
        "allow": [],
        "dns": [],
        "gateway": GATEWAY,
        "bridges": ["docker0"],
    }
    return _firewall.rules(**dict(wanted, **other))


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


def test_an_exception_comes_before_what_it_is_an_exception_of():
    out = [r for r in rules(allow=["10.0.0.5:5432"]).v4 if _firewall.FORWARD_OUT + " -d" in r]
    allowed = [i for i, rule in enumerate(out) if "10.0.0.5/32" in rule]
    closed = [i for i, rule in enumerate(out) if "-d 10.0.0.0/8" in rule]
    assert allowed == [0, 1]
    assert closed > allowed


def test_no_rule_accepts():
    for family in rules(allow=["0.0.0.0/0", "::/0"], dns=["10.0.0.2"]):
        assert not [rule for rule in family if "ACCEPT" in rule]


def test_an_exception_for_one_family_is_none_for_the_other():
    both = rules(allow=["fd00::5:0/112"])
    assert not [rule for rule in both.v4 if "fd00" in rule]
    assert len([rule for rule in both.v6 if "-d fd00::5:0/112 -j RETURN" in rule]) == 2


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
    wanted = rules().v4
    saved = EMPTY.replace(
        "COMMIT",
        "-A INPUT -j EPHEMERA-PREVIEW-HOST\n-A DOCKER-USER -j EPHEMERA-PREVIEW\n"
        + "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n"
        + "\n".join(sorted(wanted, key=lambda rule: rule.split()[1] != _firewall.HOST_IN))
        + "\nCOMMIT",
    )
    assert _firewall.present(saved) == _firewall.wanted(wanted)
    assert _firewall.present(saved.replace("-A INPUT -j EPHEMERA-PREVIEW-HOST\n", "")) != (
        _firewall.wanted(wanted)
    )
    assert "INPUT" not in _firewall.restore(wanted, saved)


def test_removal_takes_what_is_ours_and_no_more():
    saved = EMPTY.replace("COMMIT", "-A INPUT -j EPHEMERA-PREVIEW-HOST\nCOMMIT").replace(
        "COMMIT", "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT"
    )
    saved = saved.replace("*filter\n", "*filter\n:EPHEMERA-PREVIEW-HOST - [0:0]\n")
    lines = _firewall.removal(saved).splitlines()
    assert lines == [
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

    return SimpleNamespace(params={"path": "/nowhere/firewall.sh"}, fail_json=fail_json, **answers)


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
