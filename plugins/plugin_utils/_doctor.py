# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gathers what the doctor judges: on the machine of a task's connection, and on the controller.

Other action plugins use :func:`why_not` when the engine could not be asked, and
:func:`refuse_early` when it could.
"""

from __future__ import annotations

import json
import random
import re
import socket
import ssl
import time
from collections.abc import Collection, Mapping
from datetime import timezone
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.galaxy.dependency_resolution.versioning import meets_requirements
from ansible.release import __version__ as core_version
from ansible.utils.collection_loader._collection_finder import _get_collection_path
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _docker,
    _doctor,
    _doctor_facts,
    _http,
    _identity,
    _ingress,
    _kubernetes_canary,
    _manifests,
    _names,
    _settings,
)
from ansible_collections.ephemera.preview.plugins.module_utils._doctor_facts import Facts
from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import (
    NOT_SETTINGS,
    PreviewAction,
)

try:
    from cryptography import x509
except ImportError:  # ansible-core requires it; its sanity tests do not
    x509 = None

RESOLVE = 10  # seconds
_RESTRICTED = "pod-security.kubernetes.io/enforce"


# -- for other action plugins -----------------------------------------------------------------


def why_not(
    action: PreviewAction, settings: Mapping[str, Any], task_vars: Mapping[str, Any], said: str
) -> str:
    """What to fail with when the engine could not be asked: the doctor's sentences, or ``said``."""
    facts = Facts(_app(settings, task_vars), _where(action, task_vars), settings)
    builds = _builds(settings, task_vars)
    look_at_machine(action, facts, task_vars, ("libraries",) if builds else ())
    found = _doctor.essentials(facts, builds)
    return _doctor.refusal(facts.app, found) if found else said


def refuse_early(
    action: PreviewAction,
    settings: Mapping[str, Any],
    task_vars: Mapping[str, Any],
    seen: Mapping[str, Any],
) -> None:
    """Fail with what an observation shows to be in the way. Asks nobody anything.

    :raises AnsibleActionFail: there is something.
    """
    app = _app(settings, task_vars)
    found = _doctor.glance(seen, app, _where(action, task_vars), settings)
    if found:
        raise AnsibleActionFail(_doctor.refusal(app, found))


def refuse_build(
    action: PreviewAction,
    preview: Mapping[str, Any],
    task_vars: Mapping[str, Any],
    seen: tuple[_docker.Firewall, str],
) -> None:
    """The same where images are built.

    :raises AnsibleActionFail: there is something.
    """
    facts = Facts(preview["app"], _where(action, task_vars), preview["settings"])
    found = _doctor.glance_at_builder(seen, facts, preview["trusted"])
    if found:
        raise AnsibleActionFail(_doctor.refusal(facts.app, found))


# -- everything -------------------------------------------------------------------------------


def look(
    action: PreviewAction, task_vars: Mapping[str, Any], elsewhere: bool
) -> tuple[Facts, set[str]]:
    """All facts about one app, and the places they are about. Whatever is wrong raises nothing.

    :param elsewhere: look at the machine of the task's connection as at a builder only.
    """
    settings, refused, unreadable = readable_settings(action, task_vars)
    places = {_doctor.BUILDER} if elsewhere else {_doctor.CONTROLLER}
    if not elsewhere:
        in_cluster = settings["preview_target"] == "kubernetes"
        places.add(_doctor.CLUSTER if in_cluster else _doctor.HOST)
    if _builds(settings, task_vars):
        places.add(_doctor.BUILDER)
    facts = Facts(
        _app(settings, task_vars),
        _where(action, task_vars),
        settings,
        local=action._connection.transport == "local",
        refused=refused,
        unreadable=unreadable,
        clock=time.time(),
    )
    if _doctor.CONTROLLER in places:
        look_at_controller(facts)
    if {_doctor.HOST, _doctor.BUILDER} & places:
        asking = ("libraries", "repository") if _doctor.BUILDER in places else ()
        look_at_machine(action, facts, task_vars, asking)
        log_in(action, facts)
    if _doctor.CLUSTER in places:
        look_at_cluster(action, facts)
    if _doctor.CONTROLLER in places:
        look_from_outside(facts)
    return facts, places


def readable_settings(
    action: PreviewAction, task_vars: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str], dict[str, str]]:
    """The settings that are right, what is wrong with the others, and those without a value."""
    given: dict[str, Any] = {}
    unreadable = {}
    for name, value in task_vars.items():
        if name.startswith(_settings.PREFIX) and name not in NOT_SETTINGS:
            try:
                given[name] = action._templar.template(value)
            except AnsibleError as error:
                unreadable[name] = str(error).splitlines()[0]
    refused: list[str] = []
    while True:
        try:
            return dict(_settings.resolve(given)), refused, unreadable
        except _settings.SettingsRefused as error:
            refused += [str(problem) for problem in error.problems]
            wrong = {problem.name.split(".")[0].split("[")[0] for problem in error.problems}
            # What is wrong of two together may stand with a default: then all of them go.
            kept = {name: value for name, value in given.items() if name not in wrong}
            given = kept if len(kept) < len(given) else {}


def look_at_machine(
    action: PreviewAction, facts: Facts, task_vars: Mapping[str, Any], asking: Collection[str]
) -> None:
    """Run the doctor's script and the module doctor_info where the task's connection leads."""
    began = time.time()
    try:
        ran = action.on_host(_doctor_facts.script(facts.settings))
    except AnsibleConnectionFailure as error:
        facts.unreachable = _first_line(str(error))
        return
    facts.machine = _doctor_facts.parse(ran.out)
    if not facts.machine.user:
        facts.machine = None
        facts.shell = _first_line(ran.err or ran.out) or f"sh ended with {ran.rc}"
        return
    # The script notes the time as it begins.
    facts.clock = began
    facts.python = run_info(action, facts.settings, task_vars, asking)


def look_at_cluster(action: PreviewAction, facts: Facts) -> None:
    """Ask the API server, and have a pod try whether network policies are enforced."""
    settings = facts.settings
    try:
        said = action.ask_cluster(
            {"settings": settings, "name": ""},
            "doctor",
            ingress={key: settings[key] for key in _ingress.CONTROLLER},
            trial=_trial(action, facts),
        )
    except AnsibleConnectionFailure as error:
        facts.unreachable = _first_line(str(error))
    except AnsibleActionFail as failure:
        library = "exception" not in failure.result
        facts.cluster = _doctor_facts.Cluster(str(failure), library)
    else:
        facts.cluster = _doctor_facts.Cluster(**said["facts"])


def _trial(action: PreviewAction, facts: Facts) -> dict[str, Any]:
    """A namespace of no preview, with the policies of one and the pod that tries them."""
    settings = facts.settings
    name = f"ephemera-preview-doctor-{random.randrange(16**8):08x}"
    # No preview's name, so that nobody takes it for one.
    labels = {f"{_names.PREFIX}owner": "doctor", f"{_names.PREFIX}doctor": "true"}
    place = {"names": {"namespace": name}, "labels": labels, "trusted": False}
    policies = _manifests.surroundings(place, settings)
    try:
        logins = action.logins(settings["preview_registries"])
    except AnsibleActionFail:
        logins = []  # told of by the registries' check
    secrets = [_manifests.pull_secret(place, logins)] if logins else []
    metadata = {"name": name, "labels": {**labels, _RESTRICTED: "restricted"}}
    return {
        "namespace": {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata},
        "objects": [*policies, *secrets],
        "job": _kubernetes_canary.job(place, settings),
        "egress": _kubernetes_canary.egress_of(policies),
    }


def run_info(
    action: PreviewAction,
    settings: Mapping[str, Any],
    task_vars: Mapping[str, Any],
    asking: Collection[str],
) -> _doctor_facts.Python:
    wanted: dict[str, Any] = {}
    if "libraries" in asking:
        wanted["libraries"] = sorted(_doctor.LIBRARIES)
    if "repository" in asking:
        wanted.update(
            repository=settings["preview_repository"] or None,
            checkout=settings["preview_checkout"] or None,
            user=settings["preview_source_user"],
            token=settings["preview_source_token"] or None,
            key_file=settings["preview_source_key_file"] or None,
            host_keys=settings["preview_source_host_keys"] or None,
            proxy=settings["preview_proxy"],
            ca=_text(settings["preview_ca_file"]),
        )
    try:
        result = action._execute_module(
            module_name="ephemera.preview.doctor_info",
            module_args={name: value for name, value in wanted.items() if value is not None},
            task_vars=dict(task_vars),
        )
    except AnsibleError as error:
        return _doctor_facts.Python(said=_first_line(str(error)))
    if "executable" not in result:
        return _doctor_facts.Python(said=_why_no_module(result))
    return _doctor_facts.Python(
        executable=result["executable"],
        version=result["version"],
        missing=result["missing"],
        git=result["git"],
        compose=(result["compose"]["program"], result["compose"]["version"]),
        repository=result.get("repository"),
    )


def _why_no_module(result: Mapping[str, Any]) -> str:
    """The first line, or a traceback's last; over ssh with a terminal all is output."""
    said = f"{result.get('module_stdout', '')}\n{result.get('module_stderr', '')}"
    lines = [line for line in said.splitlines() if not line.startswith("Shared connection to ")]
    if "Traceback (most recent call last):" in said:
        lines.reverse()
    return _first_line("\n".join(lines)) or _first_line(str(result.get("msg", "")))


def log_in(action: PreviewAction, facts: Facts) -> None:
    """Try each of preview_registries, from a configuration that is gone afterwards."""
    machine = facts.machine
    alone = machine and "docker" in machine.commands and _doctor.needs_no_engine(facts.settings)
    if not machine or not (machine.answers or alone):
        return
    for registry in facts.settings["preview_registries"]:
        name, user = registry["registry"], registry["username"]
        try:
            password = action.logins([registry])[0]["password"]
        except AnsibleActionFail as failure:
            facts.logins.append(_doctor_facts.Login(name, user, str(failure), password=False))
            continue
        ran = action.on_host(["sh", "-c", _doctor_facts.LOGIN, "login", name, user], password)
        said = ""
        if ran.rc:
            lines = [line for line in (ran.out + ran.err).splitlines() if line.strip()]
            said = " ".join(lines[-2:]) or "no answer within 30 s"
            if alone and "Docker daemon" in said:
                continue  # before Docker 28 it was the engine that logged in
        # Docker does not repeat it; should a registry do so, it goes no further.
        facts.logins.append(_doctor_facts.Login(name, user, redact(said, [password])))


# -- the controller ---------------------------------------------------------------------------


def look_at_controller(facts: Facts) -> None:
    facts.core = core_version
    facts.collections = dependencies()
    ca = facts.settings["preview_ca_file"]
    if ca:
        try:
            ssl.create_default_context(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            facts.ca = str(error)
    if facts.settings["preview_gateway_tls"] == "given":
        facts.certificates.append(
            given_certificate(
                facts.settings["preview_gateway_certificate"],
                facts.settings["preview_gateway_certificate_key"],
            )
        )


def dependencies() -> list[_doctor_facts.Collection]:
    """What our own galaxy.yml, or MANIFEST.json once built, asks for; and what there is."""
    found = []
    for name, wanted in sorted(_manifest("ephemera.preview").get("dependencies", {}).items()):
        try:
            version = str(_manifest(name).get("version", ""))
        except (OSError, ValueError, ImportError):
            version = ""
        fits = bool(version) and meets_requirements(version, wanted)
        found.append(_doctor_facts.Collection(name, wanted, version, fits))
    return found


def _manifest(collection: str) -> dict[str, Any]:
    folder = Path(_get_collection_path(collection))
    built = folder / "MANIFEST.json"
    if built.exists():
        return dict(json.loads(built.read_text(encoding="utf-8"))["collection_info"])
    return dict(yaml.safe_load((folder / "galaxy.yml").read_text(encoding="utf-8")))


def look_from_outside(facts: Facts) -> None:
    """A random preview's name, and who answers there: as a reviewer who is on the controller."""
    names = _random_name(facts)
    if not names:
        return
    facts.name = resolve(names.host, names.domain)
    if facts.machine and not facts.local:
        facts.machine.addresses += resolve(facts.where, "").addresses
    gateway = facts.machine.gateway if facts.machine else None
    if not gateway or gateway.state != "running" or names.port not in gateway.ports:
        return
    if not facts.name.addresses:
        return
    if names.domain.endswith("localhost") and not facts.local:
        return
    url = names.url + "/"
    answer = _http.get(url, context=_http.context(trusting=True))
    ours = answer.status == 404 and _doctor.NOBODY_HERE in str(answer.body)
    said = re.sub(r"^\[Errno -?\d+\] ", "", answer.detail) or answer.trouble
    facts.endpoint = _doctor_facts.Endpoint(url, names.port, answer.status, ours, said)
    if names.scheme == "https" and ours:
        certificate = served_certificate(facts.name, names.port, facts.settings)
        # The file has been judged, where it is the one; but not whether others trust it.
        known = {one.not_after for one in facts.certificates}
        if certificate.untrusted or certificate.not_after not in known:
            facts.certificates.append(certificate)


def _random_name(facts: Facts) -> _names.Names | None:
    try:
        return _identity.names_for(facts.app, random.randrange(10**8, 10**9), facts.settings)
    except _names.NameRefused as refused:
        facts.refused.append(str(refused))
        return None


def resolve(host: str, domain: str) -> _doctor_facts.Name:
    """The addresses of a host."""
    try:
        answers = _http.resolve(host, None, RESOLVE)
    except TimeoutError:
        return _doctor_facts.Name(host, domain, (), f"no answer within {RESOLVE} s")
    except (OSError, UnicodeError) as error:
        return _doctor_facts.Name(host, domain, (), getattr(error, "strerror", "") or str(error))
    addresses = tuple(sorted({str(answer[4][0]) for answer in answers}))
    return _doctor_facts.Name(host, domain, addresses, "")


def given_certificate(path: str, key: str) -> _doctor_facts.Certificate:
    try:
        pem = Path(path).read_bytes()
        certificate = x509.load_pem_x509_certificate(pem)
        # Refuses a key of another certificate.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key, password="")
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, FileNotFoundError) else str(error)
        missing = f"{error.filename}: " if isinstance(error, FileNotFoundError) else ""
        return _doctor_facts.Certificate(path, said=f"{missing}{said}")
    return _certificate(path, certificate)


def served_certificate(
    name: _doctor_facts.Name, port: int, settings: Mapping[str, Any]
) -> _doctor_facts.Certificate:
    """The certificate that is served, and whether it is trusted here where it should be."""
    source = f"served at {name.host}:{port}"
    try:
        der = _handshake(name, port, _http.context(trusting=True))
        found = _certificate(source, x509.load_der_x509_certificate(der))
    except (OSError, ValueError) as error:
        return _doctor_facts.Certificate(source, said=str(error))
    if settings["preview_gateway_tls"] == "selfsigned":
        return found
    try:
        _handshake(name, port, _http.context(settings["preview_ca_file"]))
    except (OSError, ssl.SSLError) as error:
        return found._replace(untrusted=getattr(error, "verify_message", "") or str(error))
    return found


def _handshake(name: _doctor_facts.Name, port: int, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection((name.addresses[0], port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=name.host) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


def _certificate(source: str, certificate: x509.Certificate) -> _doctor_facts.Certificate:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = tuple(extension.value.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = ()
    end = getattr(certificate, "not_valid_after_utc", None)
    if end is None:  # cryptography before 42
        end = certificate.not_valid_after.replace(tzinfo=timezone.utc)
    subject = certificate.subject.rfc4514_string()
    return _doctor_facts.Certificate(
        source,
        not_after=end.timestamp(),
        names=names,
        default="TRAEFIK DEFAULT CERT" in subject,
    )


# -- small things -----------------------------------------------------------------------------


def _app(settings: Mapping[str, Any], task_vars: Mapping[str, Any]) -> str:
    return str(settings["preview_app"] or task_vars["inventory_hostname"])


def _builds(settings: Mapping[str, Any], task_vars: Mapping[str, Any]) -> bool:
    """Whether the app's own host is its builder too."""
    return settings["preview_builder"] in ("", task_vars["inventory_hostname"])


def _where(action: PreviewAction, task_vars: Mapping[str, Any]) -> str:
    """The machine that the task's connection leads to, as a person would look for it."""
    if action._connection.transport == "local":
        return "this machine"
    for option in ("host", "remote_addr"):
        try:
            found = action._connection.get_option(option)
        except KeyError:
            continue
        if found:
            return str(found)
    return str(action._task.delegate_to or task_vars["inventory_hostname"])


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8") if path else None
    except (OSError, ValueError):
        return None


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else ""
