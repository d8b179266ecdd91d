# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _apply,
    _arguments,
    _docker,
)
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import ProgramAction
from ansible_collections.ephemera.preview.plugins.plugin_utils._stage import (
    StageAction,
    remember,
)

TEXT = {"type": "str", "default": ""}


class ActionModule(StageAction, ProgramAction):
    program = "build"
    works_on = "folder"
    arguments = {
        "name": {"type": "str", "required": True},
        "folder": {"type": "path", "required": True},
        "checkout": {"type": "path", "required": True},
        "services": {"type": "list", "elements": "dict", "required": True},
        "previous": {"type": "dict", "default": {}},
        "fresh": {"type": "bool", "default": False},
        "trusted": {"type": "bool", "default": True},
        "registries": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "registry": {"type": "str", "required": True},
                "username": {"type": "str", "required": True},
                "password": {"type": "str", "no_log": True},
                "password_command": {"type": "list", "elements": "str", "no_log": False},
            },
            "required_one_of": [["password", "password_command"]],
            "mutually_exclusive": [["password", "password_command"]],
        },
        "mirror": TEXT,
        "proxy": _arguments.PROXY,
        "ca": TEXT,
        "secrets": {"type": "dict", "default": {}},
        "frontends": {"type": "list", "elements": "str", "default": list(_arguments.FRONTENDS)},
        "base_images": {"type": "list", "elements": "str", "default": []},
        "timeout": {"type": "int", "default": 1200},
        "images_timeout": {"type": "int", "default": 600},
        "memory": {"type": "int", "default": 4096},
        "pids": {"type": "int", "default": 4096},
        "disk": {"type": "int", "default": 20},
        "builder": TEXT,
        "push": {"type": "bool", "default": False},
        "preview": {"type": "dict"},
        "stage": _arguments.STAGE,
    }
    required_by = {"stage": ("preview",)}

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview = arguments["preview"]
        if preview and any(service["source"] == "build" for service in arguments["services"]):
            self._refuse_open(preview, task_vars)
        arguments["registries"] = self.logins(arguments["registries"])
        beside = preview and not arguments["push"]
        argv = _apply.beforehand(preview) if beside else []
        arguments["meanwhile"] = argv and {
            "argv": argv,
            "stdin": Path(preview["project_file"]).read_text(encoding="utf-8"),
            "services": _apply.data_services(preview),
            "timeout": 2 * preview["settings"]["preview_verify_timeout"],
        }
        result = super().act(arguments, task_vars)
        if arguments["push"] and result.get("pins"):
            remember(preview, pins=result["pins"])
        said = result.pop("meanwhile", "")
        if said:
            applied = _apply.parse(said, self.secrets(preview, task_vars))
            result["data"] = applied._asdict()
            result["changed"] |= applied.changed
        return result

    def _refuse_open(self, preview: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """Refuse to build where the steps of a Dockerfile would reach the networks around. Of a
        Docker host's own engine the run has asked that already, as it began."""
        settings = preview["settings"]
        builder = settings["preview_buildx_builder"]
        asked = preview["target"] == "docker" and not builder
        if asked or not settings["preview_isolation"]:
            return
        # Imported here, as the others: Ansible compiles a collection's code in every run.
        from ansible_collections.ephemera.preview.plugins.module_utils import _host

        seen = _docker.observe_builds(self.on_host, builder)
        trouble = _host.build_troubles(*seen, preview["app"], settings, preview["trusted"])
        if any(trouble):
            from ansible_collections.ephemera.preview.plugins.plugin_utils import _doctor

            _doctor.refuse_build(self, preview, task_vars, seen)
