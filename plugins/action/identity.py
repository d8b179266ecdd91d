# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import uuid
from types import ModuleType
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _docker,
    _drift,
    _host,
    _identity,
    _lease,
    _names,
    _route,
    _settings,
)
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction

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
        public = _settings.public(settings)
        if scope == "host":
            seen = self._observe(settings, task_vars, "")
            try:
                network = _route.gateway_network(
                    settings["preview_docker_subnets"], seen["gateway_subnet"]
                )
                domain = _names.base_domain(
                    settings["preview_domain"] or None, settings["preview_host_ip"] or None
                )
            except (_route.RouteRefused, _names.NameRefused) as refused:
                raise AnsibleActionFail(str(refused)) from None
            return {
                "changed": False,
                "app": settings["preview_app"] or task_vars["inventory_hostname"],
                "domain": domain,
                "gateway_network": network,
                "gateway_middlewares": _route.common(
                    settings["preview_gateway_tls"] in ("given", "acme")
                ),
                "target": settings["preview_target"],
                "state_dir": settings["preview_state_dir"],
                "settings": public,
                "no_log": settings["preview_no_log"],
                "observed": seen["previews"],
                "gateway": seen["gateway"],
                "now": seen["now"],
            }
        host = task_vars["inventory_hostname"]
        in_cluster = settings["preview_target"] == "kubernetes"
        if in_cluster and settings["preview_builder"] not in ("", host):
            _refuse_remote(host, task_vars)
        try:
            preview = _identity.identity(
                settings["preview_app"] or host,
                settings,
                run=arguments["run"] or uuid.uuid4().hex,
                builder=host if scope == "preview" else _identity.builder(settings, host),
            )
        except (_names.NameRefused, _identity.IdentityRefused) as refused:
            raise AnsibleActionFail(str(refused)) from None
        on_host = preview["target"] == "docker"
        isolated = on_host and scope == "up" and settings["preview_isolation"]
        seen = self._observe(settings, task_vars, preview["name"], firewall=isolated)
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
            # What serves behind a firewall that is gone is not as wanted either.
            if on_host and any(_host.troubles(seen, preview["app"], settings)):
                _doctor().refuse_early(self, settings, task_vars, seen)
        return preview

    def _observe(
        self,
        settings: dict[str, Any],
        task_vars: dict[str, Any],
        name: str,
        firewall: bool = False,
    ) -> dict[str, Any]:
        if settings["preview_target"] == "kubernetes":
            seen = self.ask_cluster({"settings": settings, "name": name}, "observe")
            return {**_docker.parse("", name), **seen}
        try:
            return _docker.observe(self.on_host, settings["preview_state_dir"], name, firewall)
        except _docker.EngineError as error:
            raise AnsibleActionFail(
                _doctor().why_not(self, settings, task_vars, str(error))
            ) from None


def _doctor() -> ModuleType:
    """Read only when something is wrong: Ansible compiles a collection's code in every run."""
    from ansible_collections.ephemera.preview.plugins.plugin_utils import _doctor

    return _doctor


def _exactly_one(task_vars: dict[str, Any]) -> None:
    """A play for one preview that is not limited would act on every app of the inventory."""
    apps = task_vars["ansible_play_hosts_all"]
    if len(apps) != 1:
        raise AnsibleActionFail(
            f"{len(apps)} apps are selected ({', '.join(sorted(apps)[:5])}"
            f"{', …' if len(apps) > 5 else ''}) and this playbook acts on one: "
            f"name it with -l, as in -l {sorted(apps)[0]}."
        )


def _refuse_remote(host: str, task_vars: dict[str, Any]) -> None:
    """While another host builds, the controller asks the cluster."""
    how = str(task_vars.get("ansible_connection", "ssh"))
    if how.rpartition(".")[2] != "local":
        raise AnsibleActionFail(
            f"preview_builder names another host, and {host} connects by {how}: while that builds, "
            "the cluster is asked from the controller. Set ansible_connection: local for the app, "
            "and preview_kubeconfig to a file of the controller."
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


def _free(preview: dict[str, Any], now: int) -> None:
    """Refuse early what the lease would refuse later, before anything is fetched."""
    lease = _lease.parse(preview["observed"]["lease"])
    others = lease and lease.owner != preview["run"] and not _lease.is_dead(lease)
    if lease and others and lease.until > now:
        raise AnsibleActionFail(_lease.refusal(preview["name"], lease, now))
