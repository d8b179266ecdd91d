# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _arguments,
    _identity,
    _plan,
    _route,
)
from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact
from ansible_collections.ephemera.preview.plugins.plugin_utils._stage import (
    StageAction,
    keep_here,
)


class ActionModule(StageAction):
    arguments = {
        "preview": {"type": "dict", "required": True},
        "source": {"type": "dict", "required": True},
        "stage": _arguments.STAGE,
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview, source = arguments["preview"], arguments["source"]
        settings = self.settings(task_vars)
        grants = _plan.grants(preview, settings)
        definition = self.run_program(
            "definition",
            {
                "path": source["path"],
                "git_dir": source["git_dir"],
                "commit": preview["commit"],
                "file": settings["preview_compose_file"] or None,
                "project": preview["name"],
                "names": preview["names"],
                "variables": grants.variables,
                "secrets": grants.secrets,
                "profiles": settings["preview_profiles"],
                "allow": settings["preview_compose_allow"],
                "images": settings["preview_base_images"],
                "registries": [each["registry"] for each in settings["preview_registries"]],
                "frontends": settings["preview_build_frontends"],
                "build_secrets": sorted(settings["preview_build_secrets"]),
                "sizes": sorted(settings["preview_sizes"]),
                "timeout": settings["preview_compose_timeout"],
                "compose": None,
                "with_files": preview["target"] == "kubernetes",
            },
            task_vars,
        )
        secrets = _identity.secret_values(preview, settings)
        if definition.get("failed"):
            failed = {"failed": True, "changed": False}
            for key in ("msg", "problems", "exception"):
                if definition.get(key):
                    failed[key] = redact(definition[key], secrets)
            return failed
        try:
            completed = _plan.complete(preview, definition, settings, preview["taken"])
            on_host = preview["target"] == "docker"
            route = _route.route(completed.preview, settings) if on_host else {}
        except (_plan.PlanRefused, _route.RouteRefused) as refused:
            raise AnsibleActionFail(redact(str(refused), secrets)) from None
        result = completed.preview
        result["project_file"] = keep_here(preview, "compose", completed.project)
        if route:
            result["route_file"] = keep_here(preview, "route", route)
        result["changed"] = False
        return result
