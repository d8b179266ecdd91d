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
        settings, failure = self.settings(task_vars), arguments["failure"]
        target = _InCluster if preview["target"] == "kubernetes" else _OnHost
        there = target(self, preview, settings)
        scene = there.scene(whole)
        if failure and "said" not in failure:
            raise AnsibleActionFail(failure["msg"])
        if failure:
            return _refused_start(there, scene, failure)
        failed = _wait(there, scene)
        if failed:
            return _refused(there, *failed)
        changed, mine, now = there.settled()
        if not whole:
            return {"changed": changed}
        state = _drift.deployed(preview, mine, now, settings["preview_ttl"])
        return {"changed": changed, "state": state}


def _wait(
    there: _OnHost | _InCluster, scene: _diagnose.Scene
) -> tuple[_diagnose.Scene, _diagnose.Finding] | None:
    """Until all is well, or will not be: then what was last seen, and what is wrong."""
    end = time.monotonic() + there.settings["preview_verify_timeout"]
    patience, pause = _diagnose.Patience(), _diagnose.POLL / 8
    ask, before = _Ask(there.settings), record(there.preview).get("spent")
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
        scene = scene._replace(containers=there.look(), unissued=there.unissued(scene))


# -- why it failed, once that is clear --------------------------------------------------------


def _refused(
    there: _OnHost | _InCluster, scene: _diagnose.Scene, failed: _diagnose.Finding
) -> dict[str, Any]:
    """The result of a preview that does not become well."""
    scene = _closer(there, scene)
    findings = _diagnose.judge(scene) or [failed]
    findings.sort(key=lambda finding: finding.service != failed.service)
    return _diagnose.refusal(scene, findings, there.secrets)


def _refused_start(
    there: _OnHost | _InCluster, scene: _diagnose.Scene, failure: dict[str, Any]
) -> dict[str, Any]:
    """The result of a preview whose services could not even be started."""
    scene = _closer(there, scene)
    said = [*failure["said"], failure["msg"]] if failure["late"] else failure["said"]
    found = _diagnose.start_failed(scene, "\n".join(said), late=failure["late"])
    return _diagnose.refusal(scene, [found], there.secrets)


def _closer(there: _OnHost | _InCluster, scene: _diagnose.Scene) -> _diagnose.Scene:
    guilty = {finding.service for finding in _diagnose.judge(scene)}
    idents = [c.ident for c in scene.containers if c.service in guilty]
    at_fault = [
        name
        for name, endpoint in scene.endpoints.items()
        if endpoint.answer and not _diagnose.answered(endpoint.service, endpoint.answer)
    ]
    return scene._replace(
        told=there.told(idents) if idents else {},
        inside=there.inside(scene, at_fault) if at_fault else {},
    )


# -- the targets ------------------------------------------------------------------------------


class _Target:
    """A preview where it runs."""

    def __init__(
        self, action: ActionModule, preview: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        self.action = action
        self.preview = preview
        self.settings = settings
        self.secrets = _identity.secret_values(preview, settings)


class _OnHost(_Target):
    mine: dict[str, Any]
    now = 0

    def scene(self, whole: bool) -> _diagnose.Scene:
        """What is first seen of all services, or of the data services."""
        name, services = self.preview["name"], self.preview["services"]
        self.mine = _docker.empty(name)
        if whole:  # Data services have no image of ours.
            seen = _docker.observe(self.action.on_host, self.preview["state_dir"], name)
            self.mine, self.now = seen["previews"][name], seen["now"]
        return _diagnose.Scene(
            [s for s in services if whole or s["data"]],
            self.look(),
            images={image["ref"]: image["id"] for image in self.mine["images"]},
            whole=whole,
        )

    def look(self) -> list[_diagnose.Container]:
        name = self.preview["name"]
        argv = ["sh", "-c", _diagnose.LOOK, "look", name, _diagnose.LOOK_FORMAT]
        ran = self.action.on_host(argv)
        if ran.rc != 0:
            raise AnsibleActionFail(
                "The Docker engine stopped answering while the preview was verified: "
                f"{(ran.err or ran.out).strip() or 'no answer.'}"
            )
        return _diagnose.parse_look(ran.out, name, self.secrets)

    def told(self, idents: list[str]) -> dict[str, _diagnose.Told]:
        """The last words of these containers."""
        ran = self.action.on_host(["sh", "-c", _diagnose.TOLD, "told", *idents])
        return _diagnose.parse_told(ran.out, self.secrets)

    def inside(self, scene: _diagnose.Scene, names: list[str]) -> dict[str, _http.Answer]:
        """What the gateway answers on its own host, where neither DNS nor a firewall matters."""
        asked = {
            "urls": [scene.endpoints[name].answer.url for name in names],
            "address": _loopback(self.settings["preview_gateway_address"]),
            **_question(self.settings),
        }
        probed = self.action._execute_module(
            "ephemera.preview.probe_info", asked, task_vars=self.action.vars
        )
        answers = {}
        for name, raw in zip(names, probed.get("answers", []), strict=False):
            answer = _http.Answer(**dict(raw, body=raw["body"].encode()))
            blind = _is_blind(self.settings)
            answers[name] = (
                _diagnose.unseen(scene.endpoints[name].service, answer) if blind else answer
            )
        return answers

    def unissued(self, scene: _diagnose.Scene) -> dict[str, _diagnose.Unissued]:
        """The certificates of hosts that are not trusted, where each has one of its own that has
        not been issued yet."""
        return {}

    def settled(self) -> tuple[bool, dict[str, Any], int]:
        """Whether anything had to go, what there is now, and when."""
        return False, self.mine, self.now


class _InCluster(_Target):
    def scene(self, whole: bool) -> _diagnose.Scene:
        """The same. What a cluster runs besides goes once this is well."""
        services = [s for s in pinned(self.preview) if whole or s["data"]]
        return _diagnose.Scene(services, self.look(), whole=False)

    def look(self) -> list[_diagnose.Container]:
        asked = {"services": self.preview["services"], "secrets": self.secrets}
        said = self.action.ask_cluster(self.preview, "look", **asked)
        return [_container(each) for each in said["containers"]]

    def told(self, idents: list[str]) -> dict[str, _diagnose.Told]:
        """The last words of these pods."""
        asked = {"pods": idents, "secrets": self.secrets}
        said = self.action.ask_cluster(self.preview, "last_words", **asked)
        return {pod: _diagnose.Told(log, [], False) for pod, log in said["logs"].items()}

    def inside(self, scene: _diagnose.Scene, names: list[str]) -> dict[str, _http.Answer]:
        """What a cluster says of services that it asks itself, where nobody else comes through."""
        answers = {}
        for name in names:
            service, answer = scene.endpoints[name].service, scene.endpoints[name].answer
            heard = [c.heard for c in scene.of(service)]
            if answer.trouble in _diagnose.UNREACHED and all(heard):
                well = _http.Answer(_diagnose.READY, answer.url)
                answers[name] = _diagnose.unseen(service, well)
        return answers

    def unissued(self, scene: _diagnose.Scene) -> dict[str, _diagnose.Unissued]:
        """The same."""
        issuer = self.settings["preview_tls_issuer"]
        heard = {name: endpoint.answer for name, endpoint in scene.endpoints.items()}
        untrusted = [name for name, answer in heard.items() if answer and answer.trouble == "tls"]
        if not issuer or not untrusted:
            return {}
        asked = {"issuer": issuer, "services": untrusted}
        said = self.action.ask_cluster(self.preview, "unissued", **asked)
        return {name: _diagnose.Unissued(**each) for name, each in said["unissued"].items()}

    def settled(self) -> tuple[bool, dict[str, Any], int]:
        """The same, once what is no longer wanted has gone."""
        made = json.loads(Path(self.preview["project_file"]).read_text(encoding="utf-8"))
        wanted = _manifests.everything(made)
        quota = next(each for each in made["base"] if each["kind"] == "ResourceQuota")
        left = {"wanted": wanted, "quota": quota}
        said = self.action.ask_cluster_as_holder(self.preview, "settle", **left)
        return said["changed"], said["previews"][self.preview["name"]], said["now"]


def _container(raw: dict[str, Any]) -> _diagnose.Container:
    """A container as the program ``_cluster`` has written it."""
    heard, listen = raw["heard"], raw["listen"]
    if heard:
        heard = _http.Answer(url="", **dict(heard, body=heard["body"].encode()))
    fields = dict(raw, heard=heard, held=tuple(raw["held"]))
    return _diagnose.Container(**dict(fields, listen=listen and [tuple(each) for each in listen]))


# -- how it is asked --------------------------------------------------------------------------


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
