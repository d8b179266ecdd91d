# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pull request's Compose file may say: one table, and the walk that holds a file against it.

The table is an allow-list at every depth. A key is taken over (``take``), left out with a note
(``leave``) or refused (``refuse``); one that is not in the table is refused too. The same table
screens the author's own file, before variables are filled in, and Compose's normal form of it.
What ``screen`` returns holds only what was taken over. Pure: paths are judged as text here, and
by what lies there in ``_checkout``.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils._checks import (
    CHECK_MIN,
    PORTS_MAX,
    Check,
    Images,
    Policy,
    argument,
    argument_name,
    assignment,
    between,
    boolean,
    build_secret,
    capability_text,
    duration,
    environment_secret,
    expose_text,
    host_address,
    host_entry,
    host_name,
    image,
    inner_path,
    label_keys,
    literal_boolean,
    local,
    mapping_only,
    mode_text,
    mount,
    mount_of,
    name_or_variable,
    number_text,
    object_name,
    one_of,
    port_number,
    port_text,
    profile_text,
    restart_text,
    scalar,
    service_name,
    signal_text,
    size,
    stage_text,
    text,
    tmpfs_text,
    together,
    ulimit_name,
    ulimits,
    user_text,
    variable_name,
    volume_text,
)
from ansible_collections.ephemera.preview.plugins.module_utils._refusal import (
    SHOWN,
    Path,
    key_path,
    plain,
    shown,
)

SERVICES_MAX = 50
REPLICAS_MAX = 10
CONTAINERS_MAX = 100
SHM_MAX = 2 << 30
GRACE_MAX = 600
SETTING = "preview_compose_allow"


class Rule(NamedTuple):
    """One line of the table. ``allow`` is the exception's name in ``preview_compose_allow``."""

    verdict: str
    check: Optional[Check] = None
    whole: Optional[Check] = None
    names: Optional[Check] = None
    empty: bool = False
    why: str = ""
    fix: str = ""
    allow: str = ""
    unless: Tuple[Any, ...] = ()


_NEVER = "No setting allows it"


def take(
    check: Optional[Check] = None,
    whole: Optional[Check] = None,
    names: Optional[Check] = None,
    empty: bool = False,
) -> Rule:
    """Taken over. ``check`` judges a scalar, ``whole`` a mapping, ``names`` a mapping's keys;
    ``empty`` means that a key without a value says something too."""
    return Rule("take", check, whole, names, empty)


def leave(why: str = "", check: Optional[Check] = None, unless: Tuple[Any, ...] = ()) -> Rule:
    """Left out, with ``why`` as a note; ``unless`` lists values that need no note."""
    return Rule("leave", check, why=why, unless=unless)


def refuse(why: str, fix: str = "", allow: str = "", unless: Tuple[Any, ...] = ()) -> Rule:
    """Refused; ``unless`` lists values that ask for nothing, besides false and empty ones."""
    return Rule("refuse", why=why, fix=fix or _NEVER, allow=allow, unless=unless)


# -- the table ----------------------------------------------------------------------------------

_HOST = "it opens the host to the container"
_DEVICE = "it gives the container a device of the host"
_JOIN = "a preview's containers share nothing with others or the host"
_PLATFORM = "the platform chooses it"
_LIMITS = "limits are set by deploy.resources.limits, mem_limit, cpus and pids_limit"
_NETWORK = "every service of a preview is on its one network, under the service's name"
_OWN_NAME = "names are the platform's, or one preview could use what belongs to another"
_DRIVER = "drivers and their options reach beyond the preview"
_SWARM = "it concerns Swarm only"
_PULLED = "only what is in the repository and what the platform grants enters a build"
_HOOK = "Use migrate, seed, after_deploy or before_down under x-preview"
_ONE_FILE = (
    "Copy what it names into this file, or let preview_compose_file name a file that holds all "
    "(docker compose config writes one)"
)

RULES: Dict[str, Rule] = {
    # -- top level
    "version": leave(),
    "name": leave("previews are named by the platform"),
    "include": refuse("a preview reads one file", _ONE_FILE),
    "models": refuse("no models are provided to previews"),
    "services": take(names=service_name),
    "networks": take(names=object_name),
    "volumes": take(names=object_name),
    "configs": take(names=object_name),
    "secrets": take(names=object_name),
    # -- a service: what runs
    "services.*": take(mapping_only),
    "services.*.image": take(image),
    "services.*.command": take(text),
    "services.*.command[]": take(scalar),
    "services.*.entrypoint": take(text),
    "services.*.entrypoint[]": take(scalar),
    "services.*.environment": take(names=variable_name),
    "services.*.environment.*": take(scalar, empty=True),
    "services.*.environment[]": take(assignment),
    "services.*.env_file": take(local),
    "services.*.env_file[]": take(local),
    "services.*.env_file[].path": take(local),
    "services.*.env_file[].format": take(one_of("raw")),
    "services.*.env_file[].required": take(literal_boolean),
    "services.*.label_file": refuse("labels of containers are the platform's", "Remove it"),
    "services.*.user": take(user_text),
    "services.*.working_dir": take(inner_path),
    "services.*.init": take(boolean),
    "services.*.tty": take(boolean),
    "services.*.stdin_open": take(boolean),
    "services.*.read_only": take(boolean),
    "services.*.stop_signal": take(signal_text),
    "services.*.stop_grace_period": take(duration(most=GRACE_MAX)),
    "services.*.profiles": take(),
    "services.*.profiles[]": take(profile_text),
    "services.*.platform": leave("previews run on the host's own platform"),
    "services.*.pull_policy": leave(_PLATFORM),
    "services.*.pull_refresh_after": leave(_PLATFORM),
    "services.*.restart": take(restart_text),
    "services.*.attach": leave(),
    "services.*.container_name": leave(
        "containers are named by the platform; services reach each other by service name"
    ),
    "services.*.hostname": leave("services reach each other by service name"),
    "services.*.domainname": leave("services reach each other by service name"),
    "services.*.labels": leave("labels of containers are the platform's", label_keys),
    "services.*.annotations": leave("labels of containers are the platform's", label_keys),
    "services.*.logging": leave("logs are kept by the platform"),
    "services.*.develop": leave("it is for work on a laptop"),
    "services.*.extends": refuse(
        "a preview reads one file and each service as it stands there",
        "Use a YAML anchor (x-base: &base, then <<: *base)",
    ),
    # -- a service: its build
    "services.*.build": take(local, whole=together),
    "services.*.build.context": take(local),
    "services.*.build.dockerfile": take(local),
    "services.*.build.dockerfile_inline": take(text),
    "services.*.build.target": take(stage_text),
    "services.*.build.args": take(names=argument_name),
    "services.*.build.args.*": take(scalar, empty=True),
    "services.*.build.args[]": take(argument),
    "services.*.build.additional_contexts": take(names=object_name),
    "services.*.build.additional_contexts.*": take(local),
    "services.*.build.additional_contexts[]": refuse("it must be a mapping", "Write name: path"),
    "services.*.build.secrets": take(),
    "services.*.build.secrets[]": take(build_secret),
    "services.*.build.secrets[].source": take(build_secret),
    "services.*.build.secrets[].target": take(text),
    "services.*.build.secrets[].uid": leave(_PLATFORM),
    "services.*.build.secrets[].gid": leave(_PLATFORM),
    "services.*.build.secrets[].mode": leave(_PLATFORM),
    "services.*.build.no_cache": leave(_PLATFORM),
    "services.*.build.no_cache_filter": leave(_PLATFORM),
    "services.*.build.pull": leave(_PLATFORM),
    "services.*.build.platforms": leave("previews are built for the host's own platform"),
    "services.*.build.provenance": leave(_PLATFORM),
    "services.*.build.sbom": leave(_PLATFORM),
    "services.*.build.shm_size": leave("the platform limits builds"),
    "services.*.build.ulimits": leave("the platform limits builds"),
    "services.*.build.isolation": leave(_PLATFORM),
    "services.*.build.ssh": refuse(_PULLED),
    "services.*.build.entitlements": refuse(_HOST),
    "services.*.build.privileged": refuse(_HOST),
    "services.*.build.network": refuse("builds use the platform's network", unless=("default",)),
    "services.*.build.extra_hosts": refuse("builds use the platform's network"),
    "services.*.build.labels": refuse(
        "labels of images are the platform's", "Write them into the Dockerfile"
    ),
    "services.*.build.tags": refuse("images are named by the platform", "Remove it"),
    "services.*.build.cache_from": refuse("the build cache is the platform's", "Remove it"),
    "services.*.build.cache_to": refuse("the build cache is the platform's", "Remove it"),
    # -- a service: how others reach it
    "services.*.ports": take(),
    "services.*.ports[]": take(port_text),
    "services.*.ports[].target": take(port_number),
    "services.*.ports[].protocol": take(one_of("tcp", "udp")),
    "services.*.ports[].published": leave(
        "a preview takes no port of the host; its gateway leads to the service"
    ),
    "services.*.ports[].host_ip": leave(),
    "services.*.ports[].mode": leave(),
    "services.*.ports[].name": leave(),
    "services.*.ports[].app_protocol": leave(),
    "services.*.expose": take(),
    "services.*.expose[]": take(expose_text),
    "services.*.depends_on": take(names=service_name),
    "services.*.depends_on[]": take(service_name),
    "services.*.depends_on.*": take(mapping_only),
    "services.*.depends_on.*.condition": take(
        one_of("service_started", "service_healthy", "service_completed_successfully")
    ),
    "services.*.depends_on.*.required": take(literal_boolean),
    "services.*.depends_on.*.restart": leave(),
    "services.*.extra_hosts": take(names=host_name),
    "services.*.extra_hosts.*": take(host_address),
    "services.*.extra_hosts.*[]": take(host_address),
    "services.*.extra_hosts[]": take(host_entry),
    "services.*.networks": leave(_NETWORK, unless=(["default"], {"default": None})),
    "services.*.networks.*": leave(),
    "services.*.networks.*.aliases": refuse(
        "services are reached under their own names only", "Name the service so"
    ),
    "services.*.networks.*.interface_name": refuse(_NETWORK),
    "services.*.networks.*.ipv4_address": refuse("addresses are the platform's"),
    "services.*.networks.*.ipv6_address": refuse("addresses are the platform's"),
    "services.*.networks.*.link_local_ips": refuse("addresses are the platform's"),
    "services.*.networks.*.mac_address": refuse("addresses are the platform's"),
    "services.*.networks.*.driver_opts": refuse(_DRIVER),
    "services.*.networks.*.priority": leave(),
    "services.*.networks.*.gw_priority": leave(),
    "services.*.network_mode": refuse(_JOIN, unless=("bridge",)),
    "services.*.links": refuse(
        "services reach each other by service name",
        "Remove it; for the order of starting use depends_on",
    ),
    "services.*.external_links": refuse(_JOIN),
    "services.*.mac_address": refuse("addresses are the platform's"),
    "services.*.dns": refuse("names are resolved by the platform", allow="dns"),
    "services.*.dns_opt": refuse("names are resolved by the platform", allow="dns_opt"),
    "services.*.dns_search": refuse("names are resolved by the platform", allow="dns_search"),
    # -- a service: its files
    "services.*.volumes": take(),
    "services.*.volumes[]": take(volume_text, whole=mount),
    "services.*.volumes[].type": take(one_of("bind", "volume", "tmpfs")),
    "services.*.volumes[].source": take(text),
    "services.*.volumes[].target": take(inner_path),
    "services.*.volumes[].read_only": take(boolean),
    "services.*.volumes[].consistency": leave(),
    "services.*.volumes[].bind": leave(),
    "services.*.volumes[].bind.propagation": refuse(_HOST),
    "services.*.volumes[].bind.create_host_path": leave(),
    "services.*.volumes[].bind.recursive": leave(),
    "services.*.volumes[].bind.selinux": leave(),
    "services.*.volumes[].volume": take(),
    "services.*.volumes[].volume.nocopy": take(boolean),
    "services.*.volumes[].volume.labels": refuse("labels of volumes are the platform's"),
    "services.*.volumes[].volume.subpath": refuse("a volume is mounted as a whole"),
    "services.*.volumes[].tmpfs": take(),
    "services.*.volumes[].tmpfs.size": take(size()),
    "services.*.volumes[].tmpfs.mode": take(mode_text),
    "services.*.volumes[].image": refuse("images are not mounted in previews"),
    "services.*.volumes_from": refuse(_JOIN),
    "services.*.tmpfs": take(tmpfs_text),
    "services.*.tmpfs[]": take(tmpfs_text),
    "services.*.configs": take(),
    "services.*.configs[]": take(name_or_variable),
    "services.*.configs[].source": take(name_or_variable),
    "services.*.configs[].target": take(inner_path),
    "services.*.configs[].uid": take(number_text),
    "services.*.configs[].gid": take(number_text),
    "services.*.configs[].mode": take(mode_text),
    "services.*.secrets": take(),
    "services.*.secrets[]": take(name_or_variable),
    "services.*.secrets[].source": take(name_or_variable),
    "services.*.secrets[].target": take(text),
    "services.*.secrets[].uid": take(number_text),
    "services.*.secrets[].gid": take(number_text),
    "services.*.secrets[].mode": take(mode_text),
    # -- a service: its health
    "services.*.healthcheck": take(),
    "services.*.healthcheck.test": take(text),
    "services.*.healthcheck.test[]": take(scalar),
    "services.*.healthcheck.interval": take(duration(CHECK_MIN)),
    "services.*.healthcheck.timeout": take(duration()),
    "services.*.healthcheck.retries": take(between(0, 1000)),
    "services.*.healthcheck.start_period": take(duration()),
    "services.*.healthcheck.start_interval": take(duration(CHECK_MIN / 2)),
    "services.*.healthcheck.disable": take(boolean),
    # -- a service: its limits
    "services.*.scale": take(between(0, REPLICAS_MAX)),
    "services.*.mem_limit": take(size()),
    "services.*.cpus": take(between(0, 1024)),
    "services.*.pids_limit": take(between(-1, 1 << 22)),
    "services.*.shm_size": take(size(SHM_MAX)),
    "services.*.ulimits": take(names=ulimit_name, whole=ulimits),
    "services.*.ulimits.*": take(between(-1, 1 << 40)),
    "services.*.ulimits.*.soft": take(between(-1, 1 << 40)),
    "services.*.ulimits.*.hard": take(between(-1, 1 << 40)),
    "services.*.deploy": take(),
    "services.*.deploy.replicas": take(between(0, REPLICAS_MAX)),
    "services.*.deploy.resources": take(),
    "services.*.deploy.resources.limits": take(),
    "services.*.deploy.resources.limits.cpus": take(between(0, 1024)),
    "services.*.deploy.resources.limits.memory": take(size()),
    "services.*.deploy.resources.limits.pids": take(between(-1, 1 << 22)),
    "services.*.deploy.resources.reservations": take(),
    "services.*.deploy.resources.reservations.cpus": leave(_LIMITS),
    "services.*.deploy.resources.reservations.memory": leave(_LIMITS),
    "services.*.deploy.resources.reservations.devices": refuse(_DEVICE),
    "services.*.deploy.resources.reservations.generic_resources": refuse(_DEVICE),
    "services.*.deploy.mode": leave(_SWARM, unless=("replicated",)),
    "services.*.deploy.endpoint_mode": leave(_SWARM),
    "services.*.deploy.labels": leave(_SWARM, label_keys),
    "services.*.deploy.rollback_config": leave(_SWARM),
    "services.*.deploy.update_config": leave(_SWARM),
    "services.*.deploy.placement": leave(_SWARM),
    "services.*.deploy.restart_policy": leave("the platform restarts what ends"),
    "services.*.mem_reservation": leave(_LIMITS),
    "services.*.mem_swappiness": leave(_LIMITS),
    "services.*.memswap_limit": leave(_LIMITS),
    "services.*.cpu_count": leave(_LIMITS),
    "services.*.cpu_percent": leave(_LIMITS),
    "services.*.cpu_shares": leave(_LIMITS),
    "services.*.cpu_quota": leave(_LIMITS),
    "services.*.cpu_period": leave(_LIMITS),
    "services.*.cpu_rt_period": leave(_LIMITS),
    "services.*.cpu_rt_runtime": leave(_LIMITS),
    "services.*.cpuset": leave(_LIMITS),
    "services.*.blkio_config": leave(_LIMITS),
    "services.*.storage_opt": leave(_LIMITS),
    # -- a service: powers
    "services.*.cap_drop": take(),
    "services.*.cap_drop[]": take(capability_text),
    "services.*.cap_add": refuse(
        "it adds to what the container may do to the host", allow="cap_add"
    ),
    "services.*.sysctls": refuse("it changes the kernel's settings", allow="sysctls"),
    "services.*.group_add": refuse("it adds to the container's rights", allow="group_add"),
    "services.*.security_opt": refuse(
        _HOST, unless=(["no-new-privileges:true"], ["no-new-privileges"])
    ),
    "services.*.privileged": refuse(_HOST),
    "services.*.use_api_socket": refuse("whoever has the engine's socket is root on the host"),
    "services.*.ipc": refuse(_JOIN, unless=("private",)),
    "services.*.pid": refuse(_JOIN),
    "services.*.uts": refuse(_JOIN),
    "services.*.userns_mode": refuse(_HOST),
    "services.*.cgroup": refuse(_JOIN, unless=("private",)),
    "services.*.cgroup_parent": refuse(_HOST),
    "services.*.device_cgroup_rules": refuse(_DEVICE),
    "services.*.devices": refuse(_DEVICE),
    "services.*.gpus": refuse(_DEVICE),
    "services.*.runtime": refuse("containers are run by the platform's own runtime"),
    "services.*.isolation": leave(_PLATFORM),
    "services.*.credential_spec": refuse(_HOST),
    "services.*.oom_kill_disable": refuse("the host could run out of memory"),
    "services.*.oom_score_adj": refuse("the host could run out of memory"),
    "services.*.provider": refuse("it runs a program of the repository on the builder"),
    "services.*.models": refuse("no models are provided to previews"),
    "services.*.pre_start": refuse("commands run as the service itself", _HOOK),
    "services.*.post_start": refuse("commands run as the service itself", _HOOK),
    "services.*.pre_stop": refuse("commands run as the service itself", _HOOK),
    # -- networks: all become the preview's own
    "networks.*": leave(),
    "networks.*.name": refuse(_OWN_NAME, "Remove it"),
    "networks.*.external": refuse(_JOIN),
    "networks.*.driver": refuse(_DRIVER, unless=("bridge", "default")),
    "networks.*.driver_opts": refuse(_DRIVER),
    "networks.*.ipam": refuse("addresses are the platform's"),
    "networks.*.internal": leave("what a preview reaches outside is the platform's to say"),
    "networks.*.enable_ipv4": leave(),
    "networks.*.enable_ipv6": leave(),
    "networks.*.attachable": leave(),
    "networks.*.labels": leave("labels of networks are the platform's", label_keys),
    # -- volumes
    "volumes.*": take(mapping_only, empty=True),
    "volumes.*.name": refuse(_OWN_NAME, "Remove it"),
    "volumes.*.external": refuse(_JOIN),
    "volumes.*.driver": refuse(_DRIVER, unless=("local", "default")),
    "volumes.*.driver_opts": refuse(_DRIVER),
    "volumes.*.labels": leave("labels of volumes are the platform's", label_keys),
    # -- configs and secrets
    "configs.*": take(mapping_only),
    "configs.*.file": take(local),
    "configs.*.content": take(text),
    "configs.*.environment": take(environment_secret),
    "configs.*.name": refuse(_OWN_NAME, "Remove it"),
    "configs.*.external": refuse(_JOIN),
    "configs.*.template_driver": refuse(_DRIVER),
    "configs.*.labels": leave("labels are the platform's", label_keys),
    "secrets.*": take(mapping_only),
    "secrets.*.file": take(local),
    "secrets.*.environment": take(environment_secret),
    "secrets.*.name": refuse(_OWN_NAME, "Remove it"),
    "secrets.*.external": refuse(_JOIN),
    "secrets.*.driver": refuse(_DRIVER),
    "secrets.*.driver_opts": refuse(_DRIVER),
    "secrets.*.template_driver": refuse(_DRIVER),
    "secrets.*.labels": leave("labels are the platform's", label_keys),
}


# -- the walk -----------------------------------------------------------------------------------


class Problem(NamedTuple):
    """What is refused: where, the value, and a reason that ends without a full stop."""

    path: Path
    value: Any
    reason: str


class Screened(NamedTuple):
    """What was taken over, what was refused, and notes: (key, why) with the services it is in."""

    value: Dict[str, Any]
    problems: List[Problem]
    notes: Dict[Tuple[str, str], List[str]]


def screen(document: Any, policy: Policy) -> Screened:
    """Hold a file's data (or Compose's normal form of it) against the table."""
    walk = _Walk(policy)
    if not isinstance(document, dict):
        walk.wrong((), document, "a Compose file is a mapping that holds services")
        return Screened({}, walk.problems, {})
    services = document.get("services")
    if not isinstance(services, dict) or not services:
        walk.wrong(("services",), services, "a Compose file needs at least one service")
        document = {k: v for k, v in document.items() if k != "services"}
    elif len(services) > SERVICES_MAX:
        walk.wrong(
            ("services",),
            "{0} services".format(len(services)),
            "a preview has at most {0}".format(SERVICES_MAX),
        )
        return Screened({}, walk.problems, {})
    return Screened(walk.mapping("", (), document), walk.problems, walk.notes)


def long_mounts(document: Dict[str, Any]) -> Dict[str, Any]:
    """The screened document with every mount in its long form."""
    for service in document.get("services", {}).values():
        if "volumes" in service:
            service["volumes"] = [
                _known(mount_of(each)) if isinstance(each, str) else each
                for each in service["volumes"]
            ]
    return document


def _known(mount: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in mount.items() if key != "options"}


def without_names(normal: Dict[str, Any], project: str) -> Dict[str, Any]:
    """Compose's normal form without the names and the network that Compose itself adds."""
    found = {k: v for k, v in normal.items() if k not in ("name", "networks")}
    for kind in ("volumes", "configs", "secrets"):
        for key, item in (found.get(kind) or {}).items():
            if isinstance(item, dict) and item.get("name") == "{0}_{1}".format(project, key):
                del item["name"]
    for service in (found.get("services") or {}).values():
        if isinstance(service, dict) and service.get("networks") == {"default": None}:
            del service["networks"]
    return found


def too_many_ports(document: Mapping[str, Any]) -> List[Problem]:
    """Ranges of ports that would be written out one by one, of all services together."""
    total = 0
    for name, service in document.get("services", {}).items():
        for key in ("ports", "expose"):
            for entry in service.get(key, []):
                written = str(entry.get("target", "") if isinstance(entry, dict) else entry)
                total += _ports_in(written)
                if total > PORTS_MAX:
                    reason = "a preview has at most {0} ports".format(PORTS_MAX)
                    return [Problem(("services", name, key), written, reason)]
    return []


def _ports_in(written: str) -> int:
    ranges = re.findall(r"([0-9]{1,5})-([0-9]{1,5})", written)
    return 1 + max((abs(int(last) - int(first)) for first, last in ranges), default=0)


def too_many_containers(of_each: Iterable[int]) -> List[Problem]:
    """More containers than one preview may have, of all services together."""
    total = sum(of_each)
    if total <= CONTAINERS_MAX:
        return []
    reason = "a preview has at most {0}".format(CONTAINERS_MAX)
    return [Problem(("services",), "{0} containers".format(total), reason)]


def refused_images(services: Mapping[str, Any], images: Images) -> List[Problem]:
    """Images that would be pulled and may not be used."""
    return [
        Problem(("services", name, "image"), service["image"], reason)
        for name, service in services.items()
        if "build" not in service
        for reason in [images.refused(service.get("image", ""))]
        if reason
    ]


def describe(problem: Problem, file: str, lines: Mapping[Path, int]) -> str:
    """A problem as a sentence for the file's author."""
    path = problem.path
    while path and path not in lines:
        path = path[:-1]
    where = "{0}:{1}".format(file, lines[path]) if path in lines else file
    said = "{0}: {1}: ".format(where, key_path(problem.path) or "the file")
    if problem.value is not None:
        said += "{0} is refused: ".format(shown(problem.value))
    return "{0}{1}.".format(said, problem.reason)


def describe_notes(notes: Mapping[Tuple[str, str], List[str]], file: str) -> List[str]:
    """One sentence for each key that was left out, however many services have it."""
    return [
        "{0}: {1} is left out{2}: {3}.".format(
            file, key, " ({0})".format(", ".join(services)) if services else "", why
        )
        for (key, why), services in notes.items()
    ]


def _children() -> Dict[str, Dict[str, str]]:
    """For each key of the table, the keys right below it."""
    below: Dict[str, Dict[str, str]] = {"": {}}
    for pattern in RULES:
        below.setdefault(pattern, {})
        if not pattern.endswith("[]"):
            parent, _dot, key = pattern.rpartition(".")
            below.setdefault(parent, {})[key] = pattern
    return below


_BELOW = _children()


class _Walk:
    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.problems: List[Problem] = []
        self.notes: Dict[Tuple[str, str], List[str]] = {}

    def wrong(self, path: Path, value: Any, reason: str) -> None:
        self.problems.append(Problem(path, value, reason))

    def mapping(self, pattern: str, path: Path, value: Dict[str, Any]) -> Dict[str, Any]:
        """The keys of a mapping that are taken over."""
        below = _BELOW[pattern]
        names = RULES[pattern].names if pattern else None
        taken: Dict[str, Any] = {}
        for key, item in value.items():
            at = path + (key,)
            if key in below and key != "*":
                child = below[key]
            elif "*" in below:
                child = below["*"]
                reason = names(key, self.policy) if names else None
                if reason:
                    # What stands below it is told as well.
                    self.wrong(at, key, reason)
                    self.value(child, at, item)
                    continue
            else:
                self.unknown(pattern, at, key, item)
                continue
            kept, clean = self.value(child, at, item)
            if kept:
                taken[key] = clean
        return taken

    def unknown(self, pattern: str, path: Path, key: str, value: Any) -> None:
        if len(self.problems) > SHOWN:
            self.wrong(path, value, "this key is not known")
            return
        extensible = pattern in ("", "services.*")
        if key.startswith("x-"):
            near = difflib.get_close_matches(key, ["x-preview"], 1, 0.8)
            if not extensible or not near or key == "x-preview":
                return
        known = [k for k in _BELOW[pattern] if k != "*"] + (["x-preview"] if extensible else [])
        guess = difflib.get_close_matches(key, known, 1, 0.7)
        self.wrong(
            path,
            value,
            "this key is not known; did you mean {0}".format(guess[0])
            if guess
            else "this key is not known, and no setting allows it. docs/compose.md lists those "
            "that are",
        )

    def value(self, pattern: str, path: Path, value: Any) -> Tuple[bool, Any]:
        """Whether a value is taken over, and what of it."""
        rule = RULES[pattern]
        if rule.verdict == "refuse":
            return self.refused(rule, path, value)
        if rule.verdict == "leave":
            self.left(rule, pattern, path, value)
            return False, None
        before = len(self.problems)
        if isinstance(value, dict) and _BELOW[pattern]:
            clean: Any = self.mapping(pattern, path, value)
        elif isinstance(value, list) and pattern + "[]" in RULES:
            clean = []
            for i, item in enumerate(value):
                kept, item_clean = self.value(pattern + "[]", path + (i,), item)
                if kept:
                    clean.append(item_clean)
        elif value is None and rule.check is not mapping_only:
            return rule.empty, None
        elif value is None and rule.empty:
            return True, None
        else:
            reason = (
                rule.check(value, self.policy)
                if rule.check and not isinstance(value, (dict, list))
                else "it must be {0}".format(self.expected(pattern))
            )
            if reason:
                self.wrong(path, value, reason)
            return not reason, value
        if rule.whole and isinstance(value, dict):
            reason = rule.whole(value, self.policy) if len(self.problems) == before else None
            if reason:
                self.wrong(path, value, reason)
            # Half of it would say something else.
            return len(self.problems) == before, clean
        return True, clean

    def expected(self, pattern: str) -> str:
        """What kinds of value a key takes, in words."""
        kinds = []
        if RULES[pattern].check not in (None, mapping_only):
            kinds.append("a single value")
        if pattern + "[]" in RULES:
            kinds.append("a list")
        if _BELOW[pattern]:
            kinds.append("a mapping")
        return " or ".join(kinds)

    def refused(self, rule: Rule, path: Path, value: Any) -> Tuple[bool, Any]:
        if value in (None, False, "", [], {}) or value in rule.unless:
            return False, None
        if isinstance(value, dict):
            asked = ["{0}={1}".format(k, v) for k, v in value.items()]
        else:
            asked = [str(v) for v in value] if isinstance(value, list) else [str(value)]
        exceptions = ["{0}={1}".format(rule.allow, each) for each in asked]
        if rule.allow and self.policy.allow.issuperset(exceptions):
            return True, value
        fix = rule.fix
        if rule.allow:
            missing = [e for e in exceptions if e not in self.policy.allow]
            fix = "The platform may allow it: {0}: [{1}]".format(
                SETTING, ", ".join(plain(e, 80) for e in missing[:5])
            )
        self.wrong(path, value, "{0}. {1}".format(rule.why, fix))
        return False, None

    def left(self, rule: Rule, pattern: str, path: Path, value: Any) -> None:
        before = len(self.problems)
        if rule.check:
            reason = rule.check(value, self.policy)
            if reason:
                self.wrong(path, value, reason)
        if isinstance(value, dict) and _BELOW[pattern]:
            self.mapping(pattern, path, value)
        empty = value in (None, False, "", [], {}) or value in rule.unless
        if empty or not rule.why or len(self.problems) > before:
            return
        owner = str(path[1]) if path[0] == "services" and len(path) > 2 else ""
        key = pattern.replace("services.*.", "").replace("[]", "").replace(".*", "")
        services = self.notes.setdefault((key, rule.why), [])
        if owner and owner not in services:
            services.append(owner)
