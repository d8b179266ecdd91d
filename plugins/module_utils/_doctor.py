# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What would stop a preview, told from facts: each trouble in one sentence, with its fix. Pure.

``TROUBLES`` holds every sentence, ``CHECKS`` what is looked at and where; ``examine`` makes
findings of ``Facts``, which ``_doctor_facts`` defines.
"""

from __future__ import annotations

import ipaddress
import re
import time
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Set,
    Tuple,
)

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _announce,
    _docker,
    _host,
    _route,
)
from ansible_collections.ephemera.preview.plugins.module_utils._checks import in_bytes
from ansible_collections.ephemera.preview.plugins.module_utils._doctor_facts import (
    COMMANDS,
    Cluster,
    Facts,
    Machine,
    wanted_ports,
)

OK, WARNING, PROBLEM = "ok", "warning", "problem"
HOST, BUILDER, CONTROLLER, CLUSTER = "host", "builder", "controller", "cluster"

ENGINE_MINIMUM = (25, 0)
COMPOSE_MINIMUM = (2, 30)
KUBERNETES_MINIMUM = (1, 30)
GIT_MINIMUM = (2, 32)
CORE_MINIMUM = (2, 19)

GIBIBYTE = 1 << 30
DISK_NEEDED = 2 * GIBIBYTE
DISK_WANTED = 10 * GIBIBYTE
MEMORY_NEEDED = GIBIBYTE // 4
SUBNETS_WANTED = 20  # ten previews
SKEW = 30  # seconds
EXPIRY = 14 * 86400
VIRTUAL = ("proc", "sysfs", "cgroupfs", "cgroup2fs")

NOBODY_HERE = "There is no preview here"
"""What the gateway's page for an unknown host says (roles/gateway/files/pages/gone.html)."""


class Library(NamedTuple):
    """A Python library that programs need: how pip and Debian call it, and what for."""

    pip: str
    package: str
    purpose: str


LIBRARIES = {
    "yaml": Library("PyYAML", "python3-yaml", "to read Compose files"),
    "jsonschema": Library("jsonschema", "python3-jsonschema", "to check x-preview"),
}
"""By the name they are imported by; on the builder."""

CLUSTER_LIBRARIES = {
    "kubernetes": Library("kubernetes", "python3-kubernetes", "to log in to a cluster"),
    "websocket": Library("websocket-client", "python3-websocket", "to run commands in a cluster"),
    "urllib3": Library("urllib3", "python3-urllib3", "to talk to a cluster"),
}
"""The same of what a host needs that leads to a cluster. The others come with kubernetes."""


class Trouble(NamedTuple):
    """``level`` is ``warning`` or ``problem``: only the latter stops a preview."""

    level: str
    sentence: str
    fix: str


class Finding(NamedTuple):
    """One line of the report. ``id`` is a check's (ok) or a trouble's; an ok one has no fix."""

    id: str
    level: str
    sentence: str
    fix: str


_GATEWAY_AGAIN = "Run `ansible-playbook ephemera.preview.gateway -l {app}`."
_TRUST = (
    "Let Ansible connect as root, or set `ansible_become: true`, or set `preview_isolation: false` "
    "if previews and builds may reach the networks around them."
)

TROUBLES: Dict[str, Trouble] = {
    # -- the controller -----------------------------------------------------------------------
    "settings.refused": Trouble(
        PROBLEM,
        "{said}",
        "Correct it where the inventory sets it; docs/settings.md has every setting.",
    ),
    "settings.unreadable": Trouble(
        PROBLEM,
        "{name} has no value that can be read: {said}",
        "Define the variable it takes its value from, or give the password of its vault.",
    ),
    "secrets.weak": Trouble(
        WARNING,
        "preview_secret_key is made of {distinct} different characters only, so it can be guessed.",
        "Take a new one from `openssl rand -hex 32`; previews get new passwords from their next "
        "`up` on.",
    ),
    "ansible.old": Trouble(
        PROBLEM,
        "ansible-core {version} runs this, and {minimum} or newer is needed.",
        "Run `pip install 'ansible-core>={minimum}'` on the controller.",
    ),
    "ansible.collection": Trouble(
        PROBLEM,
        "The collection {name} is needed ({wanted}), and {found}.",
        "Run `ansible-galaxy collection install '{name}:{wanted}'` on the controller.",
    ),
    "ansible.spare": Trouble(
        WARNING,
        "The collection {name} will be needed with other settings ({wanted}), and {found}.",
        "Run `ansible-galaxy collection install '{name}:{wanted}'` on the controller.",
    ),
    # -- the machine --------------------------------------------------------------------------
    "connection.failed": Trouble(
        PROBLEM,
        "{where} cannot be reached: {said}",
        "Make `ansible {app} -m ansible.builtin.raw -a id` work with the same inventory: correct "
        "ansible_host, ansible_user, the key or the become password.",
    ),
    "connection.shell": Trouble(
        PROBLEM,
        "No command can be run on {where}: {said}",
        "Make `ansible {app} -m ansible.builtin.raw -a id` print a user; a POSIX shell is needed.",
    ),
    "engine.absent": Trouble(
        PROBLEM,
        "There is no `docker` command on {where} for the user {user}.",
        "Install Docker Engine {minimum} or newer with its plugins for Compose and buildx "
        "(https://docs.docker.com/engine/install), or put its folder on that user's PATH.",
    ),
    "engine.denied": Trouble(
        PROBLEM,
        "The user {user} may not use the Docker engine on {where}.",
        "Run `sudo usermod -aG docker {user}` there and connect anew, or set "
        "`ansible_become: true`.",
    ),
    "engine.silent": Trouble(
        PROBLEM,
        "No Docker engine answers on {where}: {said}",
        "Run `sudo systemctl enable --now docker` there; `journalctl -u docker -n 50` says why it "
        "does not start.",
    ),
    "engine.spare": Trouble(
        WARNING,
        "No Docker engine answers on {where}, so no image can be built there, and preview_images "
        "has to name those of all services that are.",
        "Nothing, where it does; else run Docker there, or set preview_buildx_builder or "
        "preview_builder.",
    ),
    "engine.old": Trouble(
        PROBLEM,
        "Docker Engine {version} on {where} is too old: from {minimum} on, a healthcheck asks more "
        "often while its service starts (start_interval).",
        "Install Docker Engine {minimum} or newer (https://docs.docker.com/engine/install).",
    ),
    "engine.limits": Trouble(
        WARNING,
        "The engine on {where} cannot limit {what}, so one preview can take what all others need.",
        "Boot that machine with the cgroup controllers for {what}, as with "
        "`cgroup_enable=memory swapaccount=1`; `docker info` warns until then.",
    ),
    "engine.log": Trouble(
        PROBLEM,
        "preview_log_driver is {driver}, which the engine on {where} does not have.",
        "Set preview_log_driver to one of {known}, or install that plugin there.",
    ),
    "compose.absent": Trouble(
        PROBLEM,
        "Docker on {where} has no Compose for the user {user}.",
        "Install docker-compose-plugin (Docker's packages) or docker-compose-v2 (Ubuntu) there.",
    ),
    "compose.old": Trouble(
        PROBLEM,
        "Compose {version} ({program}) on {where} is too old: from {minimum} on it passes the "
        "values of an env_file on as they are (format: raw).",
        "Install Compose {minimum} or newer, and remove an older docker-compose beside it.",
    ),
    "buildx.absent": Trouble(
        PROBLEM,
        "Docker on {where} has no buildx for the user {user}, and images are built by it.",
        "Install docker-buildx-plugin (Docker's packages) or docker-buildx (Debian, Ubuntu) there.",
    ),
    "buildx.unknown": Trouble(
        PROBLEM,
        "buildx of the user {user} on {where} knows no builder {builder}, which "
        "preview_buildx_builder names.",
        "Run `docker buildx create --name {builder} …` there as that user, or correct the setting.",
    ),
    "buildx.silent": Trouble(
        PROBLEM,
        "The builder {builder} of preview_buildx_builder does not answer {where}: {said}",
        "Let BuildKit run where `docker buildx inspect {builder}` says its endpoint is, or create "
        "the builder anew with another.",
    ),
    "python.absent": Trouble(
        PROBLEM,
        "Ansible's modules do not run on {where}: {said}",
        "Install Python there (`apt-get install python3`), or set ansible_python_interpreter.",
    ),
    "python.libraries": Trouble(
        PROBLEM,
        "{executable} on {where} lacks {libraries}.",
        "Run `apt-get install {packages}`, or `{executable} -m pip install {pip}`, there.",
    ),
    "commands.absent": Trouble(
        PROBLEM,
        "{where} lacks the commands {commands}.",
        "Run `apt-get install {packages}` there.",
    ),
    "git.absent": Trouble(
        PROBLEM,
        "There is no git on {where}, where commits are fetched.",
        "Run `apt-get install git` there.",
    ),
    "git.old": Trouble(
        PROBLEM,
        "git {version} on {where} is too old: from {minimum} on it can be kept from reading the "
        "machine's own configuration (GIT_CONFIG_GLOBAL, GIT_CONFIG_SYSTEM).",
        "Install git {minimum} or newer there.",
    ),
    "state.blocked": Trouble(
        PROBLEM,
        "preview_state_dir is {path}, and {at} on {where} is no folder.",
        "Move that file away, or set preview_state_dir to another path.",
    ),
    "state.unwritable": Trouble(
        PROBLEM,
        "The user {user} may not write in {at} on {where}, where preview_state_dir ({path}) lies.",
        "Run `sudo install -d -m 0700 -o {user} {path}` there, or set preview_state_dir to a "
        "folder of that user's, or set `ansible_become: true`.",
    ),
    "state.open": Trouble(
        WARNING,
        "{path} on {where} can be read by others (mode {mode}), and previews' secrets lie in it.",
        "Run `chmod 0700 {path}` there.",
    ),
    "state.fleeting": Trouble(
        WARNING,
        "{path} on {where} lies in memory ({type}): after a restart nobody knows the previews.",
        "Set preview_state_dir to a folder on a disk.",
    ),
    "disk.full": Trouble(
        PROBLEM,
        "{free} are free for {what} on {where} ({mount}), and {needed} are needed.",
        "Run `docker builder prune` and `docker image prune` there, or give {mount} more room.",
    ),
    "disk.low": Trouble(
        WARNING,
        "{free} are free for {what} on {where} ({mount}), which is enough for few previews.",
        "Run `docker builder prune` and `docker image prune` there, or give {mount} more room.",
    ),
    "memory.full": Trouble(
        PROBLEM,
        "{free} of {total} memory are free on {where}, and {needed} are needed.",
        "Take previews down that are not needed, or give that machine more memory.",
    ),
    "memory.low": Trouble(
        WARNING,
        "{free} of {total} memory are free on {where}: a preview of four services may take "
        "{wanted} (preview_size: {size}).",
        "Set a smaller preview_size, or give that machine more memory.",
    ),
    "subnets.used": Trouble(
        PROBLEM,
        "preview_docker_subnets ({pools}) has {free} of {total} subnets left on {where}, and "
        "{needed} are needed: two for a preview, one for the gateway. Taken by: {names}.",
        "Take previews down that are not needed, remove networks that are not ours (`docker "
        "network rm NAME`), or add a subnet to preview_docker_subnets.",
    ),
    "subnets.few": Trouble(
        WARNING,
        "preview_docker_subnets ({pools}) has {free} of {total} subnets left on {where}, enough "
        "for {previews} more previews.",
        "Add a subnet to preview_docker_subnets.",
    ),
    "subnets.gateway": Trouble(
        PROBLEM,
        "{subnet}, where the gateway of {where} belongs, is taken by the network {names}.",
        "Remove that network (`docker network rm {names}`), or set preview_docker_subnets to "
        "others, before there are previews.",
    ),
    "subnets.foreign": Trouble(
        WARNING,
        "Networks on {where} that are not ours lie in preview_docker_subnets: {names}.",
        "Set preview_docker_subnets to subnets that nothing else uses, before there are previews.",
    ),
    "subnets.route": Trouble(
        PROBLEM,
        "{where} reaches {network} through {interface}, and previews would take {pool} from it.",
        "Set preview_docker_subnets to private subnets that nothing there uses, such as "
        "[172.28.0.0/16].",
    ),
    "subnets.shadow": Trouble(
        WARNING,
        "{where} reaches {network} through {interface}; {pool} of it is hidden by previews.",
        "Nothing, if that part is not in use; else set preview_docker_subnets to another subnet.",
    ),
    # -- the cluster --------------------------------------------------------------------------
    "cluster.library": Trouble(
        PROBLEM,
        "{said}",
        "Run `apt-get install {packages}`, or `pip install {pip}` for that Python.",
    ),
    "cluster.silent": Trouble(
        PROBLEM,
        "{said}",
        "Make `kubectl get namespaces` work on {where} with the same kubeconfig: correct "
        "preview_kubeconfig, preview_kube_context or what they lead to.",
    ),
    "cluster.old": Trouble(
        PROBLEM,
        "Kubernetes {version} at {server} is too old: from {minimum} on a pod can serve on for "
        "some seconds before it ends (preStop.sleep).",
        "Upgrade the cluster to {minimum} or newer.",
    ),
    "rights.missing": Trouble(
        PROBLEM,
        "The account that asks {server} may not: {rights}.",
        "Grant it what examples/kubernetes/rbac.yaml does.",
    ),
    "ingress.unserved": Trouble(
        PROBLEM, "{said}", "docs/kubernetes-ingress.md tells what each controller takes."
    ),
    "storage.unknown": Trouble(
        PROBLEM,
        "preview_storage_class is {name}, and the cluster has no such storage class (there are: "
        "{known}).",
        "Set preview_storage_class to one of those, or leave it out for the cluster's own.",
    ),
    "storage.default": Trouble(
        WARNING,
        "No storage class is the cluster's default, so services with volumes stay pending.",
        "Set preview_storage_class (there are: {known}), or make one of them the default.",
    ),
    "metrics.absent": Trouble(
        WARNING,
        "The cluster has no metrics API, so x-preview.autoscale scales nothing.",
        "Install metrics-server if apps use it; else nothing.",
    ),
    "policies.open": Trouble(
        WARNING,
        "The cluster does not enforce network policies: a preview reaches all that the cluster "
        "does, and pull requests that are not trusted (preview_trusted: false) are refused.",
        "Install a network plugin that enforces them, such as Calico or Cilium, or switch that on "
        "in yours.",
    ),
    "policies.unknown": Trouble(
        WARNING, "{said}", "Until then only pull requests that are trusted get a preview."
    ),
    "policies.untried": Trouble(
        WARNING,
        "Nobody has tried whether network policies are enforced: that takes the missing rights.",
        "Run the doctor again once they are granted.",
    ),
    # -- the gateway --------------------------------------------------------------------------
    "gateway.absent": Trouble(
        PROBLEM, "There is no gateway on {where}, so nobody reaches a preview.", _GATEWAY_AGAIN
    ),
    "gateway.stopped": Trouble(
        PROBLEM,
        "The gateway on {where} is {state}, so nobody reaches a preview.",
        f"{_GATEWAY_AGAIN} `docker logs {_docker.GATEWAY}` says why it ended.",
    ),
    "gateway.unhealthy": Trouble(
        PROBLEM,
        "The gateway on {where} runs and does not answer its healthcheck.",
        f"{_GATEWAY_AGAIN} `docker logs {_docker.GATEWAY}` says what is wrong.",
    ),
    "gateway.foreign": Trouble(
        PROBLEM,
        f"A container on {{where}} is called {_docker.GATEWAY} and is not ours.",
        f"Run `docker rename {_docker.GATEWAY} OTHER` there. Then: {_GATEWAY_AGAIN}",
    ),
    "gateway.ports": Trouble(
        PROBLEM,
        "The gateway on {where} does not listen on {address}:{port}, as {setting} wants.",
        _GATEWAY_AGAIN,
    ),
    "gateway.detached": Trouble(
        WARNING,
        "The gateway on {where} is cut off from {networks}: those previews answer 502.",
        _GATEWAY_AGAIN,
    ),
    "ports.taken": Trouble(
        PROBLEM,
        "Port {port} on {where}, which {setting} gives to the gateway, is taken by {holder}.",
        "Stop what listens there (`ss -ltnp 'sport = :{port}'` names it), or set {setting} to a "
        "free port.",
    ),
    "firewall.gaps": Trouble(
        PROBLEM,
        "preview_isolation is on, and the firewall on {where} does not keep previews and builds of "
        "{app} from the networks around it as the settings say ({count} differences, the first "
        "`{rule}`).",
        _GATEWAY_AGAIN,
    ),
    "firewall.builder": Trouble(
        WARNING,
        "What builds by {builder}, which preview_buildx_builder names, reach nobody can tell here: "
        "pull requests that are not trusted are refused.",
        "Let it run where the internet and the registry are reached and nothing else, and say so "
        "by `preview_buildx_isolated: true`.",
    ),
    "firewall.iptables": Trouble(
        PROBLEM,
        "preview_isolation needs iptables, which {where} does not have.",
        "Run `apt-get install iptables` there, or set `preview_isolation: false` if previews and "
        "builds may reach the networks around them.",
    ),
    "firewall.nftables": Trouble(
        PROBLEM,
        "The engine on {where} writes its rules by nftables, and preview_isolation knows iptables "
        "only.",
        'Remove `"firewall-backend": "nftables"` from /etc/docker/daemon.json and restart the '
        "engine, or set `preview_isolation: false`.",
    ),
    "firewall.unseen": Trouble(
        PROBLEM,
        "preview_isolation needs root on {where}, which Ansible has not got there: {said}",
        _TRUST,
    ),
    "clock.skew": Trouble(
        WARNING,
        "The clock of {where} is {seconds} s {direction} this controller's.",
        "Run `timedatectl set-ntp true` on both. Times of previews are the host's.",
    ),
    # -- from a reviewer's side ---------------------------------------------------------------
    "dns.unresolved": Trouble(
        PROBLEM,
        "{host} does not resolve on the controller: {said}",
        "Add the DNS record `*.{domain}` with the address of {where}. It may take as long as the "
        "zone's negative TTL to be seen.",
    ),
    "dns.sslip": Trouble(
        PROBLEM,
        "{host} does not resolve on the controller: {said}",
        "Let the controller's resolver answer for sslip.io (some refuse private addresses: rebind "
        "protection), or set preview_domain to a domain of yours with a wildcard record.",
    ),
    "dns.localhost": Trouble(
        PROBLEM,
        "Previews lie under {domain}, which is every reader's own machine, and the host is "
        "{where}.",
        "Set preview_domain to a domain whose wildcard record leads to {where}, or preview_host_ip "
        "to its address.",
    ),
    "dns.elsewhere": Trouble(
        WARNING,
        "{host} leads to {addresses}, which is no address of {where}.",
        "Nothing, if a proxy or NAT there leads on to it; else correct the DNS record "
        "`*.{domain}`.",
    ),
    "endpoint.closed": Trouble(
        PROBLEM,
        "The gateway runs, and {url} cannot be reached from the controller: {said}",
        "Open port {port} of {where} to the controller and to reviewers, in its firewall and its "
        "provider's.",
    ),
    "endpoint.stranger": Trouble(
        PROBLEM,
        "{url} is answered ({status}) by something that is not our gateway.",
        "Let `*.{domain}` lead to {where}, port {port}, with nothing before it that answers "
        "itself.",
    ),
    "certificate.unusable": Trouble(
        PROBLEM,
        "The certificate {source} cannot be used: {said}",
        "Set preview_gateway_certificate to the chain and preview_gateway_certificate_key to its "
        "key, both in PEM on the controller.",
    ),
    "certificate.expired": Trouble(
        PROBLEM, "The certificate {source} expired on {date}.", "Renew it, then: " + _GATEWAY_AGAIN
    ),
    "certificate.expiring": Trouble(
        WARNING,
        "The certificate {source} expires on {date}, in {days} days.",
        "Renew it, then: " + _GATEWAY_AGAIN,
    ),
    "certificate.names": Trouble(
        PROBLEM,
        "The certificate {source} is for {names}, and previews need *.{domain}.",
        "Get one for `*.{domain}`, then: " + _GATEWAY_AGAIN,
    ),
    "certificate.untrusted": Trouble(
        PROBLEM,
        "The certificate {source} is not trusted on the controller: {said}",
        "Serve its whole chain, or set preview_ca_file to its authority's certificate.",
    ),
    "certificate.pending": Trouble(
        PROBLEM,
        "The gateway has got no certificate for *.{domain} yet and serves its own.",
        f"Run `docker logs {_docker.GATEWAY} 2>&1 | grep -i acme` on {{where}}: it says what the "
        "authority or the DNS provider answered.",
    ),
    "ca.unreadable": Trouble(
        PROBLEM,
        "preview_ca_file, {path}, holds no certificate that can be read: {said}",
        "Set it to a PEM file on the controller.",
    ),
    # -- where code and images come from ------------------------------------------------------
    "registry.refused": Trouble(
        PROBLEM,
        "The registry {registry} does not let {username} in: {said}",
        "Correct username and password of {registry} in preview_registries.",
    ),
    "registry.password": Trouble(
        PROBLEM,
        "There is no password for {registry}: {said}",
        "Correct password_command of {registry} in preview_registries.",
    ),
    "registry.untrusted": Trouble(
        PROBLEM,
        "The engine on {where} does not trust the certificate of {registry}: {said}",
        "Put its authority's certificate into /etc/docker/certs.d/{registry}/ca.crt there.",
    ),
    "registry.unreachable": Trouble(
        PROBLEM,
        "The registry {registry} does not answer {where}: {said}",
        "Correct its name in preview_registries, or let {where} reach it.",
    ),
    "repository.unset": Trouble(
        PROBLEM,
        "preview_repository is not set, so there is nothing to fetch.",
        "Set preview_repository to the URL of {app}'s repository.",
    ),
    "repository.refused": Trouble(
        PROBLEM,
        "The repository cannot be read from {where}: {said}",
        "Correct preview_repository, preview_source_token or preview_source_key_file.",
    ),
}


# -- findings -------------------------------------------------------------------------------------


class Check(NamedTuple):
    """One thing that is looked at. ``judge`` yields its findings, none where facts are missing."""

    id: str
    places: Tuple[str, ...]
    what: str
    judge: Callable[[Facts], Iterator[Finding]]


def examine(
    facts: Facts,
    places: Iterable[str] = (CONTROLLER, HOST, BUILDER),
    only: Optional[Iterable[str]] = None,
) -> List[Finding]:
    """Every finding of the checks for these places, in the order of ``CHECKS``.

    :param only: ids of checks; all where it is None.
    """
    wanted = set(places)
    return [
        finding
        for check in CHECKS
        if wanted & set(check.places) and (only is None or check.id in only)
        for finding in check.judge(facts)
    ]


def essentials(facts: Facts, builds: bool = True) -> List[Finding]:
    """The problems of the host without which no stage can begin: what a failed run looks for.

    :param builds: whether the host is the builder too.
    """
    places = (HOST, BUILDER) if builds else (HOST,)
    return problems(examine(facts, places, ESSENTIAL))


def glance(
    seen: Mapping[str, Any], app: str, where: str, settings: Mapping[str, Any]
) -> List[Finding]:
    """The problems that an observation shows by itself; see ``_docker.observe`` for its shape."""
    facts = Facts(app, where, settings)
    return [
        _trouble(facts, trouble, **values)
        for trouble, values in _host.troubles(seen, app, settings)
    ]


def glance_at_builder(
    seen: Tuple[_docker.Firewall, str], facts: Facts, trusted: bool
) -> List[Finding]:
    """What lacks around builds; see ``_docker.observe_builds`` for the shape of ``seen``."""
    return [
        _trouble(facts, trouble, **values)
        for trouble, values in _host.build_troubles(*seen, facts.app, facts.settings, trusted)
    ]


def problems(findings: Iterable[Finding]) -> List[Finding]:
    return [finding for finding in findings if finding.level == PROBLEM]


def refusal(app: str, found: Iterable[Finding]) -> str:
    """The problems as one message, each with its fix."""
    lines = ["{0} {1}".format(finding.sentence, finding.fix) for finding in found]
    if len(lines) == 1:
        return lines[0]
    return "{0} things stop previews of {1}:\n".format(len(lines), app) + "\n".join(
        "- " + line for line in lines
    )


def table(app: str, findings: Iterable[Finding]) -> List[str]:
    """The findings of one app for a person, one or two lines each."""
    marks = {OK: "✓", WARNING: "!", PROBLEM: "✗"}
    lines = [app]
    for finding in findings:
        lines.append("  {0} {1}".format(marks[finding.level], finding.sentence))
        if finding.fix:
            lines.append("    → {0}".format(finding.fix))
    return lines


def summary(findings: Iterable[Finding]) -> str:
    """How many problems and warnings, in words."""
    levels = [finding.level for finding in findings]
    counts = [(levels.count(level), level) for level in (PROBLEM, WARNING)]
    return ", ".join(
        "{0} {1}{2}".format(count or "no", level, "" if count == 1 else "s")
        for count, level in counts
    )


def _ok(check: str, sentence: str) -> Finding:
    return Finding(check, OK, _plain(sentence), "")


def _trouble(facts: Facts, trouble: str, **values: Any) -> Finding:
    level, sentence, fix = TROUBLES[trouble]
    user = facts.machine.user if facts.machine else ""
    known = dict({"app": facts.app, "where": facts.where, "user": user}, **values)
    if str(known.get("said", ".")).strip()[-1:] not in (".", "!", "?", ")"):
        known["said"] = str(known["said"]).strip() + "."
    return Finding(trouble, level, _plain(sentence.format(**known)), _plain(fix.format(**known)))


def _plain(text: str) -> str:
    """One line that a terminal and CI can be given, starting with a capital."""
    line = re.sub(r"\s+", " ", _announce.harmless(text)).strip()
    return line[:1].upper() + line[1:] if re.match(r"(the|this) ", line) else line


def _version(text: str) -> Tuple[int, int]:
    numbers = re.search(r"(\d+)\.(\d+)", text)
    return (int(numbers.group(1)), int(numbers.group(2))) if numbers else (0, 0)


def _short(version: Tuple[int, int]) -> str:
    return "{0}.{1}".format(*version)


def _amount(size: int) -> str:
    return (
        "{0} MiB".format(size >> 20) if size < GIBIBYTE else "{0:.1f} GiB".format(size / GIBIBYTE)
    )


def _settings(facts: Facts) -> Iterator[Finding]:
    for said in facts.refused:
        yield _trouble(facts, "settings.refused", said=said)
    for name, said in sorted(facts.unreadable.items()):
        yield _trouble(facts, "settings.unreadable", name=name, said=said)
    if not facts.refused and not facts.unreadable:
        yield _ok("settings", "Every setting is known and of its type.")


def _secrets(facts: Facts) -> Iterator[Finding]:
    key = facts.settings["preview_secret_key"]
    if key and len(set(key)) < 8:
        yield _trouble(facts, "secrets.weak", distinct=len(set(key)))
    elif key:
        yield _ok("secrets", "preview_secret_key is long and varied enough.")


def _ansible(facts: Facts) -> Iterator[Finding]:
    troubled = False
    if _version(facts.core) < CORE_MINIMUM:
        troubled = True
        yield _trouble(facts, "ansible.old", version=facts.core, minimum=_short(CORE_MINIMUM))
    needed = _NEEDED_BY_TARGET[facts.settings["preview_target"]]
    for collection in facts.collections:
        if collection.fits:
            continue
        troubled = True
        yield _trouble(
            facts,
            "ansible.collection" if collection.name == needed else "ansible.spare",
            name=collection.name,
            wanted=collection.wanted,
            found="{0} is there".format(collection.found) if collection.found else "is not there",
        )
    if not troubled:
        names = ["{0} {1}".format(c.name, c.found) for c in facts.collections]
        yield _ok(
            "ansible", "ansible-core {0} runs this, with {1}.".format(facts.core, ", ".join(names))
        )


# What talks to a cluster is ours.
_NEEDED_BY_TARGET = {"docker": "community.docker", "kubernetes": ""}


def _connection(facts: Facts) -> Iterator[Finding]:
    if facts.unreachable:
        yield _trouble(facts, "connection.failed", said=facts.unreachable)
    elif facts.shell:
        yield _trouble(facts, "connection.shell", said=facts.shell)
    elif facts.machine:
        yield _ok("connection", "{0} is reached as {1}.".format(facts.where, facts.machine.user))


def _in_cluster(facts: Facts) -> bool:
    return bool(facts.settings["preview_target"] == "kubernetes")


def needs_no_engine(settings: Mapping[str, Any]) -> bool:
    """Whether a builder is named that pushes to a cluster's registry by itself."""
    named = settings["preview_buildx_builder"]
    return bool(settings["preview_target"] == "kubernetes" and named)


def _is_spare(facts: Facts) -> bool:
    """Whether there is no engine, and perhaps none is needed, as CI builds."""
    engine = facts.machine and facts.machine.answers
    return bool(_in_cluster(facts) and facts.settings["preview_images"] and not engine)


def _engine(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    if not machine or needs_no_engine(facts.settings):
        return
    if _is_spare(facts):
        yield _trouble(facts, "engine.spare")
        return
    minimum = _short(ENGINE_MINIMUM)
    if "docker" not in machine.commands:
        yield _trouble(facts, "engine.absent", minimum=minimum)
        return
    if not machine.answers:
        said = machine.said or "`docker info` had no answer within 20 s."
        denied = "permission denied" in said.lower()
        yield _trouble(facts, "engine.denied" if denied else "engine.silent", said=said)
        return
    version = machine.info["ServerVersion"]
    if _version(version) < ENGINE_MINIMUM:
        yield _trouble(facts, "engine.old", version=version, minimum=minimum)
    else:
        yield _ok("engine", "Docker Engine {0} answers on {1}.".format(version, facts.where))
    enforced = (("memory", "MemoryLimit"), ("CPUs", "CpuCfsQuota"), ("processes", "PidsLimit"))
    unlimited = [what for what, key in enforced if machine.info.get(key) is False]
    if unlimited:
        yield _trouble(facts, "engine.limits", what=" and ".join(unlimited))
    drivers = (machine.info.get("Plugins") or {}).get("Log") or []
    driver = facts.settings["preview_log_driver"]
    if drivers and driver not in drivers:
        yield _trouble(facts, "engine.log", driver=driver, known=", ".join(drivers))


def _compose(facts: Facts) -> Iterator[Finding]:
    machine, python = facts.machine, facts.python
    # In a cluster nothing is started by Compose: it only reads definitions.
    knows = python and not python.said if _in_cluster(facts) else machine and machine.info
    if not machine or not knows:
        return
    plugin = None if _in_cluster(facts) else machine.plugin("compose")
    programs = {plugin.get("Path", "docker compose"): plugin["Version"]} if plugin else {}
    if python and python.compose[1] and (programs or _in_cluster(facts)):
        programs[python.compose[0]] = python.compose[1]
    if not programs:
        yield _trouble(facts, "compose.absent")
    for program, version in programs.items():
        if _version(version) < COMPOSE_MINIMUM:
            yield _trouble(
                facts,
                "compose.old",
                version=version,
                program=program,
                minimum=_short(COMPOSE_MINIMUM),
            )
        else:
            yield _ok("compose", "Compose {0} is at {1}.".format(version, program))


def _buildx(facts: Facts) -> Iterator[Finding]:
    machine, named = facts.machine, needs_no_engine(facts.settings)
    # Without the docker command, the check of the engine tells; where that is not looked at, we do.
    if not machine or not (machine.info or named) or (_is_spare(facts) and not named):
        return
    plugin = machine.plugin("buildx")
    if not plugin:
        yield _trouble(facts, "buildx.absent")
        return
    yield _ok("buildx", "buildx {0} is at {1}.".format(plugin["Version"], plugin.get("Path")))
    if machine.builder is not None:
        yield _builder(facts, machine.builder)


def _builder(facts: Facts, said: str) -> Finding:
    """What is made of `docker buildx inspect`, its lines parted by |."""
    name = facts.settings["preview_buildx_builder"]
    if "no builder " in said:
        return _trouble(facts, "buildx.unknown", builder=name)
    driver, error = _docker.driver(said), re.search(r"Error: +([^|]*)", said, re.I)
    # Other drivers start theirs with the first build.
    away = driver == "remote" and not re.search(r"Status: +running", said)
    if error or away or not driver:
        why = error.group(1) if error else said and "it is inactive" or "no answer within 20 s"
        return _trouble(facts, "buildx.silent", builder=name, said=why)
    return _ok("buildx", "The builder {0} is one of {1}.".format(name, facts.where))


def _python(facts: Facts) -> Iterator[Finding]:
    python = facts.python
    if not python:
        return
    if python.said:
        yield _trouble(facts, "python.absent", said=python.said)
        return
    if not python.missing:
        yield _ok(
            "python",
            "{0} ({1}) on {2} has what programs of the collection need.".format(
                python.executable, python.version, facts.where
            ),
        )
        return
    lacking = [LIBRARIES[name] for name in sorted(python.missing)]
    yield _trouble(
        facts,
        "python.libraries",
        executable=python.executable,
        libraries=" and ".join("{0} {1}".format(one.pip, one.purpose) for one in lacking),
        packages=" ".join(one.package for one in lacking),
        pip=" ".join(one.pip for one in lacking),
    )


def _commands(facts: Facts) -> Iterator[Finding]:
    if not facts.machine:
        return
    needed = dict(COMMANDS)
    if facts.settings["preview_gateway_tls"] == "selfsigned":
        needed["openssl"] = "openssl"
    lacking = sorted(set(needed) - facts.machine.commands)
    if lacking:
        yield _trouble(
            facts,
            "commands.absent",
            commands=", ".join(lacking),
            packages=" ".join(sorted({needed[name] for name in lacking})),
        )
    else:
        yield _ok("commands", "The commands that stages run are on {0}.".format(facts.where))


def _git(facts: Facts) -> Iterator[Finding]:
    if not facts.machine:
        return
    if "git" not in facts.machine.commands:
        yield _trouble(facts, "git.absent")
        return
    version = facts.python.git if facts.python else ""
    if version and _version(version) < GIT_MINIMUM:
        yield _trouble(facts, "git.old", version=version, minimum=_short(GIT_MINIMUM))
    elif version:
        yield _ok("git", "git {0} is on {1}.".format(version, facts.where))


def _state(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    if not machine or not machine.state:
        return
    state, path = machine.state, facts.settings["preview_state_dir"]
    disk = machine.disks.get("state")
    if not state.folder:
        yield _trouble(facts, "state.blocked", path=path, at=state.at)
        return
    # The kernel's own file systems say yes to root and then make no folder.
    if not state.writable or (disk and disk.type in VIRTUAL):
        yield _trouble(facts, "state.unwritable", path=path, at=state.at)
        return
    if state.at == path and state.mode[-2:] not in ("00", ""):
        yield _trouble(facts, "state.open", path=path, mode=state.mode)
    # In a cluster the previews themselves know what they are.
    if disk and disk.type in ("tmpfs", "ramfs") and not _in_cluster(facts):
        yield _trouble(facts, "state.fleeting", path=path, type=disk.type)
        return
    yield _ok(
        "state",
        "{0} on {1} can be written{2}.".format(
            path, facts.where, ", on the disk of " + disk.mount if disk else ""
        ),
    )


def _disk(facts: Facts) -> Iterator[Finding]:
    if not facts.machine:
        return
    what = {"state": "previews' state", "docker": "images and volumes"}
    by_mount: Dict[str, List[str]] = {}
    for key, disk in sorted(facts.machine.disks.items()):
        by_mount.setdefault(disk.mount, []).append(key)
    for mount, keys in by_mount.items():
        free = facts.machine.disks[keys[0]].free
        # State alone is small.
        virtual = facts.machine.disks[keys[0]].type in VIRTUAL
        if virtual or ("docker" not in keys and free >= DISK_NEEDED):
            continue
        values = {
            "free": _amount(free),
            "what": " and ".join(what[key] for key in keys),
            "mount": mount,
            "needed": _amount(DISK_NEEDED),
        }
        if free < DISK_WANTED:
            yield _trouble(facts, "disk.full" if free < DISK_NEEDED else "disk.low", **values)
        else:
            yield _ok("disk", "{free} are free for {what} ({mount}).".format(**values))


def _memory(facts: Facts) -> Iterator[Finding]:
    if not facts.machine or "available" not in facts.machine.memory:
        return
    free, total = facts.machine.memory["available"], facts.machine.memory.get("total", 0)
    size = facts.settings["preview_size"]
    wanted = 4 * (in_bytes(facts.settings["preview_sizes"][size]["memory"]) or 0)
    values = {"free": _amount(free), "total": _amount(total), "size": size}
    if free < MEMORY_NEEDED:
        yield _trouble(facts, "memory.full", needed=_amount(MEMORY_NEEDED), **values)
    elif free < wanted:
        yield _trouble(facts, "memory.low", wanted=_amount(wanted), **values)
    else:
        yield _ok(
            "memory",
            "{0} of {1} memory are free on {2}.".format(
                values["free"], values["total"], facts.where
            ),
        )


def _subnets(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    if not machine or not machine.answers:
        return
    pools = [ipaddress.IPv4Network(text) for text in facts.settings["preview_docker_subnets"]]
    inside = [
        (network, subnet)
        for network in machine.networks
        for subnet in _ipv4(network.subnets)
        if any(subnet.overlaps(pool) for pool in pools)
    ]
    free, total = _free([subnet for _network, subnet in inside], pools)
    values = {
        "pools": ", ".join(str(pool) for pool in pools),
        "free": free,
        "total": total,
        "previews": free // 2,
    }
    names = [network.name for network, _subnet in inside]
    troubled = False
    needed = 2 if _docker.GATEWAY in names else 3
    if free < needed:
        troubled = True
        taken_by = _some(names) or "none"
        yield _trouble(facts, "subnets.used", names=taken_by, needed=needed, **values)
    elif free < SUBNETS_WANTED:
        troubled = True
        yield _trouble(facts, "subnets.few", **values)
    if not machine.gateway:
        home = ipaddress.IPv4Network(_route.gateway_network([str(p) for p in pools])["subnet"])
        takers = [network.name for network, subnet in inside if subnet.overlaps(home)]
        if takers:
            troubled = True
            yield _trouble(facts, "subnets.gateway", subnet=home, names=" ".join(takers))
    foreign = [n.name for n, _subnet in inside if not n.preview and n.name != _docker.GATEWAY]
    if foreign:
        troubled = True
        yield _trouble(facts, "subnets.foreign", names=_some(foreign))
    for finding in _routes(facts, machine, pools):
        troubled = True
        yield finding
    if not troubled:
        yield _ok(
            "subnets",
            "{free} of {total} subnets of preview_docker_subnets ({pools}) are free.".format(
                **values
            ),
        )


def _routes(
    facts: Facts, machine: Machine, pools: List[ipaddress.IPv4Network]
) -> Iterator[Finding]:
    bridges = {subnet for network in machine.networks for subnet in _ipv4(network.subnets)}
    for interface, text in machine.routes:
        route = ipaddress.IPv4Network(text)
        if route in bridges:
            continue
        for pool in pools:
            if route.overlaps(pool):
                wider = route.prefixlen < pool.prefixlen
                yield _trouble(
                    facts,
                    "subnets.shadow" if wider else "subnets.route",
                    network=route,
                    interface=interface,
                    pool=pool,
                )


def _ipv4(subnets: Iterable[str]) -> List[ipaddress.IPv4Network]:
    return [ipaddress.IPv4Network(text, strict=False) for text in subnets if "." in text]


def _free(
    taken: List[ipaddress.IPv4Network], pools: List[ipaddress.IPv4Network]
) -> Tuple[int, int]:
    """How many subnets of a preview's size are free in the pools, and how many there are."""
    size = 1 << (32 - _route.NETWORK_PREFIX)
    free = total = 0
    for pool in pools:
        count = pool.num_addresses // size
        start = int(pool.network_address)
        used: Set[int] = set()
        for subnet in taken:
            if subnet.overlaps(pool):
                first = max(int(subnet.network_address) - start, 0) // size
                last = min((int(subnet.broadcast_address) - start) // size, count - 1)
                used.update(range(first, last + 1))
        total += count
        free += count - len(used)
    return free, total


def _some(names: List[str]) -> str:
    unique = sorted(set(names))
    more = ", and {0} more".format(len(unique) - 5) if len(unique) > 5 else ""
    return ", ".join(unique[:5]) + more


def _gateway(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    if not machine or not machine.answers:
        return
    gateway = machine.gateway
    troubled = False
    standing = (gateway.state, gateway.health, gateway.ours) if gateway else (None,)
    for trouble, values in _host.gateway_troubles(*standing):
        troubled = True
        yield _trouble(facts, trouble, **values)
    if not gateway or troubled:
        return
    for setting, address, port in wanted_ports(facts.settings):
        if port not in gateway.ports:
            troubled = True
            yield _trouble(facts, "gateway.ports", setting=setting, address=address, port=port)
    edges = {n.name for n in machine.networks if n.preview and n.name == n.preview + "_edge"}
    cut_off = sorted(edges - set(gateway.networks))
    if cut_off:
        troubled = True
        yield _trouble(facts, "gateway.detached", networks=_some(cut_off))
    if not troubled:
        ports = " and ".join(str(port) for _s, _a, port in wanted_ports(facts.settings)[:-1])
        yield _ok(
            "gateway", "The gateway runs on {0} and listens on port {1}.".format(facts.where, ports)
        )


def _ports(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    if not machine:
        return
    # Its own ports are taken, and by whom they shall be.
    own = machine.gateway.ports if machine.gateway and machine.gateway.ours else ()
    free = []
    for setting, address, port in wanted_ports(facts.settings):
        if port in own:
            continue
        if any(port == taken and _clash(address, place) for place, taken in machine.listeners):
            holder = machine.holders.get(port, "another program")
            # Without an answer from the engine nobody knows whether it is the gateway.
            if not machine.answers and holder.startswith(("another", "docker")):
                continue
            yield _trouble(facts, "ports.taken", port=port, setting=setting, holder=holder)
        else:
            free.append(str(port))
    if free:
        yield _ok(
            "ports", "Free for the gateway on {0}: port {1}.".format(facts.where, ", ".join(free))
        )


def _clash(address: str, place: str) -> bool:
    """Whether one who listens at ``place`` keeps another from listening on ``address``."""
    given = ipaddress.ip_address(address)
    mine = "any" if given.is_unspecified else "loopback" if given.is_loopback else "other"
    return "any" in (mine, place) or mine == place


def _nftables(machine: Machine) -> bool:
    driver = (machine.info.get("FirewallBackend") or {}).get("Driver") or ""
    return str(driver).startswith("nftables")


def _isolation(facts: Facts) -> Iterator[Finding]:
    machine, settings = facts.machine, facts.settings
    if not machine or not (machine.answers or needs_no_engine(settings)):
        return
    # In a cluster network policies keep previews.
    kept = "builds" if _in_cluster(facts) else "previews and builds"
    if not settings["preview_isolation"]:
        said = "preview_isolation is off: {0} reach the networks around {1}."
        yield _ok("firewall", said.format(kept, facts.where))
    elif _nftables(machine) and _host.needs_firewall(machine.builder or "", settings):
        yield _trouble(facts, "firewall.nftables")
    else:
        seen = machine.firewall, machine.builder or ""
        troubled = glance_at_builder(seen, facts, trusted=False)
        if _in_cluster(facts) and settings["preview_images"]:
            # It may be that nothing is built here.
            troubled = [finding._replace(level=WARNING) for finding in troubled]
        said = "Rules on {0} keep {1} from the networks around it."
        yield from troubled or [_ok("firewall", said.format(facts.where, kept))]


def _cluster(facts: Facts) -> Iterator[Finding]:
    cluster = facts.cluster
    if not cluster:
        return
    values = {"server": cluster.server, "version": cluster.version, "said": cluster.said}
    if not cluster.library:
        wanted = CLUSTER_LIBRARIES.values()
        packages = " ".join(one.package for one in wanted)
        pip = " ".join(one.pip for one in wanted)
        yield _trouble(facts, "cluster.library", packages=packages, pip=pip, **values)
    elif cluster.said:
        yield _trouble(facts, "cluster.silent", **values)
    elif _version(cluster.version) < KUBERNETES_MINIMUM:
        yield _trouble(facts, "cluster.old", minimum=_short(KUBERNETES_MINIMUM), **values)
    else:
        yield _ok("cluster", "Kubernetes {version} answers at {server}.".format(**values))


def _answering(facts: Facts) -> Optional[Cluster]:
    return facts.cluster if facts.cluster and not facts.cluster.said else None


def _rights(facts: Facts) -> Iterator[Finding]:
    cluster = _answering(facts)
    if not cluster:
        return
    if cluster.missing:
        rights = ", ".join(cluster.missing)
        yield _trouble(facts, "rights.missing", rights=rights, server=cluster.server)
    else:
        yield _ok("rights", "The account may do all that previews need.")


def _ingress(facts: Facts) -> Iterator[Finding]:
    cluster = _answering(facts)
    if not cluster:
        return
    if cluster.ingress_said:
        yield _trouble(facts, "ingress.unserved", said=cluster.ingress_said)
    elif cluster.ingress:
        said = "The ingress class {0} is served by {1}."
        yield _ok("ingress", said.format(*cluster.ingress))


def _storage(facts: Facts) -> Iterator[Finding]:
    cluster = _answering(facts)
    if not cluster or cluster.classes is None:
        return
    name, known = facts.settings["preview_storage_class"], ", ".join(cluster.classes) or "none"
    if name and name not in cluster.classes:
        yield _trouble(facts, "storage.unknown", name=name, known=known)
    elif not name and not cluster.default:
        yield _trouble(facts, "storage.default", known=known)
    else:
        yield _ok(
            "storage", "Volumes are of the storage class {0}.".format(name or cluster.default)
        )


def _metrics(facts: Facts) -> Iterator[Finding]:
    cluster = _answering(facts)
    if not cluster:
        return
    if cluster.metrics:
        yield _ok("metrics", "The cluster has the metrics that x-preview.autoscale needs.")
    else:
        yield _trouble(facts, "metrics.absent")


def _policies(facts: Facts) -> Iterator[Finding]:
    cluster = _answering(facts)
    if not cluster:
        return
    if cluster.enforced:
        yield _ok("policies", "The cluster enforces network policies.")
    elif cluster.enforced is False:
        yield _trouble(facts, "policies.open")
    elif cluster.policies_said:
        yield _trouble(facts, "policies.unknown", said=cluster.policies_said)
    elif cluster.missing:
        yield _trouble(facts, "policies.untried")


def _clock(facts: Facts) -> Iterator[Finding]:
    if not facts.machine or not facts.machine.now or not facts.clock:
        return
    ahead = facts.machine.now - facts.clock
    if abs(ahead) > SKEW:
        yield _trouble(
            facts,
            "clock.skew",
            seconds=round(abs(ahead)),
            direction="ahead of" if ahead > 0 else "behind",
        )
    else:
        yield _ok("clock", "The clocks of {0} and this controller agree.".format(facts.where))


def _dns(facts: Facts) -> Iterator[Finding]:
    name = facts.name
    if not name:
        return
    values = {"host": name.host, "domain": name.domain, "said": name.said}
    reached = facts.endpoint is not None and facts.endpoint.ours
    if name.domain == "localhost" or name.domain.endswith(".localhost"):
        if facts.local or reached:
            yield _ok("dns", "Previews lie under {0}, on this machine.".format(name.domain))
        else:
            yield _trouble(facts, "dns.localhost", **values)
    elif not name.addresses:
        sslip = name.domain.endswith(".sslip.io")
        yield _trouble(facts, "dns.sslip" if sslip else "dns.unresolved", **values)
    elif reached or facts.cluster or set(name.addresses) & _addresses(facts):
        yield _ok("dns", "{0} leads to {1}.".format(name.host, ", ".join(name.addresses)))
    else:
        yield _trouble(facts, "dns.elsewhere", addresses=", ".join(name.addresses), **values)


def _addresses(facts: Facts) -> Set[str]:
    """What is known to be an address of the host."""
    known = {facts.where, facts.settings["preview_host_ip"]}
    if facts.machine:
        known.update(facts.machine.addresses)
    if facts.local:
        known.update(("127.0.0.1", "::1"))
    return known


def _endpoint(facts: Facts) -> Iterator[Finding]:
    endpoint = facts.endpoint
    # Without a gateway, or a name that leads to it, the cause has been told.
    if not endpoint:
        return
    values = {"url": endpoint.url, "port": endpoint.port, "status": endpoint.status}
    if endpoint.ours:
        yield _ok("endpoint", "{0} is answered by the gateway.".format(endpoint.url))
    elif endpoint.status:
        domain = facts.name.domain if facts.name else ""
        yield _trouble(facts, "endpoint.stranger", domain=domain, **values)
    else:
        yield _trouble(facts, "endpoint.closed", said=endpoint.said, **values)


def _certificate(facts: Facts) -> Iterator[Finding]:
    domain = facts.name.domain if facts.name else facts.settings["preview_domain"]
    for certificate in facts.certificates:
        values = {"source": certificate.source, "domain": domain}
        if certificate.said:
            yield _trouble(facts, "certificate.unusable", said=certificate.said, **values)
            continue
        if certificate.default:
            yield _trouble(facts, "certificate.pending", **values)
            continue
        left = certificate.not_after - facts.clock
        values["date"] = _date(certificate.not_after)
        if left <= 0:
            yield _trouble(facts, "certificate.expired", **values)
        elif "*." + domain not in certificate.names:
            names = _some(list(certificate.names)) or "no host"
            yield _trouble(facts, "certificate.names", names=names, **values)
        elif certificate.untrusted:
            yield _trouble(facts, "certificate.untrusted", said=certificate.untrusted, **values)
        elif left < EXPIRY:
            yield _trouble(facts, "certificate.expiring", days=int(left // 86400), **values)
        else:
            yield _ok(
                "certificate",
                "The certificate {source} for *.{domain} is good until {date}.".format(**values),
            )


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def _ca(facts: Facts) -> Iterator[Finding]:
    path = facts.settings["preview_ca_file"]
    if facts.ca:
        yield _trouble(facts, "ca.unreadable", path=path, said=facts.ca)
    elif path:
        yield _ok("ca", "{0} holds certificates to trust.".format(path))


def _registries(facts: Facts) -> Iterator[Finding]:
    for login in facts.logins:
        values = {"registry": login.registry, "username": login.username, "said": login.said}
        if not login.said:
            yield _ok("registry", "{registry} lets {username} in.".format(**values))
        elif not login.password:
            yield _trouble(facts, "registry.password", **values)
        elif re.search(r"(?i)401|403|unauthori[sz]ed|denied|incorrect username", login.said):
            yield _trouble(facts, "registry.refused", **values)
        elif re.search(r"(?i)x509|certificate|HTTP response to HTTPS", login.said):
            yield _trouble(facts, "registry.untrusted", **values)
        else:
            yield _trouble(facts, "registry.unreachable", **values)


def _repository(facts: Facts) -> Iterator[Finding]:
    repository = facts.settings["preview_repository"]
    if not repository:
        yield _trouble(facts, "repository.unset")
    elif facts.python and facts.python.repository:
        yield _trouble(facts, "repository.refused", said=facts.python.repository)
    elif facts.python and facts.python.repository is not None:
        yield _ok("repository", "{0} can be read from {1}.".format(repository, facts.where))


CHECKS: Tuple[Check, ...] = (
    Check("settings", (CONTROLLER,), "every `preview_*` variable of the app", _settings),
    Check("secrets", (CONTROLLER,), "preview_secret_key", _secrets),
    Check("ansible", (CONTROLLER,), "ansible-core and the collections ours needs", _ansible),
    Check("ca", (CONTROLLER,), "preview_ca_file", _ca),
    Check("connection", (HOST, BUILDER), "that Ansible gets there", _connection),
    Check("engine", (HOST, BUILDER), "the Docker engine: there, ours to use, new enough", _engine),
    Check("compose", (HOST, BUILDER), "Docker Compose, and where it is", _compose),
    Check("buildx", (BUILDER,), "buildx, and preview_buildx_builder", _buildx),
    Check("python", (HOST, BUILDER), "Python and the libraries that it needs", _python),
    Check("commands", (HOST,), "the commands that stages run", _commands),
    Check("git", (BUILDER,), "git", _git),
    Check("state", (HOST, BUILDER), "preview_state_dir: can be written, and on which disk", _state),
    Check("disk", (HOST, BUILDER), "free disk for images, volumes and state", _disk),
    Check("memory", (HOST,), "free memory", _memory),
    Check(
        "subnets",
        (HOST,),
        "free subnets of preview_docker_subnets, and who else uses them",
        _subnets,
    ),
    Check("gateway", (HOST,), "the gateway: there, running, attached to every preview", _gateway),
    Check("ports", (HOST,), "the gateway's ports, where it does not hold them", _ports),
    Check("firewall", (HOST, BUILDER), "the rules of preview_isolation", _isolation),
    Check(
        "cluster", (CLUSTER,), "the API server: there, new enough; the library to ask it", _cluster
    ),
    Check("rights", (CLUSTER,), "each right that examples/kubernetes/rbac.yaml grants", _rights),
    Check("ingress", (CLUSTER,), "the ingress class, and who serves it", _ingress),
    Check("storage", (CLUSTER,), "the storage class of volumes", _storage),
    Check("metrics", (CLUSTER,), "metrics, for x-preview.autoscale", _metrics),
    Check("policies", (CLUSTER,), "that network policies are enforced, by trying", _policies),
    Check("clock", (HOST,), "the host's clock against the controller's", _clock),
    Check("dns", (CONTROLLER,), "a random name under the domain, from the controller", _dns),
    Check("endpoint", (CONTROLLER,), "that name by HTTP, from the controller", _endpoint),
    Check("certificate", (CONTROLLER,), "the certificate given, and the one served", _certificate),
    Check("registry", (HOST, BUILDER), "a login to each of preview_registries", _registries),
    Check("repository", (BUILDER,), "the repository, read as `up` reads it", _repository),
)

ESSENTIAL = ("connection", "engine", "compose", "buildx", "python", "commands", "state")
"""What a run looks at when the engine could not be asked."""
