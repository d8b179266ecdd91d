"""The doctor on a real machine: healthy, and broken for real in one way after another."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Platform, docker, free_port
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from packages import needed

GATEWAY = "ephemera-preview-gateway"
DOMAIN = "doctor.localhost"
PASSWORD = "correct-horse-battery"
# What `htpasswd -nbB -C 5 preview correct-horse-battery` printed.
HTPASSWD = "preview:$2y$05$YwwDyM1MISJcdFzgDgC2Cu3Np3cBLsGehR./v/qtS7v4eGgOhT6wW\n"

root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")

# How another action plugin of the collection meets an engine that cannot be asked.
ESSENTIALS = """
from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.plugin_utils import _doctor
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction
from ansible_collections.ephemera.preview.plugins.module_utils import _docker


class ActionModule(PreviewAction):
    def act(self, arguments, task_vars):
        settings = self.settings(task_vars)
        try:
            seen = _docker.observe(self.on_host, settings["preview_state_dir"])
        except _docker.EngineError as error:
            said = _doctor.why_not(self, settings, task_vars, str(error))
            raise AnsibleActionFail(said) from None
        _doctor.refuse_early(self, settings, task_vars, seen)
        return {"changed": False}
"""


@dataclass
class Report:
    """What the doctor found about one app, and all that was printed."""

    out: str
    findings: list[dict[str, str]]

    def __getitem__(self, trouble: str) -> str:
        """The sentence and the fix of a finding that must be there."""
        texts = [f"{f['sentence']} {f['fix']}" for f in self.findings if f["id"] == trouble]
        assert texts, f"no {trouble} in:\n{self.out}"
        return "\n".join(texts)

    @property
    def problems(self) -> set[str]:
        return {f["id"] for f in self.findings if f["level"] == "problem"}

    @property
    def ids(self) -> set[str]:
        return {f["id"] for f in self.findings}


def run(platform: Platform, command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=platform.environment() | env,
        cwd=platform.folder,
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


def inventory(platform: Platform, apps: dict[str, dict[str, Any]], **groups: Any) -> list[str]:
    """The command of the doctor on several apps, each like the platform's but for its settings."""
    command = platform.command("doctor", [], {})
    file = platform.folder / "inventory.json"
    mine = json.loads(file.read_text())["preview_apps"]["hosts"][platform.app]
    hosts = {app: mine | settings for app, settings in apps.items()}
    file.write_text(json.dumps({"preview_apps": {"hosts": hosts}} | groups))
    return command


def ask_all(
    platform: Platform,
    apps: dict[str, dict[str, Any]],
    *arguments: str,
    env: dict[str, str] | None = None,
    **groups: Any,
) -> dict[str, Report]:
    """The doctor's findings about each app. Every problem must also be in the last message."""
    command = inventory(platform, apps, **groups)
    json_output = ["-e", "preview_output=json", *arguments]
    done = run(platform, [*command, *json_output], **(env or {}))
    lines = done.stdout.splitlines()
    lines = lines[next(i for i, line in enumerate(lines) if line.startswith("TASK [Report]")) :]
    start, end = lines.index("{"), lines.index("}")
    told = json.loads("\n".join(lines[start : end + 1]))
    assert set(told) == set(apps)
    everything = done.stdout + done.stderr
    message = "\n".join(lines[end + 1 :]) + done.stderr
    reports = {app: Report(everything, one["findings"]) for app, one in told.items()}
    assert done.returncode == (2 if any(one.problems for one in reports.values()) else 0)
    for finding in (finding for one in reports.values() for finding in one.findings):
        if finding["level"] == "problem":
            assert f"{finding['sentence']} {finding['fix']}" in message
    return reports


def ask(
    platform: Platform, *arguments: str, env: dict[str, str] | None = None, **settings: Any
) -> Report:
    return ask_all(platform, {platform.app: settings}, *arguments, env=env)[platform.app]


@pytest.fixture
def alone(tmp_path: Path) -> Platform:
    """An app on this machine, for tests that no gateway is needed for."""
    return Platform(tmp_path / "platform", tmp_path / "state", free_port(), "lonely")


@contextlib.contextmanager
def listener() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])


def without(tmp_path: Path, *commands: str) -> str:
    """A PATH that has every command of this machine's but these."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for place in os.environ["PATH"].split(":"):
        for program in sorted(Path(place).glob("*")) if place else ():
            link = folder / program.name
            if program.name not in commands and not link.exists() and os.access(program, os.X_OK):
                link.symlink_to(program)
    return str(folder)


# -- a healthy machine ----------------------------------------------------------------------------


def test_a_healthy_machine_has_no_problem_and_nothing_changes(platform: Platform) -> None:
    report = ask(platform)
    assert report.problems == set(), report.out
    # What a machine may lack for comfort differs from one to the other.
    comfort = {"memory.low", "disk.low", "engine.limits", "subnets.foreign", "state.fleeting"}
    assert {f["id"] for f in report.findings if f["level"] == "warning"} <= comfort
    assert report["engine"].startswith(
        f"Docker Engine {docker('version', '--format', '{{.Server.Version}}')} answers"
    )
    assert f"listens on port {platform.port}" in report["gateway"]
    assert f":{platform.port}/ is answered by the gateway" in report["endpoint"]
    assert str(platform.repository.path) in report["repository"]
    assert "preview_isolation is off" in report["firewall"]
    assert {"compose", "buildx", "python", "commands", "git", "clock", "dns"} <= report.ids


def test_a_person_reads_a_table_and_several_apps_at_once(platform: Platform) -> None:
    apps = {
        platform.app: {},
        "broken": {
            "preview_repository": "/nowhere/at.git",
            "preview_log_driver": "smoke-signals",
        },
        "odd": {
            "preview_traget": "docker",
            "preview_secrets": {"TOKEN": "{{ vault_of_nobody }}"},
        },
    }
    done = run(platform, inventory(platform, apps))
    assert done.returncode == 2
    table, _task, message = done.stdout.partition("TASK [End")
    lines = table.splitlines()
    counts = ["no problems", "2 problems", "2 problems"]
    starts = [lines.index(app) for app in apps]
    for start, end, count in zip(starts, [*starts[1:], len(lines)], counts, strict=True):
        assert any(line.strip().startswith(count) for line in lines[start:end]), table
    assert "  ✗ preview_traget is no setting of ephemera.preview. Did you mean" in table
    assert "    → Correct preview_repository" in table
    assert "2 things stop previews of broken" in message + done.stderr
    assert "'vault_of_nobody' is undefined" in message + done.stderr
    assert "changed=0" in done.stdout


# -- the machine ----------------------------------------------------------------------------------


def test_without_docker_all_else_is_reported(alone: Platform, tmp_path: Path) -> None:
    path = without(tmp_path, "docker", "git", "flock")
    report = ask(alone, env={"PATH": path})
    assert "There is no `docker` command on this machine" in report["engine.absent"]
    assert "apt-get install git" in report["git.absent"]
    assert "apt-get install util-linux" in report["commands.absent"]
    assert report["repository.unset"]
    assert {"settings", "ansible", "connection", "python", "state", "clock"} <= report.ids
    assert "engine" not in report.ids


def test_an_engine_that_does_not_answer(alone: Platform, tmp_path: Path) -> None:
    report = ask(alone, env={"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"})
    assert f"unix://{tmp_path}/nobody.sock" in report["engine.silent"]
    assert report["compose"].startswith("Compose 2")
    assert not {"gateway.absent", "subnets", "firewall.gaps"} & report.ids


@root
def test_a_user_who_may_not_use_docker_nor_write(alone: Platform) -> None:
    alone.settings = {
        "ansible_become": True,
        "ansible_become_method": "su",
        "ansible_become_user": "nobody",
        "ansible_become_flags": "-s /bin/sh",
        "ansible_python_interpreter": "/usr/bin/python3",
        "preview_state_dir": "/var/lib/ephemera-preview-doctor-test",
        "preview_isolation": True,
    }
    report = ask(alone)
    assert "sudo usermod -aG docker nobody" in report["engine.denied"]
    assert "-o nobody /var/lib/ephemera-preview-doctor-test" in report["state.unwritable"]
    assert "reached as nobody" in report["connection"]


def test_state_folders_that_do_not_do(alone: Platform, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    places = {"kernel": "/proc/previews", "below": f"{tmp_path}/file/x", "open": f"{tmp_path}/open"}
    reports = ask_all(alone, {app: {"preview_state_dir": place} for app, place in places.items()})
    assert "may not write in /proc" in reports["kernel"]["state.unwritable"]
    assert f"{tmp_path}/file on this machine is no folder" in reports["below"]["state.blocked"]
    assert f"chmod 0700 {tmp_path}/open" in reports["open"]["state.open"]


def test_subnets_that_are_taken_by_another(alone: Platform) -> None:
    name = f"doctor-{uuid.uuid4().hex[:6]}"
    docker("network", "create", "--subnet", "10.199.7.0/25", name)
    try:
        report = ask(alone, preview_docker_subnets=["10.199.7.0/25"])
    finally:
        docker("network", "rm", name)
    assert "0 of 2 subnets left" in report["subnets.used"]
    assert f"Taken by: {name}" in report["subnets.used"]
    assert name in report["subnets.foreign"]


def test_libraries_that_python_lacks(alone: Platform, tmp_path: Path) -> None:
    subprocess.run(["python3", "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    pythons = {"bare": f"{tmp_path}/bare/bin/python", "none": f"{tmp_path}/no-python"}
    reports = ask_all(
        alone, {app: {"ansible_python_interpreter": path} for app, path in pythons.items()}
    )
    lacking = reports["bare"]["python.libraries"]
    assert f"{pythons['bare']} -m pip install jsonschema PyYAML" in lacking
    assert "apt-get install python3-jsonschema python3-yaml" in lacking
    assert pythons["none"] in reports["none"]["python.absent"]
    assert "engine" in reports["none"].ids


def test_machines_that_cannot_be_reached(alone: Platform) -> None:
    nowhere = {
        "ansible_connection": "ssh",
        "ansible_host": "127.0.0.1",
        "ansible_port": free_port(),
        "ansible_ssh_common_args": "-F /dev/null",
    }
    reports = ask_all(
        alone,
        {"far": nowhere, "near": {"preview_builder": "builder"}},
        builders={"hosts": {"builder": nowhere}},
    )
    assert "127.0.0.1 cannot be reached" in reports["far"]["connection.failed"]
    assert "settings" in reports["far"].ids
    assert "engine" not in reports["far"].ids
    # The host is looked at, and what is the builder's is not asked of it.
    assert "127.0.0.1 cannot be reached" in reports["near"]["connection.failed"]
    assert {"connection", "engine", "python"} <= reports["near"].ids
    assert "git" not in reports["near"].ids


# -- the gateway ----------------------------------------------------------------------------------


def test_a_gateway_that_stopped(platform: Platform) -> None:
    docker("stop", "--time", "1", GATEWAY)
    try:
        report = ask(platform)
    finally:
        docker("start", GATEWAY)
    assert "is exited" in report["gateway.stopped"]
    assert report.problems == {"gateway.stopped"}


def test_ports_that_the_gateway_does_not_have(platform: Platform) -> None:
    needed("ss", "iproute2")
    with listener() as port:
        report = ask(platform, preview_gateway_http_port=port)
    assert f"does not listen on 127.0.0.1:{port}" in report["gateway.ports"]
    assert f"(process {os.getpid()})" in report["ports.taken"]
    assert "set preview_gateway_http_port to a free port" in report["ports.taken"]


def test_something_else_at_the_gateways_port(platform: Platform) -> None:
    """A name that leads to this machine and to another program's page."""
    report = ask(platform, preview_gateway_http_port=8082)
    assert "answered (404) by something that is not our gateway" in report["endpoint.stranger"]


@root
def test_a_firewall_that_is_missing(platform: Platform) -> None:
    report = ask(platform, preview_isolation=True)
    assert "ansible-playbook ephemera.preview.gateway" in report["firewall.gaps"]
    without_root = {
        "ansible_become": True,
        "ansible_become_method": "su",
        "ansible_become_user": "nobody",
        "ansible_become_flags": "-s /bin/sh",
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    # Nobody may not ask the engine either, so that nothing is claimed of its rules.
    assert "firewall.gaps" not in ask(platform, preview_isolation=True, **without_root).ids


# -- names and certificates -----------------------------------------------------------------------


def test_a_domain_without_a_wildcard_record(alone: Platform) -> None:
    report = ask(alone, preview_domain="previews.invalid")
    assert "previews.invalid does not resolve" in report["dns.unresolved"]
    assert "`*.previews.invalid`" in report["dns.unresolved"]


def certificate(folder: Path, name: str, days: int, *hosts: str) -> tuple[str, str]:
    """A self-made certificate, as the paths of its PEM file and of its key's."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=400))
        .not_valid_after(now + datetime.timedelta(days=days, minutes=5))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in hosts]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    files = folder / f"{name}.pem", folder / f"{name}.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(files[0]), str(files[1])


def given(pair: tuple[str, str], domain: str = DOMAIN) -> dict[str, Any]:
    return {
        "preview_domain": domain,
        "preview_gateway_tls": "given",
        "preview_gateway_certificate": pair[0],
        "preview_gateway_certificate_key": pair[1],
    }


def test_certificates_that_do_not_do(alone: Platform, tmp_path: Path) -> None:
    expired = certificate(tmp_path, "expired", -3, f"*.{DOMAIN}")
    short = certificate(tmp_path, "short", 5, f"*.{DOMAIN}")
    other = certificate(tmp_path, "other", 90, f"shop.{DOMAIN}")
    good = certificate(tmp_path, "good", 90, DOMAIN, f"*.{DOMAIN}")
    missing = str(tmp_path / "no.pem")
    reports = ask_all(
        alone,
        {
            "expired": given(expired),
            "short": given(short),
            "other": given(other),
            "mixed": given((good[0], other[1])),
            "missing": given((missing, good[1])) | {"preview_ca_file": missing},
            "good": given(good),
        },
    )
    assert f"{expired[0]} expired on" in reports["expired"]["certificate.expired"]
    assert "in 5 days" in reports["short"]["certificate.expiring"]
    assert f"need *.{DOMAIN}" in reports["other"]["certificate.names"]
    assert "mismatch" in reports["mixed"]["certificate.unusable"].lower()
    assert f"{missing}: No such file" in reports["missing"]["certificate.unusable"]
    assert missing in reports["missing"]["ca.unreadable"]
    assert f"*.{DOMAIN} is good until" in reports["good"]["certificate"]


@root
def test_a_gateway_with_a_certificate_and_a_firewall(platform: Platform, tmp_path: Path) -> None:
    """A renewed file is of no use before the gateway has it."""
    old = certificate(tmp_path, "old", 5, f"*.{DOMAIN}")
    new = certificate(tmp_path, "new", 90, f"*.{DOMAIN}")
    wanted = {"preview_gateway_https_port": free_port(), "preview_isolation": True}
    try:
        platform.play("gateway", **given(old), **wanted).ok()
        reports = ask_all(
            platform,
            {
                "strict": given(old) | wanted,
                platform.app: given(new) | wanted | {"preview_ca_file": old[0]},
            },
        )
    finally:
        platform.play("gateway").ok()
    assert "is answered by the gateway" in reports["strict"]["endpoint"]
    assert "self-signed certificate" in reports["strict"]["certificate.untrusted"]
    assert "does not keep previews and builds of strict from" in reports["strict"]["firewall.gaps"]
    renewed = reports[platform.app]
    assert renewed.problems == set(), renewed.out
    assert f"{new[0]} for *.{DOMAIN} is good" in renewed["certificate"]
    assert f"served at {platform.app}-pr-" in renewed["certificate.expiring"]
    assert "keep previews and builds from the networks around it" in renewed["firewall"]


# -- registries and the repository ----------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry on loopback that asks who one is."""
    program = needed("docker-registry", "docker-registry")
    port = free_port()
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    (tmp_path / "registry.json").write_text(
        json.dumps(
            {
                "version": 0.1,
                "log": {"level": "error"},
                "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
                "http": {"addr": f"127.0.0.1:{port}"},
                "auth": {"htpasswd": {"realm": "test", "path": str(tmp_path / "htpasswd")}},
            }
        )
    )
    with subprocess.Popen(
        [program, "serve", str(tmp_path / "registry.json")], stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _attempt in range(100):
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def test_registries_are_logged_in_to(alone: Platform, registry: str, tmp_path: Path) -> None:
    wrong, nobody = "wrong-horse-battery", f"127.0.0.1:{free_port()}"
    logins = {"right": (registry, PASSWORD), "wrong": (registry, wrong), "off": (nobody, PASSWORD)}
    reports = ask_all(
        alone,
        {
            app: {
                "preview_registries": [
                    {"registry": where, "username": "preview", "password": password}
                ]
            }
            for app, (where, password) in logins.items()
        },
        "-vvvv",
        env={"DOCKER_CONFIG": str(tmp_path / "docker")},
    )
    assert f"{registry} lets preview in" in reports["right"]["registry"]
    assert "Correct username and password" in reports["wrong"]["registry.refused"]
    assert f"{nobody} does not answer" in reports["off"]["registry.unreachable"]
    for password in (PASSWORD, wrong):
        assert password not in reports["right"].out
    # No login of this run is kept.
    assert not (tmp_path / "docker" / "config.json").exists()


def test_repositories_that_cannot_be_read(alone: Platform, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "empty.git")], check=True)
    token = "ghp_0123456789abcdef"
    reports = ask_all(
        alone,
        {
            "empty": {"preview_repository": f"{tmp_path}/empty.git"},
            "none": {"preview_repository": f"{tmp_path}/none.git"},
            "closed": {
                "preview_repository": f"https://127.0.0.1:{free_port()}/a.git",
                "preview_source_token": token,
            },
            "unset": {},
        },
        "-vvvv",
    )
    assert "is empty" in reports["empty"]["repository.refused"]
    assert "is not there" in reports["none"]["repository.refused"]
    assert "can't be reached" in reports["closed"]["repository.refused"]
    assert token not in reports["closed"].out
    assert reports["unset"]["repository.unset"]


# -- what other action plugins say ----------------------------------------------------------------


def test_a_run_that_cannot_begin_says_the_same(alone: Platform, tmp_path: Path) -> None:
    (alone.folder / "action_plugins").mkdir(parents=True)
    (alone.folder / "action_plugins" / "begin.py").write_text(ESSENTIALS)
    play = [{"hosts": "preview_apps", "gather_facts": False, "tasks": [{"begin": None}]}]
    (alone.folder / "begin.yml").write_text(json.dumps(play))
    env = {"PATH": without(tmp_path, "docker", "flock")}
    said = run(alone, alone.command(str(alone.folder / "begin.yml"), [], {}), **env)
    known = ask(alone, env=env)
    assert said.returncode == 2
    for trouble in ("engine.absent", "commands.absent"):
        assert known[trouble] in said.stdout + said.stderr
    # It is about what no stage can begin without, and nothing else.
    assert known["repository.unset"] not in said.stdout + said.stderr
