# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from typing import Any

from ansible_collections.ephemera.preview.plugins.module_utils import _listing
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction, show


class ActionModule(PreviewAction):
    arguments = {
        "hosts": {"type": "list", "elements": "dict", "required": True},
        "output": {"type": "str", "choices": ["table", "json"], "default": "table"},
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        # Several apps may live on one Docker host: each of its previews is listed once.
        rows = {
            (row["owner"], row["name"]): row
            for host in arguments["hosts"]
            for row in (_listing.row(seen, host["now"]) for seen in host["observed"].values())
        }
        previews = sorted(rows.values(), key=lambda r: (r["app"], r["number"], r["name"]))
        shown = (
            _listing.table(previews)
            if arguments["output"] == "table"
            else json.dumps(previews, indent=2).splitlines()
        )
        show(shown)
        return {
            "changed": False,
            "msg": shown,
            "ansible_stats": {
                "data": {"previews": previews},
                "per_host": False,
                "aggregate": False,
            },
        }
