# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils import _announce, _identity
from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction, show


class ActionModule(PreviewAction):
    arguments = {
        "preview": {"type": "dict", "required": True},
        "outcome": {
            "type": "str",
            "choices": ["ready", "failed", "removed", "removable", "unchanged", "planned"],
            "required": True,
        },
        "failure": {"type": "dict", "default": {}},
        "state": {"type": "dict", "default": {}},
        "notes": {"type": "list", "elements": "str", "default": []},
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview, outcome = arguments["preview"], arguments["outcome"]
        # What a run with nothing to do has not begun, it need not read.
        record = {} if outcome == "unchanged" else _recorded(preview)
        settings = self.settings(task_vars)
        report = _announce.report(
            preview, record, outcome, arguments["failure"], now=int(time.time())
        )
        notes = [*arguments["notes"], *(_why(preview) if outcome == "planned" else [])]
        report["notes"] += [_announce.harmless(note) for note in notes]
        # Only what others have said can hold a secret; a name that happens to be one stays a name.
        secrets = _identity.secret_values(preview, settings)
        report.update({key: redact(report[key], secrets) for key in ("failure", "notes")})
        if not self.check_mode:
            self._close(arguments, record, report)
            _write(report, settings)
        said = _announce.lines(report)
        show(said)
        result = {
            # What is as wanted is not planned: the run has ended before.
            "changed": outcome == "planned",
            "msg": said,
            "headline": _announce.headline(report),
            "ansible_stats": {
                "data": {"preview": report},
                "per_host": False,
                "aggregate": False,
            },
        }
        if outcome == "planned":
            before = preview["observed"]["state"].get("wanted", {})
            result["diff"] = {
                "before_header": f"{preview['name']} as observed",
                "after_header": f"{preview['name']} as wanted",
                "before": yaml.safe_dump(before) if before else "",
                "after": yaml.safe_dump(preview["wanted"]),
            }
        return result

    def _close(
        self, arguments: dict[str, Any], record: dict[str, Any], report: dict[str, Any]
    ) -> None:
        """Write what is now deployed, then let the lease go."""
        preview = arguments["preview"]
        if not record:
            return
        if _is_nothing_yet(preview, report["failure"] or {}):
            self.forget(preview)
            return
        state = dict(record["state"], status=report["outcome"], **arguments["state"])
        if report["outcome"] == "failed":
            state["failure"] = report["failure"]
        try:
            self.close(preview, state if report["outcome"] != "removed" else None)
        except AnsibleActionFail:
            # A run that failed has said why already; one that is ready has to hold it to be so.
            if report["outcome"] != "failed":
                raise


def _why(preview: dict[str, Any]) -> list[str]:
    """Why a run would not end at once, and what it would begin with."""
    reset = ["All of it would be removed first: its trust is another."] if preview["reset"] else []
    return [f"It is not as wanted yet: {preview['drift']}.", *reset]


def _recorded(preview: dict[str, Any]) -> dict[str, Any]:
    from ansible_collections.ephemera.preview.plugins.plugin_utils import _stage

    return _stage.record(preview)


def _is_nothing_yet(preview: dict[str, Any], failure: dict[str, Any]) -> bool:
    from ansible_collections.ephemera.preview.plugins.plugin_utils import _stage

    return _stage.is_nothing_yet(preview, failure.get("stage", ""))


def _write(report: dict[str, Any], settings: dict[str, Any]) -> None:
    """The report as files on the controller, and as outputs of a CI step, where asked for."""
    markdown = _announce.markdown(report)
    if settings["preview_result_dir"]:
        folder = Path(settings["preview_result_dir"])
        _put(folder, "result.json", json.dumps(report, indent=2, sort_keys=True) + "\n")
        _put(folder, "result.md", markdown)
    if settings["preview_step_outputs"] == "github":
        for variable, text in (
            ("GITHUB_OUTPUT", _announce.step_outputs(report)),
            ("GITHUB_STEP_SUMMARY", markdown),
        ):
            if os.environ.get(variable):
                with open(os.environ[variable], "a") as handle:
                    handle.write(text)


def _put(folder: Path, name: str, text: str) -> None:
    """Write a file anew. The folder may lie in a checkout, whose author would lead us elsewhere."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(exist_ok=True)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileExistsError, NotADirectoryError):
        raise AnsibleActionFail(
            f"preview_result_dir is {folder}, which is a symbolic link or no folder, so that the "
            "result would be written elsewhere. Give it a folder of its own."
        ) from None
    draft = f".{name}.{os.getpid()}"
    try:
        with open(
            os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=held), "w"
        ) as handle:
            handle.write(text)
        os.replace(draft, name, src_dir_fd=held, dst_dir_fd=held)
    finally:
        os.close(held)
