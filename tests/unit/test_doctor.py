"""What the doctor makes of facts. That it gathers true ones: tests/integration/test_doctor.py."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _apply,
    _diagnose,
    _docker,
    _doctor,
    _doctor_facts,
    _firewall,
    _lease,
    _settings,
)
from ansible_collections.ephemera.preview.plugins.module_utils._doctor_facts import (
    Certificate,
    Cluster,
    Collection,
    Disk,
    Endpoint,
    Facts,
    Gateway,
    Login,
    Machine,
    Name,
    Network,
    Python,
    State,
)
from ansible_collections.ephemera.preview.plugins.modules import build, source

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_800_000_000
KEY = "0f5c1d4f2f1e6f37a3ac3e6f7a0f6b1d"
GIB = 1 << 30
PLUGINS = [
    {"Name": "compose", "Version": "v2.40.3", "Path": "/usr/libexec/docker-compose"},
    {"Name": "buildx", "Version": "0.29.1", "Path": "/usr/libexec/docker-buildx"},
]
RULES = ["-A FORWARD -j DOCKER-USER", *_firewall.wanted(_firewall.rules({"shop": []}, []).v4)]


def firewall(lines):
    return _docker.Firewall({4: lines})


def settings(**given):
    wanted = {
        "preview_repository": "https://github.com/acme/shop.git",
        "preview_domain": "preview.example.org",
        "preview_host_ip": "203.0.113.7",
        "preview_secret_key": KEY,
        "preview_ca_file": "/etc/ssl/company.pem",
        "preview_gateway_tls": "given",
        "preview_gateway_certificate": "/etc/ssl/preview.pem",
        "preview_gateway_certificate_key": "/etc/ssl/preview.key",
    }
    return _settings.resolve(dict(wanted, **{f"preview_{k}": v for k, v in given.items()}))


def machine(**other):
    known = {
        "user": "deploy",
        "root": True,
        "commands": {*_doctor.COMMANDS, "docker", "git", "iptables", "openssl"},
        "info": {
            "ServerVersion": "28.5.2",
            "MemoryLimit": True,
            "CpuCfsQuota": True,
            "PidsLimit": True,
            "Plugins": {"Log": ["json-file", "journald"]},
            "FirewallBackend": {"Driver": "iptables"},
            "ClientInfo": {"Plugins": PLUGINS},
        },
        "networks": [
            Network("bridge", "", ("172.17.0.0/16",)),
            Network("ephemera-preview-gateway", "", ("10.213.0.0/26",)),
            Network("shop-pr-1_edge", "shop-pr-1", ("10.213.9.0/26",)),
        ],
        "gateway": Gateway(True, "running", "healthy", ("shop-pr-1_edge",), (80, 443, 8082)),
        "routes": [("eth0", "203.0.113.0/24"), ("br-1", "10.213.9.0/26")],
        "listeners": [("any", 22), ("any", 80), ("any", 443), ("loopback", 8082)],
        "disks": {
            "state": Disk(50 * GIB, "/", "ext2/ext3"),
            "docker": Disk(50 * GIB, "/", "ext2/ext3"),
        },
        "memory": {"total": 16 * GIB, "available": 12 * GIB},
        "state": State("/var/lib/ephemera-preview", True, True, "700"),
        "firewall": _docker.Firewall({4: RULES}),
        "addresses": ["203.0.113.7"],
        "now": NOW,
    }
    return Machine(**dict(known, **other))


def info(**other):
    return dict(machine().info, **other)


def client(*plugins):
    return info(ClientInfo={"Plugins": list(plugins)})


PYTHON = Python(
    executable="/usr/bin/python3",
    version="3.11.2",
    git="2.39.5",
    compose=("/usr/libexec/docker-compose", "2.40.3"),
    repository="",
)
GIVEN = Certificate(
    "/etc/ssl/preview.pem", not_after=NOW + 90 * 86400, names=("*.preview.example.org",)
)
HERE = "shop-pr-123456789.preview.example.org"


def facts(**other):
    known = {
        "app": "shop",
        "where": "203.0.113.7",
        "settings": settings(),
        "core": "2.21.5",
        "collections": [Collection("community.docker", ">=4.3.0,<6.0.0", "5.4.0", True)],
        "machine": machine(),
        "python": PYTHON,
        "clock": NOW + 1.5,
        "name": Name(HERE, "preview.example.org", ("203.0.113.7",), ""),
        "endpoint": Endpoint(f"https://{HERE}/", 443, 404, True, ""),
        "certificates": [GIVEN],
        "logins": [Login("registry.example.org", "preview", "")],
    }
    return Facts(**dict(known, **other))


EVERYWHERE = (_doctor.CONTROLLER, _doctor.HOST, _doctor.BUILDER, _doctor.CLUSTER)
CLUSTER = Cluster(
    server="https://10.0.0.1:6443",
    version="v1.34.4",
    ingress=("traefik", "traefik.io/ingress-controller"),
    classes=("fast", "slow"),
    default="slow",
    metrics=True,
    enforced=True,
)


def in_cluster(given=None, **other):
    """Facts of a cluster, of which some are others."""
    return facts(cluster=CLUSTER._replace(**other), settings=settings(**(given or {})))


def alone(**given):
    """Facts of a machine whose gateway is not there, with other settings."""
    return facts(settings=settings(**given), machine=machine(gateway=None))


def other_machine(**other):
    return facts(machine=machine(**other))


APART = {"buildx_builder": "apart"}
INSPECTED = "Name:  apart|Driver: remote||Nodes:|Name: apart0|Endpoint: tcp://b:1234|Status: {}|"


CONTAINER = "Name: apart|Driver: docker-container||Nodes:|Name: apart0{}|Status: inactive|"


def runner(given=None, python=PYTHON, **other):
    """Facts of a machine without an engine that brings up previews in a cluster."""
    lonely = {"info": client(PLUGINS[1]) | {"ServerVersion": ""}, "builder": None}
    registry = {"registry": "r.example.org", "username": "me", "password": "secret"}
    cluster = {"target": "kubernetes", "registry": "r.example.org", "registries": [registry]}
    return facts(
        settings=settings(**{**cluster, **(given or {})}),
        machine=machine(**{**lonely, **other}),
        python=python,
    )


# The trouble, facts that show it, and what its line must say of them.
TROUBLES = [
    ("settings.refused", facts(refused=["preview_traget is no setting."]), "preview_traget"),
    ("settings.unreadable", facts(unreadable={"preview_secrets": "'x' is undefined"}), "'x'"),
    ("secrets.weak", facts(settings=settings(secret_key="ab" * 16)), "2 different characters"),
    ("ansible.old", facts(core="2.18.9"), "2.18.9 runs this, and 2.19"),
    (
        "ansible.collection",
        facts(collections=[Collection("community.docker", ">=4.3.0,<6.0.0", "", False)]),
        "install 'community.docker:>=4.3.0,<6.0.0'",
    ),
    (
        "ansible.collection",
        facts(collections=[Collection("community.docker", ">=4.3.0,<6.0.0", "3.0.0", False)]),
        "and 3.0.0 is there",
    ),
    (
        "ansible.spare",
        facts(collections=[Collection("kubernetes.core", ">=5.1.0", "", False)]),
        "kubernetes.core",
    ),
    ("connection.failed", facts(unreachable="Connection refused", machine=None), "refused."),
    ("connection.shell", facts(shell="sh: not found", machine=None), "sh: not found"),
    ("engine.absent", other_machine(commands=set(), info={}), "Docker Engine 25.0 or newer"),
    (
        "engine.denied",
        other_machine(info=client(*PLUGINS) | {"ServerVersion": ""}, said="permission denied …"),
        "usermod -aG docker deploy",
    ),
    (
        "engine.silent",
        other_machine(info={}, said="Cannot connect to the Docker daemon."),
        "Cannot connect to the Docker daemon.",
    ),
    ("engine.silent", other_machine(info={}, said=""), "no answer within 20 s"),
    (
        "engine.spare",
        runner({"images": {"web": "r.example.org/shop:{commit}"}}, info={}),
        "no image can be built there",
    ),
    ("engine.old", other_machine(info=info(ServerVersion="24.0.9")), "start_interval"),
    ("engine.limits", other_machine(info=info(MemoryLimit=False, PidsLimit=False)), "memory and"),
    ("engine.log", facts(settings=settings(log_driver="fluentd")), "one of json-file, journald"),
    ("compose.absent", other_machine(info=client(PLUGINS[1])), "docker-compose-plugin"),
    (
        "compose.old",
        facts(
            machine=machine(info=client(dict(PLUGINS[0], Version="2.29.7"), PLUGINS[1])),
            python=None,
        ),
        "2.29.7 (/usr/libexec/docker-compose)",
    ),
    (
        "compose.old",
        facts(python=PYTHON._replace(compose=("/usr/bin/docker-compose", "1.29.2"))),
        "1.29.2 (/usr/bin/docker-compose)",
    ),
    ("compose.absent", runner(python=PYTHON._replace(compose=("", ""))), "has no Compose"),
    ("buildx.absent", other_machine(info=client(PLUGINS[0])), "docker-buildx"),
    ("buildx.absent", runner(APART, info={}), "docker-buildx"),
    (
        "buildx.unknown",
        runner(APART, builder='ERROR: no builder "apart" found|'),
        "docker buildx create --name apart",
    ),
    (
        "buildx.silent",
        runner(APART, builder=INSPECTED.format("inactive")),
        "does not answer 203.0.113.7: it is inactive.",
    ),
    (
        "buildx.silent",
        runner(APART, builder="Name:  apart|Driver: kubernetes||Nodes:|Error: no such pod|"),
        "no such pod.",
    ),
    ("buildx.silent", runner(APART, builder=""), "no answer within 20 s."),
    ("python.absent", facts(python=Python(said="python3: not found")), "python3: not found"),
    (
        "python.libraries",
        facts(python=PYTHON._replace(missing={"yaml": "…", "jsonschema": "…"})),
        "apt-get install python3-jsonschema python3-yaml",
    ),
    (
        "commands.absent",
        other_machine(commands=machine().commands - {"flock", "sha256sum"}),
        "apt-get install coreutils util-linux",
    ),
    (
        "commands.absent",
        facts(
            settings=settings(gateway_tls="selfsigned"),
            machine=machine(commands=machine().commands - {"openssl"}),
        ),
        "lacks the commands openssl",
    ),
    ("git.absent", other_machine(commands=machine().commands - {"git"}), "apt-get install git"),
    ("git.old", facts(python=PYTHON._replace(git="2.20.1")), "GIT_CONFIG_GLOBAL"),
    ("state.blocked", other_machine(state=State("/var/lib", False, True, "644")), "no folder"),
    (
        "state.unwritable",
        other_machine(state=State("/var/lib", True, False, "755")),
        "install -d -m 0700 -o deploy /var/lib/ephemera-preview",
    ),
    (
        "state.unwritable",
        other_machine(
            state=State("/proc", True, True, "555"), disks={"state": Disk(0, "/proc", "proc")}
        ),
        "may not write in /proc",
    ),
    (
        "state.open",
        other_machine(state=State("/var/lib/ephemera-preview", True, True, "755")),
        "chmod 0700",
    ),
    ("state.fleeting", other_machine(disks={"state": Disk(GIB * 9, "/run", "tmpfs")}), "tmpfs"),
    ("disk.full", other_machine(disks={"docker": Disk(GIB, "/data", "xfs")}), "1.0 GiB are free"),
    (
        "disk.full",
        other_machine(disks={"state": Disk(GIB, "/", ""), "docker": Disk(GIB * 50, "/d", "")}),
        "for previews' state",
    ),
    ("disk.low", other_machine(disks={"docker": Disk(GIB * 5, "/data", "xfs")}), "/data"),
    ("memory.full", other_machine(memory={"total": GIB, "available": GIB >> 4}), "64 MiB of 1.0"),
    ("memory.low", other_machine(memory={"total": GIB * 2, "available": GIB}), "may take 2.0 GiB"),
    (
        "subnets.used",
        facts(
            settings=settings(docker_subnets=["10.9.0.0/25"]),
            machine=machine(networks=[Network("office", "", ("10.9.0.0/24",))]),
        ),
        "0 of 2 subnets left on 203.0.113.7, and 3 are needed: two for a preview, one for the "
        "gateway. Taken by: office",
    ),
    (
        "subnets.few",
        facts(settings=settings(docker_subnets=["10.9.0.0/22"])),
        "16 of 16 subnets left on 203.0.113.7, enough for 8 more previews",
    ),
    (
        "subnets.gateway",
        other_machine(gateway=None, networks=[Network("x_default", "", ("10.213.0.0/20",))]),
        "docker network rm x_default",
    ),
    (
        "subnets.foreign",
        other_machine(networks=[Network("x_default", "", ("10.213.64.0/20",))]),
        "x_default",
    ),
    ("subnets.route", other_machine(routes=[("tun0", "10.213.4.0/24")]), "through tun0"),
    ("subnets.route", other_machine(routes=[("tun0", "10.213.0.0/16")]), "10.213.0.0/16"),
    ("subnets.shadow", other_machine(routes=[("tun0", "10.0.0.0/8")]), "10.0.0.0/8"),
    ("gateway.absent", alone(), "ansible-playbook ephemera.preview.gateway -l shop"),
    ("gateway.stopped", other_machine(gateway=Gateway(True, "exited", "")), "is exited"),
    (
        "gateway.unhealthy",
        other_machine(gateway=Gateway(True, "running", "unhealthy")),
        "docker logs ephemera-preview-gateway",
    ),
    ("gateway.foreign", other_machine(gateway=Gateway(False, "running", "")), "docker rename"),
    (
        "gateway.ports",
        facts(settings=settings(gateway_https_port=8443)),
        "does not listen on 0.0.0.0:8443, as preview_gateway_https_port wants",
    ),
    (
        "gateway.detached",
        other_machine(gateway=machine().gateway._replace(networks=("bridge",))),
        "shop-pr-1_edge",
    ),
    (
        "ports.taken",
        facts(machine=machine(gateway=None, holders={80: "nginx (process 812)"})),
        "is taken by nginx (process 812)",
    ),
    ("firewall.gaps", other_machine(firewall=firewall([])), "preview_isolation is on"),
    ("firewall.gaps", other_machine(firewall=firewall(RULES[1:])), RULES[0]),
    (
        "firewall.gaps",
        facts(settings=settings(egress_allow=["10.1.2.3:443"])),
        "4 differences, the first `-A EPHEMERA-",
    ),
    ("firewall.gaps", runner(info=info(), firewall=firewall([])), "and builds of shop"),
    (
        "firewall.gaps",
        runner(APART, builder=CONTAINER.format(""), firewall=firewall([])),
        "and builds of shop",
    ),
    ("firewall.builder", runner(APART, builder=INSPECTED.format("running")), "builds by apart"),
    (
        "firewall.builder",
        runner(APART, builder=CONTAINER.format('|Driver Options: network="host"')),
        "builds by apart",
    ),
    (
        "firewall.builder",
        facts(settings=settings(**APART), machine=machine(builder=INSPECTED.format("running"))),
        "not trusted are refused",
    ),
    ("firewall.iptables", other_machine(firewall=_docker.Firewall(said="")), "install iptab"),
    (
        "firewall.nftables",
        other_machine(info=info(FirewallBackend={"Driver": "nftables"})),
        "daemon.json",
    ),
    (
        "firewall.unseen",
        other_machine(firewall=_docker.Firewall(said="Permission denied")),
        "needs root on 203.0.113.7, which Ansible has not got there: Permission denied.",
    ),
    ("clock.skew", other_machine(now=NOW + 90), "88 s ahead of"),
    ("clock.skew", other_machine(now=NOW - 90), "92 s behind"),
    (
        "dns.unresolved",
        facts(
            endpoint=None, name=Name(HERE, "preview.example.org", (), "Name or service not known")
        ),
        "`*.preview.example.org` with the address of 203.0.113.7",
    ),
    (
        "dns.sslip",
        facts(
            endpoint=None, name=Name("x.10-0-0-5.sslip.io", "10-0-0-5.sslip.io", (), "no answer")
        ),
        "rebind",
    ),
    (
        "dns.localhost",
        facts(endpoint=None, name=Name("x.localhost", "localhost", ("127.0.0.1",), "")),
        "preview_host_ip",
    ),
    (
        "dns.elsewhere",
        facts(endpoint=None, name=Name(HERE, "preview.example.org", ("198.51.100.1",), "")),
        "leads to 198.51.100.1",
    ),
    (
        "endpoint.closed",
        facts(endpoint=Endpoint(f"https://{HERE}/", 443, 0, False, "timed out")),
        "timed out. Open port 443",
    ),
    (
        "endpoint.stranger",
        facts(endpoint=Endpoint(f"https://{HERE}/", 443, 200, False, "")),
        "answered (200)",
    ),
    (
        "certificate.unusable",
        facts(certificates=[Certificate("/etc/x.pem", said="key values mismatch")]),
        "key values mismatch",
    ),
    (
        "certificate.expired",
        facts(certificates=[GIVEN._replace(not_after=NOW - 86400)]),
        "expired on 2027-01-14",
    ),
    (
        "certificate.expiring",
        facts(certificates=[GIVEN._replace(not_after=NOW + 3 * 86400 + 60)]),
        "on 2027-01-18, in 3 days",
    ),
    (
        "certificate.names",
        facts(certificates=[GIVEN._replace(names=("preview.example.org",))]),
        "need *.preview.example.org",
    ),
    (
        "certificate.untrusted",
        facts(certificates=[GIVEN._replace(untrusted="unable to get local issuer certificate")]),
        "issuer",
    ),
    ("certificate.pending", facts(certificates=[GIVEN._replace(default=True)]), "grep -i acme"),
    ("ca.unreadable", facts(ca="No such file or directory"), "/etc/ssl/company.pem"),
    (
        "registry.refused",
        facts(logins=[Login("r.example.org", "me", "failed with status: 401 Unauthorized")]),
        "of r.example.org in preview_registries",
    ),
    (
        "registry.password",
        facts(logins=[Login("r.example.org", "me", "aws ended with code 253.", password=False)]),
        "aws ended with code 253.",
    ),
    (
        "registry.untrusted",
        facts(logins=[Login("r.example.org", "me", "x509: unknown authority")]),
        "certs.d/r.example.org",
    ),
    (
        "registry.unreachable",
        facts(logins=[Login("r.example.org", "me", "dial tcp: no such host")]),
        "no such host.",
    ),
    (
        "cluster.library",
        in_cluster(said="The Python library kubernetes is missing.", library=False),
        "python3-kubernetes",
    ),
    (
        "cluster.silent",
        in_cluster(said="The API server at https://10.0.0.1 does not answer: refused"),
        "does not answer: refused. Make `kubectl",
    ),
    ("cluster.old", in_cluster(version="v1.29.6"), "v1.29.6 at https://10.0.0.1:6443 is too old"),
    (
        "rights.missing",
        in_cluster(missing=["create jobs.batch", "get pods/log"]),
        "may not: create jobs.batch, get pods/log. Grant",
    ),
    ("ingress.unserved", in_cluster(ingress_said="There is no class nginx."), "no class nginx."),
    ("storage.unknown", in_cluster({"storage_class": "best"}), "is best, and"),
    ("storage.default", in_cluster(default=""), "there are: fast, slow"),
    ("metrics.absent", in_cluster(metrics=False), "metrics-server"),
    ("policies.open", in_cluster(enforced=False), "preview_trusted: false"),
    ("policies.unknown", in_cluster(enforced=None, policies_said="No image."), "No image. Until"),
    (
        "policies.untried",
        in_cluster(enforced=None, missing=["create jobs.batch"]),
        "takes the missing rights",
    ),
    ("repository.unset", facts(settings=settings(repository="")), "of shop's repository"),
    ("repository.refused", facts(python=PYTHON._replace(repository="It is empty.")), "is empty."),
]


def test_a_healthy_machine_has_one_good_line_for_each_check():
    found = _doctor.examine(facts())
    assert [f for f in found if f.level != _doctor.OK or f.fix] == []
    # The gateway holds its ports, so that nobody looks whether they are free.
    wanted = [c for c in _doctor.CHECKS if _doctor.CLUSTER not in c.places]
    assert [f.id for f in found] == [c.id for c in wanted if c.id != "ports"]


def test_a_healthy_cluster_has_one_good_line_for_each_check():
    found = _doctor.examine(in_cluster(), [_doctor.CLUSTER])
    assert {f.level for f in found} == {_doctor.OK}
    assert [f.id for f in found] == [c.id for c in _doctor.CHECKS if _doctor.CLUSTER in c.places]


def test_what_an_account_may_not_ask_is_not_guessed_at():
    bare = {"ingress": (), "classes": None, "default": "", "enforced": None}
    found = _doctor.examine(in_cluster(missing=["list namespaces"], **bare), [_doctor.CLUSTER])
    troubles = [f.id for f in found if f.level != _doctor.OK]
    assert troubles == ["rights.missing", "policies.untried"]


def test_a_cluster_that_does_not_answer_is_told_of_once():
    for silent in (in_cluster(said="No."), in_cluster(said="No.", library=False)):
        assert len(_doctor.examine(silent, [_doctor.CLUSTER])) == 1


@pytest.mark.parametrize(
    ("trouble", "known", "said"), TROUBLES, ids=[f"{t[0]}-{i}" for i, t in enumerate(TROUBLES)]
)
def test_a_trouble_is_told_with_its_fix(trouble, known, said):
    found = [finding for finding in _doctor.examine(known, EVERYWHERE) if finding.id == trouble]
    assert {finding.level for finding in found} == {_doctor.TROUBLES[trouble].level}
    assert any(said in f"{finding.sentence} {finding.fix}" for finding in found)
    for text in (text for finding in found for text in (finding.sentence, finding.fix)):
        assert text.endswith((".", "!", "?", ")"))
        assert "\n" not in text
        assert not re.search(r"\{\w*\}", text)
        assert ".." not in text


def test_every_trouble_can_be_met():
    assert {trouble for trouble, _known, _said in TROUBLES} == set(_doctor.TROUBLES)


def test_a_trouble_belongs_to_a_check():
    assert {t.split(".")[0] for t in _doctor.TROUBLES} <= {check.id for check in _doctor.CHECKS}
    assert set(_doctor.ESSENTIAL) <= {check.id for check in _doctor.CHECKS}


@pytest.mark.parametrize(
    ("known", "gone"),
    [
        # A healthy gateway's own ports are not taken by another.
        (facts(), "ports.taken"),
        # Who holds a port that only the engine could have told of is not guessed at.
        (other_machine(info={}, holders={80: "docker-proxy (process 9)"}), "ports.taken"),
        # Loopback and another address do not clash.
        (
            facts(
                settings=settings(gateway_address="203.0.113.7"),
                machine=machine(gateway=None, listeners=[("loopback", 80)]),
            ),
            "ports.taken",
        ),
        # A load balancer's address is not the host's, and all the same leads to the gateway.
        (facts(name=Name(HERE, "preview.example.org", ("198.51.100.1",), "")), "dns.elsewhere"),
        (
            facts(
                local=True, name=Name("x.localhost", "localhost", ("127.0.0.1",), ""), endpoint=None
            ),
            "dns.localhost",
        ),
        (
            facts(settings=settings(isolation=False), machine=machine(firewall=firewall([]))),
            "firewall.gaps",
        ),
        (other_machine(state=State("/var/lib", True, True, "755")), "state.open"),
        (
            facts(
                settings=runner().settings,
                collections=[Collection("kubernetes.core", ">=5.1.0", "", False)],
            ),
            "ansible.collection",
        ),
        (runner(APART, builder=CONTAINER.format("")), "firewall.builder"),
        (
            runner(APART | {"isolation": False}, builder=INSPECTED.format("running")),
            "firewall.builder",
        ),
        (
            runner(APART | {"buildx_isolated": True}, builder=INSPECTED.format("running")),
            "firewall.builder",
        ),
        (
            runner(
                APART,
                builder=INSPECTED.format("running"),
                info=info(FirewallBackend={"Driver": "nftables"}),
            ),
            "firewall.nftables",
        ),
    ],
)
def test_no_false_alarm(known, gone):
    assert gone not in {finding.id for finding in _doctor.examine(known)}


def test_where_nothing_is_known_nothing_is_claimed():
    found = _doctor.examine(Facts("shop", "203.0.113.7", settings(), unreachable="timed out"))
    claimed = {f.id for f in found if f.level == _doctor.PROBLEM}
    assert claimed == {"connection.failed", "ansible.old"}


def test_a_place_has_its_own_checks():
    builder = {finding.id for finding in _doctor.examine(facts(), [_doctor.BUILDER])}
    assert {"engine", "buildx", "git", "repository", "registry"} <= builder
    assert not {"gateway", "dns", "settings", "memory"} & builder


def test_a_runner_without_an_engine_is_healthy():
    """It reads definitions by its own Compose, and a builder elsewhere builds."""
    for builder in (INSPECTED.format("running"), CONTAINER.format("")):
        found = _doctor.examine(runner(APART, builder=builder), [_doctor.BUILDER])
        assert _doctor.problems(found) == []
        # What a builder elsewhere reaches nobody can tell from here.
        unseen = {finding.id for finding in found if finding.level != _doctor.OK}
        assert unseen == ({"firewall.builder"} if "remote" in builder else set())
        assert {"compose", "buildx", "git", "state"} <= {finding.id for finding in found}
        assert "engine" not in {finding.id for finding in found}


def test_what_a_run_looks_for_is_what_no_stage_can_begin_without():
    broken = facts(
        machine=machine(commands={"docker"}, info={}, said="permission denied"), name=None
    )
    assert {f.id for f in _doctor.essentials(broken)} == {"engine.denied", "commands.absent"}
    assert _doctor.essentials(facts()) == []
    # Images are built elsewhere.
    broken = other_machine(info=client(PLUGINS[0]))
    assert [f.id for f in _doctor.essentials(broken)] == ["buildx.absent"]
    assert _doctor.essentials(broken, builds=False) == []


@pytest.mark.parametrize(
    ("gateway", "trouble"),
    [
        (None, ["gateway.absent"]),
        ({"state": "exited", "health": ""}, ["gateway.stopped"]),
        ({"state": "running", "health": "unhealthy"}, ["gateway.unhealthy"]),
        ({"state": "running", "health": "starting"}, []),
        ({"state": "running", "health": "healthy"}, []),
    ],
)
def test_an_observation_shows_the_gateway(gateway, trouble):
    seen = {"gateway": gateway, "firewall": firewall(RULES)}
    found = _doctor.glance(seen, "shop", "203.0.113.7", settings())
    assert [finding.id for finding in found] == trouble
    known = {f.id: f for f in _doctor.examine(alone())}
    if gateway is None:
        assert found == [known["gateway.absent"]]


def test_an_observation_shows_the_firewall():
    gateway = {"state": "running", "health": "healthy"}

    def found(firewall, **given):
        seen = {"gateway": gateway, "firewall": firewall}
        return [f.id for f in _doctor.glance(seen, "shop", "203.0.113.7", settings(**given))]

    assert found(firewall(RULES)) == []
    assert found(firewall(RULES), egress_allow=["10.1.2.3"]) == ["firewall.gaps"]
    assert found(_docker.Firewall()) == ["firewall.unseen"]
    assert found(_docker.Firewall(), isolation=False) == []


def test_all_problems_come_in_one_message():
    found = _doctor.problems(_doctor.examine(other_machine(commands=set(), info={})))
    text = _doctor.refusal("shop", found)
    assert text.startswith(f"{len(found)} things stop previews of shop:\n- ")
    for finding in found:
        assert f"- {finding.sentence} {finding.fix}" in text
    assert _doctor.refusal("shop", found[:1]) == f"{found[0].sentence} {found[0].fix}"


def test_the_table_shows_a_mark_a_line_and_the_fix_below():
    found = _doctor.examine(facts(core="2.18", collections=[]), only=("ansible", "engine"))
    assert _doctor.table("shop", found) == [
        "shop",
        "  ✗ ansible-core 2.18 runs this, and 2.19 or newer is needed.",
        "    → Run `pip install 'ansible-core>=2.19'` on the controller.",
        "  ✓ Docker Engine 28.5.2 answers on 203.0.113.7.",
    ]
    assert _doctor.summary(found) == "1 problem, no warnings"


def test_what_others_said_reaches_no_terminal_as_it_is():
    hostile = "\x1b[31mred\x1b[0m\n::error::no\x07"
    (finding,) = _doctor.examine(facts(unreachable=hostile), only=["connection"])
    assert not re.search(r"[\x00-\x1f]|^::", finding.sentence)


# -- gathering ------------------------------------------------------------------------------------


def test_the_script_says_what_a_machine_without_docker_has(tmp_path):
    argv = _doctor_facts.script(settings(state_dir=str(tmp_path / "a" / "b")))
    ran = subprocess.run(
        argv, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=True
    )
    seen = _doctor_facts.parse(ran.stdout)
    assert seen.user
    assert seen.now > NOW - 10**9
    assert set(_doctor_facts.COMMANDS) <= seen.commands
    assert seen.state == State(str(tmp_path), True, True, seen.state.mode)
    assert seen.disks["state"].free > 0
    assert 0 < seen.memory["available"] <= seen.memory["total"]


def test_what_the_engine_prints_is_read():
    state = json.dumps({"Status": "running", "Health": {"Status": "healthy"}})
    bindings = json.dumps({"8080/tcp": [{"HostIp": "", "HostPort": "80"}], "9/tcp": None})
    seen = _doctor_facts.parse(
        "\n".join(
            [
                "user\tdeploy\t1000",
                'info\t{"ServerVersion": "28.5.2"}',
                "WARNING: something",
                "network\tshop-pr-1_edge\tshop-pr-1\t10.213.9.0/26 fd00::/64 ",
                f'gateway\tyes\t{state}\t{{"b": {{}}, "a": {{}}}}\t{bindings}',
                "",
            ]
        )
    )
    assert (seen.user, seen.root, seen.answers) == ("deploy", False, True)
    assert seen.said == "WARNING: something"
    assert seen.networks == [Network("shop-pr-1_edge", "shop-pr-1", ("10.213.9.0/26", "fd00::/64"))]
    assert seen.gateway == Gateway(True, "running", "healthy", ("a", "b"), (80,))


@pytest.mark.parametrize(
    ("line", "attribute", "value"),
    [
        ("route\teth0\t00000000\t00000000", "routes", []),
        ("route\tIface\tDestination\tMask", "routes", []),
        ("route\ttun0\t0004D50A\t00FFFFFF", "routes", [("tun0", "10.213.4.0/24")]),
        ("listen\t0100007F:1F90", "listeners", [("loopback", 8080)]),
        ("listen\t00000000:0050", "listeners", [("any", 80)]),
        ("listen\t00000000000000000000000000000000:0050", "listeners", [("any", 80)]),
        ("listen\t0500000A:0050", "listeners", [("other", 80)]),
        (
            'holder\t80\tLISTEN 0 511 *:80 *:* users:(("nginx",pid=812,fd=6))',
            "holders",
            {80: "nginx (process 812)"},
        ),
        ("address\t203.0.113.7 fd00::1 ", "addresses", ["203.0.113.7", "fd00::1"]),
        ("address\t2: eth0    inet 10.0.0.5/24 brd 10.0.0.255", "addresses", ["10.0.0.5"]),
        ("nofirewall\tPermission denied", "firewall", _docker.Firewall(said="Permission denied")),
        ("firewall\t4\t-A X -j Y", "firewall", _docker.Firewall({4: ["-A X -j Y"]})),
    ],
)
def test_a_line_of_the_kernel_is_read(line, attribute, value):
    assert getattr(_doctor_facts.parse(line), attribute) == value


def test_free_subnets_are_counted_where_networks_are_larger_or_smaller():
    import ipaddress

    pools = [ipaddress.IPv4Network(t) for t in ("10.213.0.0/24", "10.214.0.0/25")]
    taken = [ipaddress.IPv4Network(t) for t in ("10.213.0.128/25", "10.213.0.64/28", "10.0.0.0/9")]
    assert _doctor._free([], pools) == (6, 6)
    assert _doctor._free(taken[:2], pools) == (3, 6)
    assert _doctor._free([*taken, ipaddress.IPv4Network("10.214.0.0/16")], pools) == (1, 6)


# -- held against what it speaks of ---------------------------------------------------------------


def test_libraries_are_those_that_modules_import():
    known = set(sys.stdlib_module_names) | {"ansible", "ansible_collections", "__future__"}
    imported = set()
    for file in (ROOT / "plugins").glob("module*/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    assert imported - known == {*_doctor.LIBRARIES, *_doctor.CLUSTER_LIBRARIES}


def test_no_module_of_community_docker_that_needs_more_is_used():
    from ansible.utils.collection_loader._collection_finder import _get_collection_path

    try:
        folder = Path(_get_collection_path("community.docker")) / "plugins" / "modules"
    except ValueError:
        pytest.skip("the environment of the oldest ansible-core has no collections")
    tasks = "\n".join(file.read_text() for file in (ROOT / "roles").glob("*/tasks/*.yml"))
    used = set(re.findall(r"community\.docker\.(\w+):", tasks))
    assert used
    for name in used:
        # Those that talk to the engine by themselves need requests; those by its client do not.
        assert "common_cli" in (folder / f"{name}.py").read_text(), name


def test_commands_are_those_that_stages_run():
    looked_for = (
        "awk cat cmp cut date find flock grep head mktemp sed sha256sum sort stat tail timeout tr "
        "xargs"
    )
    scripts = _docker._SCRIPT + _lease._SCRIPT + _diagnose.LOOK + _diagnose.TOLD
    scripts += _diagnose.ONE_OFF + _apply.SCRIPT + _doctor_facts.SCRIPT
    scripts += (ROOT / "plugins/action/hook.py").read_text()
    scripts = re.sub(r"(?m)^\s*#.*$", "", scripts)
    words = set(re.findall(r"(?<![\w./$-])[a-z][a-z0-9]*(?![\w.=:-])", scripts))
    assert set(looked_for.split()) & words == set(_doctor_facts.COMMANDS)
    assert {"flock", "timeout", "sha256sum", "mktemp"} <= words


def test_minimums_are_those_of_the_collection():
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
    assert runtime["requires_ansible"] == ">={}.{}.0".format(*_doctor.CORE_MINIMUM)
    engine = (ROOT / "tests/testbed/engine").read_text()
    assert "ENGINE_MINIMUM={}.{}".format(*_doctor.ENGINE_MINIMUM) in engine
    assert "COMPOSE_MINIMUM={}.{}".format(*_doctor.COMPOSE_MINIMUM) in engine
    assert "Needs C(git) {}.{} or newer".format(*_doctor.GIT_MINIMUM) in source.DOCUMENTATION
    assert f"Docker Engine {_doctor.ENGINE_MINIMUM[0]}, with buildx" in build.DOCUMENTATION
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert (
        "Docker Engine {} or newer with Compose {}.{} and".format(
            _doctor.ENGINE_MINIMUM[0], *_doctor.COMPOSE_MINIMUM
        )
        in readme
    )
    assert "git {}.{},".format(*_doctor.GIT_MINIMUM) in readme


def test_the_gateway_is_known_by_its_own_page():
    page = (ROOT / "roles/gateway/files/pages/gone.html").read_text()
    assert f"<h1>{_doctor.NOBODY_HERE}</h1>" in page


def test_docs_hold_every_check_and_every_trouble():
    page = (ROOT / "docs/doctor.md").read_text()
    shown = [line for line in page.splitlines() if line.startswith("| `")]
    assert shown == [line for line in rendered() if line.startswith("| `")]


def rendered() -> list[str]:
    """The tables of docs/doctor.md, which this file prints (see test_compose_docs for how)."""

    def plain(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda m: m[1].upper(), text).replace("|", "\\|")

    lines = ["| check | where | what is looked at |", "|---|---|---|"]
    lines += [f"| `{c.id}` | {', '.join(c.places)} | {c.what} |" for c in _doctor.CHECKS]
    lines += ["", "| id | level | what is said | fix |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {trouble.level} | {plain(trouble.sentence)} | {plain(trouble.fix)} |"
        for name, trouble in _doctor.TROUBLES.items()
    ]
    return lines


if __name__ == "__main__":
    print("\n".join(rendered()))
