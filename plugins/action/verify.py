# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import json
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _arguments,
    _diagnose,
    _docker,
    _drift,
    _http,
    _identity,
    _manifests,
    _route,
)
from ansible_collections.ephemera.preview.plugins.plugin_utils._stage import (
    StageAction,
    pinned,
    record,
)


class ActionModule(StageAction):
    asks_cluster = True
    arguments = {
        "preview": {"type": "dict", "required": True},
        "only": {"type": "str", "choices": ["all", "data"], "default": "all"},
        "failure": {"type": "dict", "default": {}},
        "stage": _arguments.STAGE,
    }

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        if self.check_mode:
            return {"changed": False, "skipped": True, "msg": "There is nothing to verify yet."}
        preview, whole = arguments["preview"], arguments["only"] == "all"
        settings = self.settings(task_vars)
        secrets = _identity.secret_values(preview, settings)
        mine, now, in_cluster = _docker.empty(preview["name"]), 0, _in_cluster(preview)
        if whole and not in_cluster:  # Data services have no image of ours.
            seen = _docker.observe(self.on_host, preview["state_dir"], preview["name"])
            mine, now = seen["previews"][preview["name"]], seen["now"]
        services = pinned(preview) if in_cluster else preview["services"]
        scene = _diagnose.Scene(
            [s for s in services if whole or s["data"]],
            self._look(preview, secrets),
            images={image["ref"]: image["id"] for image in mine["images"]},
            # What a cluster runs besides goes once this is well.
            whole=whole and not in_cluster,
        )
        refusal = _Refusal(self, preview, settings, secrets, task_vars)
        if arguments["failure"] and "said" not in arguments["failure"]:
            raise AnsibleActionFail(arguments["failure"]["msg"])
        if arguments["failure"]:
            return refusal.of_start(scene, arguments["failure"])
        failed = self._wait(preview, scene, settings, secrets)
        if failed:
            return refusal.of(*failed)
        changed = False
        if in_cluster:
            made = json.loads(Path(preview["project_file"]).read_text(encoding="utf-8"))
            settled = self.ask_cluster(preview, "settle", wanted=_manifests.everything(made))
            mine, now = settled["previews"][preview["name"]], settled["now"]
            changed = settled["changed"]
        state = {"state": _drift.deployed(preview, mine, now)} if whole else {}
        return {"changed": changed, **state}

    def _wait(
        self,
        preview: dict[str, Any],
        scene: _diagnose.Scene,
        settings: dict[str, Any],
        secrets: list[str],
    ) -> tuple[_diagnose.Scene, _diagnose.Finding] | None:
        """Until all is well, or will not be: then what was last seen, and what is wrong."""
        end = time.monotonic() + settings["preview_verify_timeout"]
        patience, pause = _diagnose.Patience(), _diagnose.POLL / 8
        ask, before = _Ask(settings), record(preview).get("spent")
        endpoints = {s["name"]: _diagnose.Endpoint(s) for s in scene.services if s["expose"]}
        scene = scene._replace(endpoints=endpoints)
        while True:
            ask.all(scene, end)
            findings = _diagnose.judge(scene)
            if not findings:
                return None
            now = time.monotonic()
            spent = patience.spent(findings, now) or next(
                (f for f in findings if [f.code, f.service] == before), None
            )
            if spent or now >= end:
                return scene, spent or findings[0]
            time.sleep(min(pause, end - now))
            pause = min(2 * pause, _diagnose.POLL)
            scene = scene._replace(containers=self._look(preview, secrets))

    def _look(self, preview: dict[str, Any], secrets: list[str]) -> list[_diagnose.Container]:
        if _in_cluster(preview):
            asked = {"services": preview["services"], "secrets": secrets}
            return [_container(c) for c in self.ask_cluster(preview, "look", **asked)["containers"]]
        argv = ["sh", "-c", _diagnose.LOOK, "look", preview["name"], _diagnose.LOOK_FORMAT]
        ran = self.on_host(argv)
        if ran.rc != 0:
            raise AnsibleActionFail(
                "The Docker engine stopped answering while the preview was verified: "
                f"{(ran.err or ran.out).strip() or 'no answer.'}"
            )
        return _diagnose.parse_look(ran.out, preview["name"], secrets)

    def told(
        self, preview: dict[str, Any], idents: list[str], secrets: list[str]
    ) -> dict[str, _diagnose.Told]:
        """The last words of these containers."""
        if not idents:
            return {}
        if _in_cluster(preview):
            said = self.ask_cluster(preview, "last_words", pods=idents, secrets=secrets)["logs"]
            return {ident: _diagnose.Told(log, [], False) for ident, log in said.items()}
        ran = self.on_host(["sh", "-c", _diagnose.TOLD, "told", *idents])
        return _diagnose.parse_told(ran.out, secrets)


class _Ask:
    """Asks at the endpoints of a preview, as a reviewer does."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.question = _question(settings)
        self.blind = _is_blind(settings)
        self.context = _context(settings)

    def all(self, scene: _diagnose.Scene, end: float) -> None:
        """Ask at each endpoint whose service is well and whose time has come, all at once."""
        sick = {finding.service for finding in _diagnose.judge(scene._replace(endpoints={}))}
        now = time.monotonic()
        due = [
            endpoint
            for name, endpoint in scene.endpoints.items()
            if name not in sick
            and endpoint.due(now)
            and not endpoint.told(scene.of(endpoint.service), now)
        ]
        if not due:
            return
        with ThreadPoolExecutor(len(due)) as pool:
            answers = list(pool.map(lambda endpoint: self.one(endpoint, end - now), due))
        for endpoint, answer in zip(due, answers, strict=True):
            up = [c.up for c in scene.of(endpoint.service)]
            endpoint.heard(answer, time.monotonic(), min(up, default=0))

    def one(self, endpoint: _diagnose.Endpoint, left: float) -> _http.Answer:
        answer = _http.Answer(0, "")
        for path in endpoint.paths:
            answer = _http.get(
                endpoint.service["expose"]["url"] + path,
                timeout=max(0.5, min(float(endpoint.health["timeout"]), left)),
                context=self.context,
                redirects=endpoint.redirects,
                **self.question,
            )
            if self.blind:
                answer = _diagnose.unseen(endpoint.service, answer)
            if not _diagnose.answered(endpoint.service, answer):
                break
        return answer


class _Refusal:
    """Finds out why, once it is clear that it failed, and makes the task's result of it."""

    def __init__(
        self,
        action: ActionModule,
        preview: dict[str, Any],
        settings: dict[str, Any],
        secrets: list[str],
        task_vars: dict[str, Any],
    ) -> None:
        self.action = action
        self.preview = preview
        self.settings = settings
        self.secrets = secrets
        self.task_vars = task_vars

    def of(self, scene: _diagnose.Scene, failed: _diagnose.Finding) -> dict[str, Any]:
        """The result of a preview that does not become well."""
        scene = self._closer(scene)
        findings = _diagnose.judge(scene) or [failed]
        findings.sort(key=lambda finding: finding.service != failed.service)
        return _diagnose.refusal(scene, findings, self.secrets)

    def of_start(self, scene: _diagnose.Scene, failure: dict[str, Any]) -> dict[str, Any]:
        """The result of a preview whose services could not even be started."""
        scene = self._closer(scene)
        said = [*failure["said"], failure["msg"]] if failure["late"] else failure["said"]
        found = _diagnose.start_failed(scene, "\n".join(said), late=failure["late"])
        return _diagnose.refusal(scene, [found], self.secrets)

    def _closer(self, scene: _diagnose.Scene) -> _diagnose.Scene:
        findings = _diagnose.judge(scene)
        guilty = {finding.service for finding in findings}
        idents = [c.ident for c in scene.containers if c.service in guilty]
        at_fault = [
            name
            for name, endpoint in scene.endpoints.items()
            if endpoint.answer and not _diagnose.answered(endpoint.service, endpoint.answer)
        ]
        return scene._replace(
            told=self.action.told(self.preview, idents, self.secrets),
            inside=self._inside(scene, at_fault) if at_fault else {},
        )

    def _inside(self, scene: _diagnose.Scene, names: list[str]) -> dict[str, _http.Answer]:
        """What the gateway answers on its own host, where neither DNS nor a firewall matters."""
        if _in_cluster(self.preview):
            return self._within_cluster(scene, names)
        asked = {
            "urls": [scene.endpoints[name].answer.url for name in names],
            "address": _loopback(self.settings["preview_gateway_address"]),
            **_question(self.settings),
        }
        probed = self.action._execute_module(
            "ephemera.preview.probe_info", asked, task_vars=self.task_vars
        )
        answers = {}
        for name, raw in zip(names, probed.get("answers", []), strict=False):
            answer = _http.Answer(**dict(raw, body=raw["body"].encode()))
            blind = _is_blind(self.settings)
            answers[name] = (
                _diagnose.unseen(scene.endpoints[name].service, answer) if blind else answer
            )
        return answers

    def _within_cluster(self, scene: _diagnose.Scene, names: list[str]) -> dict[str, _http.Answer]:
        """What a cluster says of services that it asks itself, where nobody else comes through."""
        inside = {}
        for name in names:
            service, answer = scene.endpoints[name].service, scene.endpoints[name].answer
            heard = [c.heard for c in scene.of(service)]
            if answer.trouble in _diagnose.UNREACHED and all(heard):
                well = _http.Answer(_diagnose.READY, answer.url)
                inside[name] = _diagnose.unseen(service, well)
        return inside


def _container(raw: dict[str, Any]) -> _diagnose.Container:
    """A container as the program ``_cluster`` has written it."""
    heard, listen = raw["heard"], raw["listen"]
    if heard:
        heard = _http.Answer(url="", **dict(heard, body=heard["body"].encode()))
    fields = dict(raw, heard=heard, held=tuple(raw["held"]))
    return _diagnose.Container(**dict(fields, listen=listen and [tuple(each) for each in listen]))


def _in_cluster(preview: dict[str, Any]) -> bool:
    return bool(preview["target"] == "kubernetes")


def _question(settings: dict[str, Any]) -> dict[str, Any]:
    """Method and headers of what is asked: as a reviewer who knows a password, if any knows one."""
    if _is_blind(settings):
        # What a browser asks before a request to another origin; the gateway lets it through.
        headers = {"Origin": "https://preview.invalid", "Access-Control-Request-Method": "GET"}
        return {"method": "OPTIONS", "headers": headers}
    for pair in _known(settings):
        token = base64.b64encode(pair.encode()).decode("ascii")
        return {"method": "GET", "headers": {"Authorization": f"Basic {token}"}}
    return {"method": "GET", "headers": {}}


def _known(settings: dict[str, Any]) -> list[str]:
    """``user:password`` where not just its hash is known."""
    users = sorted(settings["preview_auth_users"].items())
    return [f"{user}:{given}" for user, given in users if not _route.is_hash(str(given))]


def _is_blind(settings: dict[str, Any]) -> bool:
    """Whether the gateway asks for a password that nobody here knows."""
    return bool(settings["preview_auth_users"]) and not _known(settings)


def _context(settings: dict[str, Any]) -> ssl.SSLContext:
    # A gateway's own certificate nobody vouches for.
    trusting = settings["preview_gateway_tls"] == "selfsigned"
    return _http.context(settings["preview_ca_file"], trusting)


def _loopback(address: str) -> str:
    """Where on its host a gateway that listens on ``address`` is reached."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
