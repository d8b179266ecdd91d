# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a cluster by a run that has something to do; see ``_cluster``."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _http,
    _kubernetes,
    _kubernetes_apply,
    _kubernetes_canary,
    _kubernetes_external,
    _kubernetes_ingress,
    _kubernetes_service,
    _kubernetes_teardown,
    _kubernetes_tls,
)
from ansible_collections.ephemera.preview.plugins.module_utils._cluster import Ask, Params
from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact


def _brought(cluster: _kubernetes.Cluster, params: Params) -> List[str]:
    """What must not be shown, and only the cluster knows."""
    return _kubernetes_external.values(cluster, params["name"]) if params["external"] else []


def _secrets(cluster: _kubernetes.Cluster, params: Params) -> List[str]:
    """The same with what the run knows."""
    return [*params["secrets"], *_brought(cluster, params)]


def _apply(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    """``steps``: as of ``_kubernetes_apply.work``; ``births``: the claims to tell the age of;
    ``hosts``: those that are served, with ``ingress``, the settings of the controller, and
    ``issuer``, that of their certificates; ``copies``: Secrets that are copied; ``provide``: what
    an operator makes Secrets of."""
    if params["hosts"]:
        _kubernetes_ingress.refuse_other(cluster, params["ingress"])
        _kubernetes_ingress.refuse_taken(cluster, params["hosts"], params["name"])
        _kubernetes_tls.refuse_missing(cluster, params["issuer"])
    copied = [
        _kubernetes_tls.copy_secret(cluster, source, params["name"], params["labels"])
        for source in params["copies"]
    ]
    provided = _kubernetes_external.provide(cluster, params["provide"], params["seconds"])
    done = _work(cluster, params)
    return dict(
        done.failure or {},
        step=done.step,
        changed=done.changed or provided or any(copied),
        births=_kubernetes_apply.births(cluster, params["name"], params["births"]),
    )


def _work(cluster: _kubernetes.Cluster, params: Params) -> _kubernetes_apply.Done:
    steps = [
        _kubernetes_apply.Step(
            [_kubernetes_apply.pinned(each, params["pins"]) for each in step["objects"]],
            step.get("services", ()),
        )
        for step in params["steps"]
    ]
    return _kubernetes_apply.work(
        cluster, params["name"], steps, params["seconds"], _secrets(cluster, params)
    )


def _canary(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    """Apply ``steps``, what surrounds a preview, and see by ``job`` that it holds. Where it does
    not, nothing of the preview goes on."""
    done = _work(cluster, params)
    try:
        _kubernetes_canary.check(cluster, params["job"], params["egress"])
    except _kubernetes_canary.Unenforced:
        _kubernetes_apply.prune(cluster, params["name"], (), _kubernetes_apply.WORKLOADS)
        raise
    return {"changed": done.changed}


def _ingress(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    return _kubernetes_ingress.known(cluster, params["ingress"])._asdict()


def _doctor(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    from ansible_collections.ephemera.preview.plugins.module_utils import _kubernetes_doctor

    return {"facts": _kubernetes_doctor.look(cluster, params, check)._asdict()}


def _hook(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    """Run one-offs, each the last of its objects; the first that fails is told, and ends it."""
    secrets = _secrets(cluster, params)
    for one in params["jobs"]:
        objects = [_kubernetes_apply.pinned(each, params["pins"]) for each in one["objects"]]
        ended = _kubernetes_apply.run_job(cluster, objects, one["seconds"], secrets)
        if ended:
            return {"service": one["service"], "ended": ended._asdict()}
    return {"ended": None}


def _workloads(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    return {"workloads": _kubernetes_apply.workloads(cluster, params["name"])}


def _settle(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    """What is no longer wanted goes, and with it the room it had; then what there is."""
    pruned = _kubernetes_apply.prune(cluster, params["name"], params["wanted"])
    _kubernetes_apply.write(cluster, params["quota"])
    seen = _kubernetes.observe(cluster, params["name"])
    return dict(seen, pruned=pruned, changed=bool(pruned))


def _teardown(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    return _kubernetes_teardown.run(cluster, params, check)


def _look(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    """The containers of ``services``; of what their endpoints said the status, trouble and body."""
    secrets = _secrets(cluster, params)
    look = _kubernetes_apply.Look(cluster, params["name"], params["services"], secrets)
    return {"containers": [dict(c._asdict(), heard=_told(c.heard)) for c in look.all()]}


def _unissued(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    found = _kubernetes_tls.unissued(cluster, params["name"], params["issuer"], params["services"])
    return {"unissued": {service: each._asdict() for service, each in found.items()}}


def _told(heard: Optional[_http.Answer]) -> Optional[Dict[str, Any]]:
    return heard and {
        "status": heard.status,
        "trouble": heard.trouble,
        "body": heard.body.decode("ascii"),
    }


def _last_words(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    """Those of pods, by their names."""
    secrets = _secrets(cluster, params)
    return {
        "logs": {
            pod: _kubernetes_apply.logs(cluster, params["name"], pod, secrets)
            for pod in params["pods"]
        }
    }


def _logs(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    pods = _kubernetes_service.of(params["containers"], params["service"])
    out = _kubernetes_service.logs(cluster, params["name"], pods, params["tail"], params["since"])
    return {"out": redact(out, _brought(cluster, params))}


def _run(cluster: _kubernetes.Cluster, params: Params, check: bool) -> Dict[str, Any]:
    pods = _kubernetes_service.of(params["containers"], params["service"])
    ran = _kubernetes_service.run(cluster, params["name"], pods, params["command"])
    return {"rc": ran.rc, "out": redact(ran.out, _brought(cluster, params))}


ASKED: Dict[str, Ask] = {
    "apply": _apply,
    "canary": _canary,
    "ingress": _ingress,
    "doctor": _doctor,
    "hook": _hook,
    "workloads": _workloads,
    "settle": _settle,
    "teardown": _teardown,
    "look": _look,
    "unissued": _unissued,
    "last_words": _last_words,
    "logs": _logs,
    "run": _run,
}
