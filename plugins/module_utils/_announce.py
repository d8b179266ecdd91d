# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run reports: one dictionary, and its renderings for people, forges and CI. All pure."""

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping

from ansible_collections.ephemera.preview.plugins.module_utils._refusal import unobeyed

_CONTROL = re.compile(
    "\x1b\\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)
# GitHub's runner reads this at the start of a line, white space apart.
_CI_COMMAND = re.compile(r"^(\s*):(?=:)", re.MULTILINE)


def harmless(text: str) -> str:
    """Log text of a preview without control characters, and with nothing CI takes as a command."""
    return unobeyed(_CI_COMMAND.sub(r"\1: ", _CONTROL.sub("", text.replace("\r\n", "\n"))))


def report(
    preview: Mapping[str, Any],
    record: Mapping[str, Any],
    outcome: str,
    failure: Mapping[str, Any],
    now: int,
) -> Dict[str, Any]:
    """The result of a run as AWX artifacts, files and comments carry it.

    ``stages`` have seconds; ``failure`` is ``{"stage", "sentence", "log"}`` or None.
    """
    stages = [
        {"name": s["name"], "seconds": s.get("end", now) - s["start"]}
        for s in record.get("stages", [])
    ]
    told = None
    if outcome == "failed":
        told = {
            "stage": failure.get("stage") or (stages[-1]["name"] if stages else "plan"),
            "sentence": harmless(str(failure.get("msg") or "no reason was given")),
            "log": [harmless(line) for line in failure.get("log", [])][-20:],
        }
    services = [s for s in preview.get("services", []) if s["expose"]]
    web = preview.get("web")
    return {
        "outcome": outcome,
        "name": preview["name"],
        "app": preview["app"],
        "number": preview["number"],
        "commit": preview["commit"],
        "url": preview["url"],
        "host": preview["host"],
        "links": _links(preview, web) if outcome in ("ready", "unchanged") else {},
        "services": {s["name"]: s["expose"]["url"] for s in services},
        "stages": stages,
        "seconds": sum(s["seconds"] for s in stages),
        "failure": told,
        "notes": [harmless(note) for note in preview.get("notes", [])],
    }


def _links(preview: Mapping[str, Any], web: Any) -> Dict[str, str]:
    health = "/health"
    for service in preview.get("services", []):
        if service["name"] == web and service["health"]:
            health = service["health"]["path"]
    url = preview["url"]
    return {"app": url, "docs": url + "/docs", "health": url + health}


_SAID = {
    "ready": "{name} is ready: {url}",
    "unchanged": "{name} already serves commit {commit:.12}: {url}",
    "removed": "{name} is gone: nothing of it is left.",
    "removable": "{name} would be removed.",
    "failed": "{name} failed at stage {stage}: {sentence}",
    "planned": "{name} would serve commit {commit:.12} at {url}",
}


def headline(of: Mapping[str, Any]) -> str:
    """The one sentence of a report."""
    told = of["failure"] or {"stage": "", "sentence": ""}
    return _SAID[of["outcome"]].format(**dict(of, **told))


def lines(of: Mapping[str, Any]) -> List[str]:
    """A report for a terminal."""
    out = [headline(of)]
    if of["failure"]:
        out += ["  | " + line for line in of["failure"]["log"]]
    if of["outcome"] == "ready":
        out += ["{0}: {1}".format(name, url) for name, url in sorted(of["services"].items())]
        timings = ["{name} {seconds} s".format(**stage) for stage in of["stages"]]
        out.append("Stages: " + ", ".join(timings))
    out += ["Note: " + warning for warning in of["notes"]]
    return out


def _fence(text: str) -> str:
    """A Markdown code block that its text cannot end."""
    ticks = max([2] + [len(run) for run in re.findall("`+", text)]) + 1
    return "{0}text\n{1}\n{0}\n".format("`" * ticks, text)


def markdown(of: Mapping[str, Any]) -> str:
    """A report for a comment or a step summary."""
    out = [
        "### {0}\n".format(
            headline(dict(of, failure=None))
            if not of["failure"]
            else "{0} failed at stage {1}".format(of["name"], of["failure"]["stage"])
        )
    ]
    if of["failure"]:
        out.append(_fence("\n".join([of["failure"]["sentence"]] + of["failure"]["log"])))
    if of["links"]:
        out.append("| | |\n| --- | --- |")
        out += ["| {0} | {1} |".format(k, v) for k, v in of["links"].items()]
        out += ["| {0} | {1} |".format(k, v) for k, v in sorted(of["services"].items())]
        out.append("")
    if of["commit"]:
        out.append("Commit `{0}`\n".format(of["commit"]))
    if of["stages"]:
        out.append("Stages: " + ", ".join("{name} {seconds} s".format(**s) for s in of["stages"]))
        out.append("")
    if of["notes"]:
        out.append(_fence("\n".join(of["notes"])))
    return "\n".join(out) + "\n"


def step_outputs(of: Mapping[str, Any]) -> str:
    """``name=value`` lines for a CI step. Values are ours and hold no line break."""
    values = {"outcome": of["outcome"], "name": of["name"], "url": of["url"], "host": of["host"]}
    return "".join("{0}={1}\n".format(key, value) for key, value in values.items())
