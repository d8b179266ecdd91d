# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

from ansible_collections.ephemera.preview.plugins.module_utils import _doctor
from ansible_collections.ephemera.preview.plugins.plugin_utils import _doctor as _looking
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction, show


class ActionModule(PreviewAction):
    arguments = {
        "part": {"type": "str", "choices": ["host", "builder", "report"], "default": "host"},
        "reports": {"type": "list", "elements": "dict", "default": []},
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        if arguments["part"] == "report":
            return _report([report for report in arguments["reports"] if "findings" in report])
        facts, places = _looking.look(self, task_vars, arguments["part"] == "builder")
        return {
            "changed": False,
            "app": facts.app,
            "output": facts.settings["preview_output"],
            "findings": [finding._asdict() for finding in _doctor.examine(facts, places)],
        }


def _report(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Print what was found. ``msg`` holds every problem, "" where there is none."""
    apps: dict[str, list[_doctor.Finding]] = {}
    for report in reports:
        found = [_doctor.Finding(**finding) for finding in report["findings"]]
        apps.setdefault(report["app"], []).extend(found)
    told = {
        app: {
            "problems": len(_doctor.problems(found)),
            "findings": [finding._asdict() for finding in found],
        }
        for app, found in apps.items()
    }
    if any(report["output"] == "json" for report in reports):
        shown = json.dumps(told, indent=2, ensure_ascii=False).splitlines()
    else:
        shown = [
            line
            for app, found in apps.items()
            for line in (*_doctor.table(app, found), f"  {_doctor.summary(found)}")
        ]
    show(shown)
    broken = {app: _doctor.problems(found) for app, found in apps.items()}
    messages = [_doctor.refusal(app, found) for app, found in broken.items() if found]
    return {
        "changed": False,
        "doctor": told,
        "msg": "\n".join(messages),
        "ansible_stats": {"data": {"doctor": told}, "per_host": False, "aggregate": False},
    }
