# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import ssl
import time
from typing import Any

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _announce,
    _diagnose,
    _docker,
    _plan,
)
from ansible_collections.ephemera.preview.plugins.plugin_utils import _http
from ansible_collections.ephemera.preview.plugins.plugin_utils._base import PreviewAction

INTERVAL = 0.25


# A service may die once while another starts; one that is still dying after this long is broken.
PATIENCE = 5


class ActionModule(PreviewAction):
    arguments = {
        "preview": {"type": "dict", "required": True},
        "only": {"type": "str", "choices": ["all", "data"], "default": "all"},
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        preview = arguments["preview"]
        services = [s for s in preview["services"] if arguments["only"] == "all" or s["data"]]
        doors = [s for s in services if s["expose"]]
        context = _context(preview["settings"])
        began = time.monotonic()
        died = 0.0
        while True:
            seen = _docker.observe(self.on_host, preview["state_dir"], preview["name"])
            mine = seen["previews"][preview["name"]]
            verdict = _diagnose.containers(services, mine)
            answers = {s["name"]: _ask(s, context) for s in doors}
            if verdict.ready and all(_diagnose.answered(s, answers[s["name"]]) for s in doors):
                return {"changed": False, "state": _plan.deployed(preview, mine, seen["now"])}
            now = time.monotonic()
            died = died or (now if verdict.final else 0.0)
            if (verdict.final and now - died > PATIENCE) or (
                now - began > preview["settings"]["preview_verify_timeout"]
            ):
                return self._refuse(services, mine, answers)
            time.sleep(INTERVAL)

    def _refuse(
        self, services: list[dict[str, Any]], seen: dict[str, Any], answers: dict[str, Any]
    ) -> dict[str, Any]:
        diagnosis = _diagnose.diagnose(services, seen, answers, self._facts(seen))
        return {
            "failed": True,
            "changed": False,
            "msg": _announce.harmless(diagnosis.sentence),
            "log": [_announce.harmless(line) for line in diagnosis.log],
            "service": diagnosis.service,
        }

    def _facts(self, seen: dict[str, Any]) -> dict[str, Any]:
        """What only the engine and the kernel know of each container, asked once."""
        ids = [c["id"] for c in seen["containers"] if not c["oneoff"]]
        ran = self.on_host(["sh", "-c", _diagnose.FACTS, "facts", *ids])
        return _diagnose.parse_facts(ran.out)


def _context(settings: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if settings["preview_ca_file"]:
        context.load_verify_locations(settings["preview_ca_file"])
    if settings["preview_gateway_tls"] == "selfsigned":
        # The gateway made it for this host and nobody vouches for it.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _ask(service: dict[str, Any], context: ssl.SSLContext) -> dict[str, Any]:
    health = service["health"] or {}
    paths = [health.get("path") or "/"]
    if health.get("deep"):
        paths.append(health["deep"])
    answer: dict[str, Any] = {}
    for path in paths:
        url = service["expose"]["url"] + path
        got = _http.get(url, timeout=health.get("timeout") or 5, context=context)
        answer = dict(got._asdict(), body=got.body.decode("utf-8", "replace"), url=url)
        if not _diagnose.answered(service, answer):
            break
    return answer
