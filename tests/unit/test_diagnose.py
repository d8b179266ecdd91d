"""What is wrong with a preview, told from facts: every rule, every cause, and the page of both."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _diagnose
from ansible_collections.ephemera.preview.plugins.module_utils._diagnose import (
    Container,
    Endpoint,
    Patience,
    Scene,
    Told,
)
from ansible_collections.ephemera.preview.plugins.module_utils._http import Answer

ROOT = Path(__file__).resolve().parents[2]
URL = "https://shop-pr-42.preview.example.org"
ANY = [("any", 8000)]


def service(name="web", **changes):
    return {
        "name": name,
        "image": f"ephemera-preview/shop-pr-42/{name}:0123456789ab",
        "source": "build",
        "data": False,
        "completes": False,
        "replicas": 1,
        "most": 1,
        "resources": {"memory": 256 << 20},
        "expose": None,
        "health": None,
        **changes,
    }


WEB = service(
    expose={"port": 8000, "host": "shop-pr-42.preview.example.org", "url": URL},
    health={"path": "/health", "deep": None, "status": [200], "interval": 1, "timeout": 5,
            "start_period": 0, "retries": 60},
)  # fmt: skip
FRONT = service(expose=WEB["expose"])
DB = service("db", data=True, image="postgres:17", source="pull")
JOB = service("job", completes=True)
WORKER = service("worker")


def container(of, **changes):
    facts = {"up": 60.0, "image": of["image"], "image_id": "sha256:new", **changes}
    return Container(of["name"] + "-1", of["name"], **facts)


def scene(*pairs, answer=None, told=None, inside=None, up=60.0, **changes):
    """A preview of (service, container) pairs, whose web service gave an answer."""
    services = list({id(s): s for s, dummy in pairs}.values())
    endpoints = {}
    for one in services:
        if one["expose"] and answer is not None:
            endpoint = endpoints[one["name"]] = Endpoint(one)
            endpoint.heard(answer, now=100.0, up=up)
    return Scene(
        services,
        [c for dummy, c in pairs if c],
        images={s["image"]: "sha256:new" for s in services if s["source"] == "build"},
        endpoints=endpoints,
        told={k: Told(v, [1], False) for k, v in (told or {}).items()},
        inside={"web": inside} if inside else {},
        **changes,
    )


def codes(of):
    return [finding.code for finding in _diagnose.judge(of)]


def reply(status=200, path="/health", **changes):
    return Answer(status, URL + path, address="192.0.2.7:443", **changes)


DEAD = reply(502, body=b"Bad Gateway")
OUTSIDE = {"dns": "Name or service not known", "refused": "Connection refused"}


def outside(trouble, url=URL + "/health"):
    return Answer(0, url, trouble=trouble, detail=OUTSIDE.get(trouble, "it is self-signed"))


PRESENTED = "Presented challenge using DNS-01 challenge mechanism"


def unissued(reason="", said=""):
    certificate = "--namespace shop-pr-42 web-tls"
    return {"web": _diagnose.Unissued("ClusterIssuer/le", certificate, reason, said)}


# -- each rule, by a preview that breaks it ----------------------------------------------------

LOCAL = dict(WEB, expose=dict(WEB["expose"], host="shop-pr-42.localhost"))
CASES = {
    "too_few": (scene((WORKER, None)), "worker has 0 of its 1 containers."),
    "outdated": (
        scene((WORKER, container(WORKER, image_id="sha256:old"))),
        "worker still runs another image than the wanted commit's.",
    ),
    "leftover": (
        Scene([WORKER], [container(WORKER), container(service("mailer"))]),
        "mailer is no longer wanted, and its container is still there.",
    ),
    "cannot_start": (
        scene((WORKER, container(WORKER, status="created", error='OCI runtime create failed: exec:'
                                 ' "celery": executable file not found in $PATH'))),
        "worker cannot be started: the program celery is not in its image.",
    ),
    "waits": (
        scene((WORKER, container(WORKER, status="created"))),
        "worker was never started: what it depends on did not become ready.",
    ),
    "no_memory": (
        scene((WORKER, container(WORKER, status="restarting", oom=True, code=137))),
        "worker was killed: it needs more memory than its limit of 256 MiB. Raise x-preview.size "
        "or deploy.resources.limits.memory.",
    ),
    "exits": (
        scene((WORKER, container(WORKER, status="restarting", code=1)),
              told={"worker-1": ["Traceback (most recent call last):", "KeyError: 'BROKER_URL'"]}),
        "worker exits at start with code 1: the variable BROKER_URL is missing.",
    ),
    "ends": (
        scene((WORKER, container(WORKER, status="restarting", code=0))),
        "worker ends at once with code 0. Its command has to keep running in the foreground.",
    ),
    "job_no_memory": (
        scene((JOB, container(JOB, status="exited", oom=True, code=137))),
        "job was killed: it needs more memory than its limit of 256 MiB. Raise x-preview.size or "
        "deploy.resources.limits.memory.",
    ),
    "job_failed": (
        scene((JOB, container(JOB, status="exited", code=3)),
              told={"job-1": ["fetching", "error: no licence"]}),
        "job has to complete, and failed with code 3, saying: error: no licence.",
    ),
    "job_runs": (scene((JOB, container(JOB))), "job has to complete, and still runs."),
    "unhealthy": (
        scene((WORKER, container(WORKER, health="unhealthy",
                                 check_said="/bin/sh: 1: curl: not found\n"))),
        "worker runs, but its own healthcheck fails: the program curl is not in its image.",
    ),
    "starting": (
        scene((WORKER, container(WORKER, health="starting", check_said="no queue\n"))),
        "worker is still starting: its own healthcheck has not passed yet, saying: no queue. Where "
        "it only needs more time, raise preview_verify_timeout.",
    ),
    "young": (scene((WORKER, container(WORKER, up=2.0))), "worker has only just been started."),
    "data_silent": (
        scene((DB, container(DB, listen=[], exposes=True))),
        "db runs, but accepts no connection yet: nothing in it listens on a TCP port.",
    ),
    "data_loopback": (
        scene((DB, container(DB, listen=[("loopback", 5432)]))),
        "db listens on 127.0.0.1 only, which no other service reaches: let it listen on 0.0.0.0.",
    ),
    "loopback": (
        scene((WEB, container(WEB, listen=[("loopback", 8000)])), answer=DEAD),
        "web listens on 127.0.0.1:8000 only, which nobody outside its container reaches: let it "
        "listen on 0.0.0.0.",
    ),
    "one_address": (
        scene((WEB, container(WEB, listen=[("other", 8000)])), answer=DEAD),
        "web listens on port 8000 of one address only, which is not the gateway's side: let it "
        "listen on 0.0.0.0.",
    ),
    "wrong_port": (
        scene((WEB, container(WEB, listen=[("any", 5000), ("loopback", 9)])), answer=DEAD),
        "web listens on port 5000, not on 8000: name the right one under ports or "
        "x-preview.expose.",
    ),
    "no_port": (
        scene((WEB, container(WEB, listen=[])), answer=DEAD,
              told={"web-1": ["could not connect to localhost:5432: Connection refused"]}),
        "web runs, but nothing listens on its port 8000: it looks for a service on localhost, "
        "which is its own container. Give it the name of the service as host, such as db.",
    ),
    "silent": (
        scene((WEB, container(WEB)), answer=DEAD),
        "web runs, but nothing answers on its port 8000.",
    ),
    "not_http": (
        scene((WEB, container(WEB, listen=ANY)), answer=DEAD),
        "web listens on port 8000, but breaks the connection instead of answering in plain HTTP.",
    ),
    "slow": (
        scene((WEB, container(WEB, listen=ANY)), answer=reply(0, trouble="timeout")),
        f"web does not answer {URL}/health within its timeout of 5 s.",
    ),
    "too_long": (
        scene((WEB, container(WEB, listen=ANY)), answer=reply(0, trouble="size")),
        f"web answers {URL}/health with more than 64 KiB of headers.",
    ),
    "error": (
        scene((WEB, container(WEB)), answer=reply(500),
              told={"web-1": ['UndefinedTableError: relation "orders" does not exist']}),
        f"web answers 500 at {URL}/health: the table orders is missing. Let x-preview.migrate make "
        "it.",
    ),
    "busy": (
        scene((WEB, container(WEB)), answer=reply(503)),
        f"web answers 503 at {URL}/health.",
    ),
    "status": (
        scene((WEB, container(WEB)), answer=reply(404)),
        f"web answers 404 at {URL}/health, expected 200.",
    ),
    "to_http": (
        scene((WEB, container(WEB)),
              answer=reply(307, location=f"http{URL[5:]}/health/")),
        f"web redirects {URL}/health to http{URL[5:]}/health/: behind the gateway it takes itself "
        "for http. Let it trust X-Forwarded-Proto.",
    ),
    "to_itself": (
        scene((FRONT, container(FRONT)), answer=reply(302, "/", location="http://localhost:8000/")),
        f"web redirects {URL}/ to http://localhost:8000/, which only its own container reaches. "
        "Let it redirect to a path, or make its address of PREVIEW_URL.",
    ),
    "redirects": (
        scene((WEB, container(WEB)), answer=reply(302, location="https://login.example.org/")),
        f"web redirects {URL}/health to https://login.example.org/, expected 200.",
    ),
    "in_circles": (
        scene((FRONT, container(FRONT)), answer=reply(302, "/", location="/")),
        f"web redirects {URL}/ in circles.",
    ),
    "pull_unknown": (
        scene((WORKER, container(WORKER, held=("pull_unknown", "")))),
        "the image ephemera-preview/shop-pr-42/worker:0123456789ab cannot be pulled: its registry "
        "wants a login and was shown none. Check its name, or set preview_registries.",
    ),
    "no_room": (
        scene((WORKER, container(WORKER, held=("no_room", "0/3 nodes: 3 Insufficient cpu")))),
        "worker finds no place in the cluster: 0/3 nodes: 3 Insufficient cpu. Take down previews "
        "that are not needed, ask for less by x-preview.size, or add a node.",
    ),
    "no_volume": (
        scene(
            (
                WORKER,
                container(
                    WORKER,
                    held=("no_volume", 'storageclass.storage.k8s.io "best" not found'),
                ),
            )
        ),
        'worker gets no volume: storageclass.storage.k8s.io "best" not found. Let '
        "preview_storage_class name a storage class of the cluster, and see that what makes its "
        "volumes runs.",
    ),
    "no_disk": (
        scene((WORKER, container(WORKER, held=("no_disk", "it exceeds the limit of 2Gi")))),
        "worker was evicted: it writes more to its own file system than it may (it exceeds the "
        "limit of 2Gi). Let it write to a volume, or raise preview_ephemeral_storage.",
    ),
    "root": (
        scene((WORKER, container(WORKER, held=("root", "")))),
        "worker runs as root, which preview_pod_security: restricted does not let run. Give its "
        "image a USER by number (USER 1000:1000), or the service a user.",
    ),
    "named_user": (
        scene((WORKER, container(WORKER, held=("named_user", "node")))),
        "worker runs as the user node, and by a name preview_pod_security: restricted cannot tell "
        "that it is not root. Give its image a USER by number (USER 1000:1000), or the service a "
        "user.",
    ),
    "forbidden": (
        scene((WORKER, container(WORKER, held=("forbidden", "violates PodSecurity")))),
        "the cluster lets worker have no pod: violates PodSecurity.",
    ),
    "quota": (
        scene((WORKER, container(WORKER, held=("quota", "exceeded quota: preview")))),
        "worker does not fit into the quota of its namespace: exceeded quota: preview. Ask for "
        "less.",
    ),
    "pending": (
        scene((WORKER, container(WORKER, held=("pending", "ContainerCreating")))),
        "worker has not been started yet: ContainerCreating.",
    ),
    "no_route": (
        scene((FRONT, container(FRONT)),
              answer=reply(404, body=b"<title>There is no preview here</title>")),
        "the gateway does not lead to web: bring the preview up again.",
    ),
    "too_many": (
        scene((FRONT, container(FRONT)), answer=reply(429)),
        f"the gateway allows no more requests to {URL}/health for now: raise preview_rate_limit.",
    ),
    "locked": (
        scene((FRONT, container(FRONT)), answer=reply(401, body=b"401 Unauthorized\n")),
        f"the gateway asks for a password at {URL}/health, and accepts none of preview_auth_users. "
        "Run ephemera.preview.gateway and bring the preview up again.",
    ),
    "no_gateway": (
        scene((WEB, container(WEB)), answer=outside("refused"),
              inside=outside("refused", "https://127.0.0.1")),
        "the gateway does not answer, not even on its own host at https://127.0.0.1 (Connection "
        "refused). Run ephemera.preview.gateway.",
    ),
    "dns": (
        scene((WEB, container(WEB)), answer=outside("dns"), inside=reply()),
        "web answers on its host, but shop-pr-42.preview.example.org cannot be found from here: no "
        "DNS record leads to it. Let a wildcard record of its domain lead to the host.",
    ),
    "localhost": (
        scene((LOCAL, container(LOCAL)), answer=outside("refused"), inside=reply()),
        "web answers on its host, but names under localhost lead to whatever machine asks. Set "
        "preview_domain or preview_host_ip.",
    ),
    "firewall": (
        scene((WEB, container(WEB)), answer=outside("refused"), inside=reply()),
        "web answers on its host, but shop-pr-42.preview.example.org:443 cannot be reached from "
        "here (Connection refused). Open the port in the firewall before the host, or correct the "
        "DNS record of shop-pr-42.preview.example.org.",
    ),
    "tls": (
        scene((WEB, container(WEB)), answer=outside("tls"), inside=reply()),
        "web answers, but the certificate at shop-pr-42.preview.example.org is not trusted here: "
        "it is self-signed. Set preview_ca_file, or give the gateway another certificate.",
    ),
    "no_issuer": (
        scene((WEB, container(WEB)), answer=outside("tls"), unissued=unissued("IssuerNotFound")),
        "web answers, but cert-manager finds no ClusterIssuer/le to issue the certificate of "
        "shop-pr-42.preview.example.org. Make it, or correct preview_tls_issuer.",
    ),
    "no_certificate": (
        scene((WEB, container(WEB)), answer=outside("tls"),
              unissued=unissued("Presented", PRESENTED)),
        "web answers, but ClusterIssuer/le has issued no certificate for "
        "shop-pr-42.preview.example.org yet, saying: Presented challenge using DNS-01 challenge "
        "mechanism. Look at kubectl describe certificate --namespace shop-pr-42 web-tls; where it "
        "only needs more time, raise preview_verify_timeout.",
    ),
    "elsewhere": (
        scene((WEB, container(WEB)), answer=reply(404), inside=reply()),
        f"web answers on its host, but {URL}/health leads to something else at 192.0.2.7:443, "
        "which answers 404. Correct the DNS record of shop-pr-42.preview.example.org, or what "
        "stands before the host.",
    ),
}  # fmt: skip
STARTS = {
    "pull_denied": (
        "pull access denied for postgres, repository does not exist or may require 'docker login'",
        "the image postgres:17 cannot be pulled: its registry knows no such image, or shows it to "
        "nobody who is not logged in. Check its name, or set preview_registries.",
    ),
    "pull_missing": (
        "manifest for postgres:17 not found: manifest unknown",
        "the image postgres:17 cannot be pulled: its registry has no such tag. Check its name.",
    ),
    "pull_limit": (
        "toomanyrequests: You have reached your unauthenticated pull rate limit.",
        "the image postgres:17 cannot be pulled: its registry allows no more pulls for now. Log in "
        "by preview_registries, or set a mirror.",
    ),
    "pull_unreachable": (
        'Get "https://registry.example.org/v2/": dial tcp: lookup registry.example.org: no such '
        "host",
        "the image postgres:17 cannot be pulled: its registry cannot be reached from where "
        "previews run (no such host).",
    ),
    "not_started": (
        " Network x Creating\nError response from daemon: all predefined address pools are full.",
        "the services could not be started: Error response from daemon: all predefined address "
        "pools are full.",
    ),
}


@pytest.mark.parametrize("code", CASES)
def test_a_broken_preview_is_told_in_one_sentence(code):
    of, sentence = CASES[code]
    found = _diagnose.judge(of)
    assert [f.code for f in found][:1] == [code]
    assert found[0].sentence == sentence


@pytest.mark.parametrize("code", STARTS)
def test_services_that_cannot_be_started_are_told_in_one_sentence(code):
    said, sentence = STARTS[code]
    found = _diagnose.start_failed(scene((DB, None), (WEB, None)), said)
    assert (found.code, found.sentence) == (code, sentence)
    assert found.service == ("" if code == "not_started" else "db")


def test_every_rule_has_a_case():
    assert set(CASES) | set(STARTS) == set(_diagnose.RULES)


def test_a_healthy_preview_has_no_finding():
    pairs = [
        (WEB, container(WEB, health="healthy")),
        (DB, container(DB, health="healthy")),
        (WORKER, container(WORKER, restarts=7, up=3600.0)),
        (JOB, container(JOB, status="exited", code=0)),
    ]
    assert _diagnose.judge(scene(*pairs, answer=reply())) == []


# -- never too early ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "facts", "ready"),
    [
        (WORKER, {"up": 2.9}, False),
        (WORKER, {"up": 3.0}, True),
        (WORKER, {"up": 9.0, "restarts": 1}, False),
        (WORKER, {"up": 11.0, "restarts": 1}, True),
        (WORKER, {"up": 0.5, "health": "healthy"}, True),
        (DB, {"up": 0.5, "listen": ANY}, True),
        (DB, {"up": 9.0, "listen": []}, False),
        (DB, {"up": 11.0, "listen": []}, True),
        (DB, {"up": 11.0, "listen": [], "exposes": True}, False),
        (DB, {"up": 11.0, "listen": [], "exposes": True, "declined": True}, True),
        (DB, {"up": 2.0, "listen": None}, False),
        (DB, {"up": 4.0, "listen": None}, True),
        (WORKER, {"status": "paused"}, False),
    ],
)
def test_a_container_is_ready_when_it_has_shown_it(of, facts, ready):
    assert (_diagnose.judge(scene((of, container(of, **facts)))) == []) is ready


def test_a_pulled_image_is_known_by_its_name():
    assert codes(scene((DB, container(DB, listen=ANY)))) == []
    assert codes(scene((DB, container(DB, listen=ANY, image="postgres:16")))) == ["outdated"]
    assert codes(scene((DB, container(DB, listen=ANY, image="sha256:0123")))) == []


def test_one_container_too_many_is_not_ready():
    of = scene((WORKER, container(WORKER)))
    assert codes(of._replace(containers=of.containers * 2)) == ["outdated"]


def test_between_as_many_containers_as_an_autoscaler_may_want_all_is_well():
    scaled = service("worker", replicas=2, most=4)
    well, unplaced = container(scaled), container(scaled, held=("no_room", "0/1 nodes"))
    assert codes(scene((scaled, well))) == ["too_few"]
    for count in (2, 3, 4):
        assert codes(scene(*[(scaled, well)] * count)) == []
    assert codes(scene(*[(scaled, well)] * 5)) == ["outdated"]
    # What finds no place is more than is needed, unless it is needed.
    unmade = container(scaled, held=("quota", "exceeded"), image="", image_id="")
    assert codes(scene((scaled, well), (scaled, well), (scaled, unplaced), (scaled, unmade))) == []
    assert codes(scene((scaled, well), (scaled, unplaced))) == ["no_room"]


def test_only_data_services_are_looked_at_when_only_they_are_up():
    of = scene((DB, container(DB, listen=ANY)), whole=False)
    assert codes(of._replace(containers=[*of.containers, container(WORKER)])) == []


def test_a_page_of_the_gateway_is_no_answer_of_the_app():
    page = (ROOT / "roles/gateway/files/pages/gone.html").read_bytes()
    assert not _diagnose.answered(FRONT, reply(404, "/", body=page))
    assert _diagnose.answered(FRONT, reply(404, "/", body=b"Not Found"))


@pytest.mark.parametrize(
    ("health", "answer", "passes"),
    [
        ({"status": [200]}, reply(204), False),
        ({"status": [200, 204]}, reply(204), True),
        ({"status": [302]}, reply(302, location="http://elsewhere.example/"), True),
        (None, reply(302, "/", location="https://login.example.org/"), True),
        (None, reply(401, "/", body=b"who are you?"), True),
        (None, reply(500, "/"), False),
        (None, reply(0, "/", trouble="closed"), False),
    ],
)
def test_what_an_answer_has_to_be(health, answer, passes):
    assert _diagnose.answered(dict(FRONT, health=health), answer) is passes


def test_where_no_password_is_known_any_answer_of_the_app_counts():
    def passes(answer):
        return _diagnose.answered(WEB, _diagnose.unseen(WEB, answer))

    assert passes(reply(405))
    assert not passes(DEAD)
    assert not passes(reply(429))
    assert not passes(reply(401, body=b"401 Unauthorized"))


# -- causes before their consequences, and how long to wait ------------------------------------


def test_a_dead_database_comes_before_the_app_that_needs_it():
    of = scene(
        (WEB, container(WEB)),
        (DB, container(DB, status="restarting", code=1, restarts=4)),
        answer=reply(500),
    )
    assert codes(of) == ["exits", "error"]


def test_a_service_that_is_not_well_is_not_asked_for_its_answer():
    assert codes(scene((WEB, container(WEB, health="unhealthy")), answer=DEAD)) == ["unhealthy"]


def test_a_loop_is_final_whichever_side_of_it_is_seen():
    patience = Patience()
    down = scene((WORKER, container(WORKER, status="restarting", code=1, restarts=3)))
    up = scene((WORKER, container(WORKER, up=0.3, restarts=3)))
    at = [(0.0, down), (1.0, up), (3.0, down), (4.9, up)]
    assert not any(patience.spent(_diagnose.judge(of), now) for now, of in at)
    assert patience.spent(_diagnose.judge(up), 5.0)


@pytest.mark.parametrize(
    ("status", "restarts", "final"),
    [
        ("restarting", 1, False),
        ("running", 2, False),
        ("restarting", 2, True),
        ("running", 3, True),
    ],
)
def test_three_deaths_are_a_loop(status, restarts, final):
    dying = container(WORKER, status=status, code=1, up=1.0, restarts=restarts)
    (finding,) = _diagnose.judge(scene((WORKER, dying)))
    assert (finding.patience is not None) == final


def test_what_dies_once_may_recover():
    patience = Patience()
    once = _diagnose.judge(scene((WORKER, container(WORKER, up=1.0, restarts=1))))
    assert not patience.spent(once, 0.0)
    assert not patience.spent(once, 60.0)


def test_what_was_well_in_between_begins_again():
    patience = Patience()
    bad = _diagnose.judge(CASES["unhealthy"][0])
    assert not patience.spent(bad, 0.0)
    assert not patience.spent([], 4.0)
    assert not patience.spent(bad, 6.0)
    assert patience.spent(bad, 11.0)


def test_a_failed_job_is_final_at_once():
    assert Patience().spent(_diagnose.judge(CASES["job_failed"][0]), 0.0)


def test_the_first_of_those_that_are_final_is_told():
    of = scene(
        (WEB, container(WEB, health="starting")),
        (WORKER, container(WORKER, status="exited", code=1)),
    )
    patience = Patience()
    patience.spent(_diagnose.judge(of), 0.0)
    assert patience.spent(_diagnose.judge(of), 5.0).service == "worker"


def test_what_got_its_login_late_is_tried_before_others_are_told():
    web, worker = (WEB, container(WEB, health="unhealthy")), (WORKER, container(WORKER))
    late = (WORKER, container(WORKER, held=("pull_unknown", "")))
    patience = Patience()
    for now in (0.0, 6.0, 12.0):
        assert not patience.spent(_diagnose.judge(scene(web, late)), now)
    pulled = _diagnose.judge(scene(web, worker))
    assert not patience.spent(pulled, 13.0), "it has its own time to show what is wrong with it"
    assert patience.spent(pulled, 17.0).service == "web"
    never = Patience()
    assert not never.spent(_diagnose.judge(scene(web, late)), 0.0)
    assert never.spent(_diagnose.judge(scene(web, late)), 60.0), "nor is that waited for longer"


def endpoint(**health):
    return Endpoint(dict(WEB, health=dict(WEB["health"], **health)))


def test_retries_count_failed_probes_after_the_start_period():
    mine = endpoint(retries=3, interval=2, start_period=10)
    for now in (0, 4, 8):
        mine.heard(reply(503), now, up=now)
    assert (mine.failed, mine.starting) == (0, True)
    for now in (10, 12, 14):
        assert not mine.exhausted
        mine.heard(reply(503), now, up=now)
    assert (mine.failed, mine.exhausted) == (3, True)
    mine.heard(reply(200), 16, up=16)
    assert not mine.exhausted


def test_the_interval_spares_the_app_but_not_the_gateway():
    mine = endpoint(interval=10)
    assert mine.due(0.0)
    mine.heard(DEAD, 0.0, up=1)
    assert mine.due(0.3)
    mine.heard(DEAD, 0.3, up=1)
    assert mine.failed == 1  # one an interval
    mine.heard(reply(503), 1.0, up=2)
    assert not mine.due(10.9)
    assert mine.due(11.0)


def test_nothing_is_final_within_the_start_period():
    of = scene((WEB, container(WEB)), answer=reply(404))
    assert _diagnose.judge(of)[0].patience == 10
    started = endpoint(start_period=30)
    started.heard(reply(404), 100.0, up=29.0)
    assert _diagnose.judge(of._replace(endpoints={"web": started}))[0].patience is None


def test_exhausted_retries_are_final():
    mine = endpoint(retries=1)
    mine.heard(reply(503), 0.0, up=1.0)
    of = scene((WEB, container(WEB)))._replace(endpoints={"web": mine})
    assert Patience().spent(_diagnose.judge(of), 0.0).code == "busy"


def test_a_certificate_that_is_being_issued_is_waited_for_however_often_it_is_asked_for():
    mine = endpoint(retries=1)
    mine.heard(outside("tls"), 0.0, up=1.0)
    of = scene((WEB, container(WEB)), unissued=unissued())._replace(endpoints={"web": mine})
    (finding,) = _diagnose.judge(of)
    assert (finding.code, finding.patience) == ("no_certificate", None)
    assert "yet, and nobody says why: see that cert-manager runs. Look at" in finding.sentence
    # What is issued and yet not trusted will not come to be.
    assert _diagnose.judge(of._replace(unissued={}))[0].code == "tls"


def test_the_deep_path_is_asked_after_the_other():
    assert endpoint().paths == ["/health"]
    assert endpoint(deep="/health/deep").paths == ["/health", "/health/deep"]


def test_redirects_are_followed_unless_one_is_expected():
    assert endpoint().redirects > 0
    assert endpoint(status=[302]).redirects == 0


def test_trouble_on_the_way_hides_no_trouble_of_the_app():
    of = scene((WEB, container(WEB, listen=[])), answer=outside("dns"), inside=DEAD)
    assert codes(of) == ["no_port"]


def test_memory_explains_a_service_that_does_not_answer():
    of = scene((WEB, container(WEB, listen=[], oom=True)), answer=DEAD)
    assert codes(of) == ["no_memory"]


def test_compose_names_the_service_for_which_it_gave_up():
    of = scene(
        (JOB, container(JOB, status="exited", code=3)),
        (service("setup", completes=True), Container("setup-1", "setup", status="exited", code=4)),
    )
    said = 'service "setup" didn\'t complete successfully: exit 4'
    assert _diagnose.start_failed(of, said).service == "setup"


def test_the_image_whose_pull_failed_is_told_from_the_others():
    cache = service("cache", data=True, image="redis:8", source="pull")
    of = scene((DB, None), (cache, None))
    said = ' cache Error Get "https://registry.example.org/v2/": dial tcp: connection refused'
    assert _diagnose.start_failed(of, said).service == "cache"
    assert "redis:8" in _diagnose.start_failed(of, said).sentence


# -- what a log says ---------------------------------------------------------------------------

HEADS = (
    "  FAILED: Multiple head revisions are present for given argument 'head'; please specify a "
    "specific target revision"
)
LOCALHOST = "looks for a service on localhost"
SAYINGS = [
    (HEADS, "two heads"),
    ("Conflicting migrations detected; multiple leaf nodes in the migration graph", "two heads"),
    ("FAILED: Can't locate revision identified by 'a1b2c3'", "at revision a1b2c3"),
    (
        'psycopg.OperationalError: connection failed: connection to server at "127.0.0.1", port '
        "5432 failed: Connection refused",
        LOCALHOST,
    ),
    ("ConnectionRefusedError: [Errno 111] Connect call failed ('127.0.0.1', 5432)", LOCALHOST),
    ("Error: connect ECONNREFUSED ::1:5432", LOCALHOST),
    ("dial tcp 127.0.0.1:6379: connect: connection refused", LOCALHOST),
    (
        "redis.exceptions.ConnectionError: Error 111 connecting to localhost:6379. refused",
        LOCALHOST,
    ),
    ("Can't connect to MySQL server on 'localhost' (111)", LOCALHOST),
    ("Connection to localhost:5432 refused. Check that the hostname and port are", LOCALHOST),
    (
        'could not translate host name "postgres" to address: Name or service not known',
        "no service is called postgres. There are: db",
    ),
    ("Error: getaddrinfo ENOTFOUND rabbit", "no service is called rabbit"),
    ("dial tcp: lookup mongo on 127.0.0.11:53: no such host", "no service is called mongo"),
    ("Error -2 connecting to cash:6379. Name or service not known.", "no service is called cash"),
    ('FATAL:  password authentication failed for user "shop"', "the password of shop"),
    ('UndefinedTableError: relation "orders" does not exist', "the table orders is missing"),
    ("sqlite3.OperationalError: no such table: users", "the table users is missing"),
    ("KeyError: 'DATABASE_URL'", "the variable DATABASE_URL is missing"),
    (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for Settings\n"
        "database_url\n  Field required [type=missing, input_value={}, input_type=dict]",
        "the setting database_url is missing",
    ),
    ("Error: DATABASE_URL is not set", "the variable DATABASE_URL is missing"),
    ("Missing required environment variable: STRIPE_KEY", "the variable STRIPE_KEY is missing"),
    ("sh: 1: REDIS_URL: parameter not set", "the variable REDIS_URL is missing"),
    ("/entry.sh: line 3: API_KEY: unbound variable", "the variable API_KEY is missing"),
    ('key not found: "SECRET_KEY_BASE" (KeyError)', "the variable SECRET_KEY_BASE is missing"),
    ("required key APP_TOKEN missing value", "the variable APP_TOKEN is missing"),
    ("ModuleNotFoundError: No module named 'uvicorn'", "the module uvicorn is not installed"),
    ("Error: Cannot find module 'express'", "the module express is not installed"),
    ('exec: "gunicorn": executable file not found in $PATH', "the program gunicorn is not in"),
    ("unable to find user app: no matching entries in passwd file", "the user app is not in"),
    ("sh: 1: npm: not found", "the program npm is not in"),
    ("exec /app/run: exec format error", "another processor"),
    ("FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", "memory"),
    ("RuntimeError: can't start new thread", "more processes"),
    ("OSError: [Errno 28] No space left on device", "the disk"),
    ('Container main exceeded its local ephemeral storage limit "2Gi".', "its own file system"),
    ("Pod ephemeral local storage usage exceeds the total limit of containers 2Gi.", "writes more"),
    ("OSError: [Errno 98] Address already in use", "the same port"),
    ("OSError: [Errno 30] Read-only file system: '/app/x'", "read-only"),
    ("PermissionError: [Errno 13] Permission denied: '/data/x'", "may not read or write /data/x"),
    ("bind: permission denied", "may not read or write what it needs"),
]


@pytest.mark.parametrize(("line", "cause"), SAYINGS)
def test_a_log_names_its_cause(line, cause):
    assert cause in _diagnose.cause_of(["Starting", *line.split("\n")], ["db"])


def test_every_cause_has_a_saying():
    told = {_diagnose.cause_of(line.split("\n")) for line, dummy in SAYINGS}
    for _pattern, cause in _diagnose.WORDS:
        like = re.escape(cause).replace(r"\{0\}", ".+").replace(r"\{data\}", ".+")
        assert any(re.fullmatch(like, one) for one in told), cause


@pytest.mark.parametrize(
    "line",
    [
        "INFO: Application startup complete.",
        "GET /api/orders 200",
        'INFO: 10.213.0.2:40066 - "GET /health HTTP/1.1" 200 OK',
        "Listening on http://0.0.0.0:8000",
        "LOG:  database system is ready to accept connections",
    ],
)
def test_an_ordinary_line_names_no_cause(line):
    assert _diagnose.cause_of([line]) == ""


def test_the_line_with_the_error_is_quoted():
    log = ["ValueError: no colour", "", "Node.js v22.1.0"]
    of = scene((WORKER, container(WORKER, status="restarting", code=1)), told={"worker-1": log})
    assert _diagnose.judge(of)[0].sentence.endswith("code 1, saying: ValueError: no colour.")


def test_what_an_app_writes_costs_no_time():
    import time

    began = time.monotonic()
    for text in ("connect to " * 60, "A_" * 300, "localhost " * 60, "exec " * 120, "\t" * 600):
        _diagnose.cause_of([text[:500]] * 40)
    assert time.monotonic() - began < 1


# -- hostile logs ------------------------------------------------------------------------------


NOON = 1767268800 * 10**9
STAMP = "2026-01-01T12:00:0{}.000000001Z"


def test_log_lines_cannot_pose_as_facts():
    forged = f"die\tworker-1\t0 {NOON}"
    output = (
        f"log\tworker-1\t{STAMP.format(0)} one\x85{forged}\rdie\tworker-1\t0 0\u2028{forged}\n"
        f"die\tworker-1\t7 {NOON}\n"
    )
    assert _diagnose.parse_told(output)["worker-1"].codes == [7]


def test_of_a_loop_only_the_last_life_is_told():
    lives = [f"log\tworker-1\t{STAMP.format(n)} life {n}\n" for n in range(4)]
    deaths = [f"die\tworker-1\t{n} {NOON + n * 10**9 + 5 * 10**8}\n" for n in range(3)]
    told = _diagnose.parse_told("".join(lives + deaths))["worker-1"]
    assert (told.log, told.codes, told.oom) == (["life 2"], [0, 1, 2], False)


def test_what_is_shown_obeys_nobody_and_keeps_secrets():
    lines = [
        "::error::x",
        "\x1b[2J\x9b2Jred",
        "token s3cr3t-value",
        "\udcff",
        "a\u202eb",
        "x" * 900,
    ]
    shown = _diagnose.presentable(lines, ["s3cr3t-value"])
    assert shown[:2] == [": :error::x", "2Jred"]
    assert shown[2:5] == ["token ********", "?", "ab"]
    assert len(shown[5]) == 500


def test_a_secret_that_the_host_cut_is_kept_too():
    """Others before it make a line short enough for its end to be shown."""
    line = "x" * 1600 + "y" * 390 + "s3cr3t-val"
    assert _diagnose.presentable([line], ["s3cr3t-value", "x" * 1600]) == [
        "********" + "y" * 390 + "********..."
    ]


def test_a_secret_of_many_lines_is_kept_too():
    assert _diagnose.presentable(["key:", "-----BEGIN", "abc"], ["-----BEGIN\nabc"]) == [
        "key:",
        "********",
    ]


# -- the facts ---------------------------------------------------------------------------------


def look(ident="c1", name="/shop-pr-42-web-1", state=None, sockets=(), **changes):
    raw = {
        "name": name,
        "image": "i:1",
        "image_id": "sha256:new",
        "restarts": 0,
        "check": None,
        "ports": {"8000/tcp": {}},
        "service": "web",
        "state": {"Status": "running", "StartedAt": "2026-01-01T00:00:10.5Z", **(state or {})},
        **changes,
    }
    lines = [f"container\t{ident}\t{json.dumps(raw)}"]
    if sockets is not None:
        lines.append(f"sockets\t{ident}")
        lines += [f"   {n}: {s} 00000000:0000 0A 0:0 00:0 0" for n, s in enumerate(sockets)]
    return "\n".join(lines) + "\n"


def parse(*parts):
    return _diagnose.parse_look("now\t1767225640\n" + "".join(parts), "shop-pr-42")


def test_the_kernel_s_sockets_are_read():
    sockets = [
        "00000000:1F40",  # 0.0.0.0:8000
        "0100007F:1F41",  # 127.0.0.1:8001
        "00000000000000000000000000000000:1F42",  # [::]:8002
        "00000000000000000000000001000000:1F43",  # [::1]:8003
        "0000000000000000FFFF00000100007F:1F44",  # ::ffff:127.0.0.1:8004
        "0302D50A:1F45",  # 10.213.2.3:8005
        "0B00007F:9C41",  # Docker's resolver
    ]
    (found,) = parse(look(sockets=sockets))
    assert found.listen == [
        ("any", 8000),
        ("loopback", 8001),
        ("any", 8002),
        ("loopback", 8003),
        ("loopback", 8004),
        ("other", 8005),
    ]
    assert (found.up, found.exposes) == (29.5, True)
    assert parse(look(sockets=None))[0].listen is None


def test_a_container_that_only_carries_the_label_is_none_of_ours():
    assert parse(look(name="/shop-pr-4-web-1")) == []
    assert parse(look(name="/0123456789ab_shop-pr-42-web-1"))


def test_health_and_end_are_read():
    health = {"Status": "unhealthy", "Log": [{"Output": "old"}, {"Output": "no curl"}]}
    (found,) = parse(look(state={"Health": health}, check={"Test": ["CMD", "curl"]}))
    assert (found.health, found.check_said, found.declined) == ("unhealthy", "no curl", False)
    (found,) = parse(look(state={"Status": "exited", "ExitCode": 3}, check={"Test": ["NONE"]}))
    assert (found.status, found.code, found.up, found.declined) == ("exited", 3, 0.0, True)


# -- one-offs ----------------------------------------------------------------------------------

EXITED = json.dumps({"ExitCode": 3, "OOMKilled": False})
HOOKED = {
    "late": (
        "late\nstate\t\t{}\nlog\t\tworking\n",
        "migrate of web did not end within its timeout of 3 s and was stopped.",
    ),
    "no_memory": (
        'state\t\t{"ExitCode": 137, "OOMKilled": true}\n',
        "migrate of web was killed: it needs more memory than the service's limit. Raise "
        "x-preview.size or deploy.resources.limits.memory.",
    ),
    "failed": (
        f"state\t\t{EXITED}\nlog\t\t{HEADS}\n",
        "migrate of web failed with code 3: its migrations have two heads. Merge them into one "
        "(alembic merge heads).",
    ),
    "not_started": (
        'said\t\texec: "alembic": executable file not found in $PATH\n',
        "migrate of web could not be started: the program alembic is not in its image.",
    ),
    "gone": ("", "migrate of web was ended by somebody else, who removed its container."),
}


@pytest.mark.parametrize("kind", _diagnose.HOOKS)
def test_a_one_off_that_fails_is_told_in_one_sentence(kind):
    output, sentence = HOOKED[kind]
    ended = _diagnose.parse_one_off(output)
    assert _diagnose.hook_failed("migrate", "web", 3, ended).sentence == sentence


def test_a_one_off_s_last_lines_are_told_without_secrets():
    output = f"state\t\t{EXITED}\n" + "".join(f"log\t\tline {n} hunter22\n" for n in range(50))
    ended = _diagnose.parse_one_off(output)
    log = _diagnose.hook_failed("seed", "web", 3, ended, ["hunter22"]).log
    assert (len(log), log[-1]) == (20, "line 49 ********")


# -- the page ----------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "verification.md"


def test_the_page_tells_every_sentence():
    told = {cell.strip() for line in PAGE.read_text().split("\n") for cell in line.split("|")}
    examples = [
        sentence for dummy, sentence in [*CASES.values(), *STARTS.values(), *HOOKED.values()]
    ]
    missing = [sentence for sentence in examples if sentence not in told]
    assert not missing, "\n".join(missing)


def test_the_page_tells_every_cause():
    text = " ".join(PAGE.read_text().split())
    for _pattern, cause in _diagnose.WORDS:
        like = re.escape(cause).replace(r"\{0\}", "[^|]+").replace(r"\{data\}", "[^|]+")
        assert re.search(r"\| " + like + r" \|", text), cause


def waits(patience):
    return {None: "time is up", 0: "at once"}.get(patience, f"{patience} s")


def test_the_page_tells_how_long_each_may_last():
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    told = {code: after for code, after in rows if code in _diagnose.RULES}
    assert told == {code: waits(rule.patience) for code, rule in _diagnose.RULES.items()}
