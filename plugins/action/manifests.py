# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _arguments,
    _diagnose,
    _ingress,
    _manifests,
)
from ansible_collections.ephemera.preview.plugins.plugin_utils._stage import (
    StageAction,
    pinned,
    record,
    remember,
)


class ActionModule(StageAction):
    asks_cluster = True
    arguments = {
        "preview": {"type": "dict", "required": True},
        "start": {"type": "str", "choices": ["data", "all"], "required": True},
        "stage": _arguments.STAGE,
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview = arguments["preview"]
        if self.check_mode:
            return {"changed": False, "skipped": True, "msg": "Nothing is applied in check mode."}
        settings, first = self.settings(task_vars), arguments["start"] == "data"
        made = json.loads(Path(preview["project_file"]).read_text(encoding="utf-8"))
        logins = self.logins(settings["preview_registries"]) if first else []
        base = _base(preview, made, logins) if first else []
        waves = _waves(preview, made, made["data" if first else "others"])
        work = {
            "pins": record(preview).get("pins", {}),
            "seconds": preview["settings"]["preview_verify_timeout"],
            "secrets": self.secrets(preview, task_vars),
        }
        changed = False
        if first and not preview["trusted"]:
            changed = self._see_that_policies_hold(preview, settings, made, base, work)
            base = []
        exposed = [s["expose"]["host"] for s in preview["services"] if s["expose"]]
        said = self.ask_cluster(
            preview,
            "apply",
            steps=[*base, *waves],
            labels=preview["labels"],
            copies=made["copies"] if first else [],
            hosts=exposed if first else [],
            ingress={key: settings[key] for key in _ingress.CONTROLLER},
            issuer=settings["preview_tls_issuer"],
            provide=made["external"] if first else [],
            births=preview["data_volumes"],
            **work,
        )
        remember(preview, seed_mark=said.pop("births"))
        last = said.pop("step") == len(base) + len(waves) - 1
        said["changed"] |= changed
        runs = said.get("diagnosis") not in _diagnose.NOT_STARTED
        if said.get("failed") and last and not first and runs:
            # How a whole preview that runs is unwell, verification tells.
            remember(preview, spent=[said["diagnosis"], said["service"]])
            return {"changed": said["changed"]}
        return {key: value for key, value in said.items() if key != "over"}

    def _see_that_policies_hold(
        self,
        preview: dict[str, Any],
        settings: dict[str, Any],
        made: dict[str, Any],
        base: list[dict[str, Any]],
        work: dict[str, Any],
    ) -> bool:
        """Before anything of a pull request runs that nobody vouches for. Whether that has made or
        changed what surrounds it."""
        # Read only then: Ansible compiles a collection's code in every run.
        from ansible_collections.ephemera.preview.plugins.module_utils import _kubernetes_canary

        said = self.ask_cluster(
            preview,
            "canary",
            steps=base,
            job=_kubernetes_canary.job(preview, settings),
            egress=_kubernetes_canary.egress_of(made["base"]),
            **work,
        )
        return bool(said["changed"])


def _base(
    preview: dict[str, Any], made: dict[str, Any], logins: list[dict[str, str]]
) -> list[dict[str, Any]]:
    """What all services need. A pod whose volumes are not there is tried again only after a
    while, so all of them come first."""
    namespace, *limits = made["base"]
    needed = [*limits, *made["secret"], *made["claims"], *_config_maps(made)]
    if logins:
        needed.append(_manifests.pull_secret(preview, logins))
    return [{"objects": [namespace]}, {"objects": needed}]


def _waves(
    preview: dict[str, Any], made: dict[str, Any], waves: list[list[str]]
) -> list[dict[str, Any]]:
    """What is applied together, and what is then waited for."""
    planned = {service["name"]: service for service in pinned(preview)}
    return [
        {
            "objects": [
                each
                for name in wave
                for each in made["services"][name]
                if each["kind"] != "ConfigMap"
            ],
            "services": [planned[name] for name in wave],
        }
        for wave in waves
    ]


def _config_maps(made: dict[str, Any]) -> list[dict[str, Any]]:
    """Each of them once: those who bind the same files share them."""
    objects = [each for of_one in made["services"].values() for each in of_one]
    found = {o["metadata"]["name"]: o for o in objects if o["kind"] == "ConfigMap"}
    return list(found.values())
