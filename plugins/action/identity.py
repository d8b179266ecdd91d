# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import time
import uuid
from types import ModuleType
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _docker,
    _drift,
    _identity,
    _lease,
    _names,
    _settings,
)
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction

GOING = 60  # seconds that a cluster may take to remove what nobody waits for any more
REQUIRED = {
    "host": (),
    "preview": ("preview_number", "preview_repository"),
    "down": ("preview_number", "preview_repository"),
    "up": ("preview_number", "preview_repository", "preview_commit"),
}


class ActionModule(PreviewAction):
    arguments = {
        "scope": {
            "type": "str",
            "choices": ["up", "down", "preview", "host"],
            "default": "preview",
        },
        "run": {"type": "str"},
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        scope = arguments["scope"]
        if scope != "host":
            _exactly_one(task_vars)
        settings = self.settings(task_vars, REQUIRED[scope])
        target = _InCluster if settings["preview_target"] == "kubernetes" else _OnHost
        there = target(self, settings, task_vars)
        public = _settings.public(settings)
        if scope == "host":
            return _of_host(there, settings, public, task_vars)
        host = task_vars["inventory_hostname"]
        there.check()
        try:
            preview = _identity.identity(
                settings["preview_app"] or host,
                settings,
                run=arguments["run"] or uuid.uuid4().hex,
                builder=host if scope == "preview" else _identity.builder(settings, host),
            )
        except (_names.NameRefused, _identity.IdentityRefused) as refused:
            raise AnsibleActionFail(str(refused)) from None
        seen = there.observe(preview["name"], up=scope == "up")
        preview.update(
            changed=False,
            settings=public,
            observed=seen["previews"][preview["name"]],
            gateway=seen["gateway"],
            taken=seen["subnets"],
            fingerprint=_drift.fingerprint(preview, settings),
        )
        preview["repositories"] = _repositories(preview)
        if scope == "down":
            _refuse_strangers(preview)
        # Besides that `down` removes what is its own and leaves the rest alone.
        strangers = _drift.ownership(preview) if scope != "down" else []
        if strangers:
            cannot = "brought up" if scope == "up" else "looked into"
            raise AnsibleActionFail(
                f"{preview['name']} cannot be {cannot}, its name is taken: "
                + "; ".join(strangers)
                + "."
            )
        max_age = settings["preview_image_max_age"] * 86400
        preview["drift"] = _drift.drift(preview, seen["now"], max_age)
        seen_state = preview["observed"]["state"]
        # What untrusted code left in volumes and caches must not run beside secrets later.
        preview["reset"] = seen_state.get("trusted", preview["trusted"]) != preview["trusted"]
        preview["rebuild"] = _drift.too_old(preview, seen["now"], max_age)
        preview["unchanged"] = scope == "up" and not preview["drift"]
        if scope == "up":
            if not preview["unchanged"]:
                _free(preview, seen["now"])
            there.refuse_early(preview["app"], seen)
        return preview


class _Target:
    """Where previews run."""

    def __init__(
        self, action: ActionModule, settings: dict[str, Any], task_vars: dict[str, Any]
    ) -> None:
        self.action = action
        self.settings = settings
        self.vars = task_vars


class _OnHost(_Target):
    def check(self) -> None:
        """Where the app connects, everything is asked."""

    def observe(self, name: str, up: bool = False) -> dict[str, Any]:
        """All that exists of one preview, or of all. ``up``: what to bring it up needs, too."""
        firewall = up and self.settings["preview_isolation"]
        state_dir = self.settings["preview_state_dir"]
        try:
            return _docker.observe(self.action.on_host, state_dir, name, firewall)
        except _docker.EngineError as error:
            why = _doctor().why_not(self.action, self.settings, self.vars, str(error))
            raise AnsibleActionFail(why) from None

    def refuse_early(self, app: str, seen: dict[str, Any]) -> None:
        """Fail with what is in the way already, also where nothing else is due: what serves behind
        a firewall that is gone is not as wanted either."""
        from ansible_collections.ephemera.preview.plugins.module_utils import _host

        if any(_host.troubles(seen, app, self.settings)):
            _doctor().refuse_early(self.action, self.settings, self.vars, seen)


class _InCluster(_Target):
    def check(self) -> None:
        """While another host builds, the controller asks the cluster."""
        host = self.vars["inventory_hostname"]
        how = str(self.vars.get("ansible_connection", "ssh"))
        elsewhere = self.settings["preview_builder"] not in ("", host)
        if elsewhere and how.rpartition(".")[2] != "local":
            raise AnsibleActionFail(
                f"preview_builder names another host, and {host} connects by {how}: while that "
                "builds, the cluster is asked from the controller. Set ansible_connection: local "
                "for the app, and preview_kubeconfig to a file of the controller."
            )

    def observe(self, name: str, up: bool = False) -> dict[str, Any]:
        """The same. What goes by itself, as who began that is gone, is gone before an up begins."""
        until = time.monotonic() + GOING
        while True:
            seen = self.action.ask_cluster({"settings": self.settings, "name": name}, "observe")
            going = up and _goes_by_itself(seen["previews"][name])
            if not going or time.monotonic() >= until:
                return {**_docker.parse("", name), **seen}
            time.sleep(1)

    def refuse_early(self, app: str, seen: dict[str, Any]) -> None:
        """The API server says itself what is in the way, once it is asked for something."""


# Imports in functions: Ansible compiles a collection's code in every run, and few need these.


def _doctor() -> ModuleType:
    from ansible_collections.ephemera.preview.plugins.plugin_utils import _doctor

    return _doctor


def _of_host(
    there: _OnHost | _InCluster,
    settings: dict[str, Any],
    public: dict[str, Any],
    task_vars: dict[str, Any],
) -> dict[str, Any]:
    """What is the same for all previews of an app's host or cluster, and what exists of them."""
    from ansible_collections.ephemera.preview.plugins.module_utils import _route

    seen = there.observe("")
    try:
        network = _route.gateway_network(settings["preview_docker_subnets"], seen["gateway_subnet"])
        domain = _names.base_domain(
            settings["preview_domain"] or None, settings["preview_host_ip"] or None
        )
        builder = _identity.builder(settings, task_vars["inventory_hostname"])
    except (_route.RouteRefused, _names.NameRefused, _identity.IdentityRefused) as refused:
        raise AnsibleActionFail(str(refused)) from None
    return {
        "changed": False,
        "app": settings["preview_app"] or task_vars["inventory_hostname"],
        "domain": domain,
        "gateway_network": network,
        "gateway_middlewares": _route.common(settings["preview_gateway_tls"] in ("given", "acme")),
        "target": settings["preview_target"],
        "state_dir": settings["preview_state_dir"],
        "builder": builder,
        "settings": public,
        "no_log": settings["preview_no_log"],
        "observed": seen["previews"],
        "gateway": seen["gateway"],
        "now": seen["now"],
    }


def _exactly_one(task_vars: dict[str, Any]) -> None:
    """A play for one preview that is not limited would act on every app of the inventory."""
    apps = task_vars["ansible_play_hosts_all"]
    if len(apps) != 1:
        raise AnsibleActionFail(
            f"{len(apps)} apps are selected ({', '.join(sorted(apps)[:5])}"
            f"{', …' if len(apps) > 5 else ''}) and this playbook acts on one: "
            f"name it with -l, as in -l {sorted(apps)[0]}."
        )


def _refuse_strangers(preview: dict[str, Any]) -> None:
    other = _drift.stranger(preview)
    if other:
        raise AnsibleActionFail(
            f"{preview['name']} belongs to another repository (owner {other}, this one is "
            f"{preview['owner']}), and nothing of it was removed. Should it be this one? Its owner "
            "comes from preview_forge and preview_repository_id, else from preview_repository."
        )


def _repositories(preview: dict[str, Any]) -> list[str]:
    """Where images of a preview in a cluster were pushed to: as is recorded, and as those say that
    run, should the record be lost."""
    seen = preview["observed"]
    own = f"{preview['settings']['preview_registry']}/{_names.IMAGES}/{preview['name']}/"
    ran = {c["image"].partition("@")[0] for c in seen["containers"] if c["image"].startswith(own)}
    return sorted({*seen["state"].get("repositories", []), *(_untagged(each) for each in ran)})


def _untagged(image: str) -> str:
    host, slash, path = image.rpartition("/")
    return host + slash + path.partition(":")[0]


def _goes_by_itself(seen: dict[str, Any]) -> bool:
    lease = _lease.parse(seen["lease"])
    return bool(seen["ending"] and (lease is None or _lease.is_dead(lease)))


def _free(preview: dict[str, Any], now: int) -> None:
    """Refuse early what the lease would refuse later, before anything is fetched."""
    lease = _lease.parse(preview["observed"]["lease"])
    others = lease and lease.owner != preview["run"] and not _lease.is_dead(lease)
    if lease and others and lease.until > now:
        raise AnsibleActionFail(_lease.refusal(preview["name"], lease, now))
