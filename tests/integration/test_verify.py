"""Real apps, each broken in one way, and the sentence a reviewer reads."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from conftest import Platform, Played, free_port

# One image for all: what is wrong with a service is the first word of its command.
APP = """
import os, socket, socketserver, sqlite3, sys, time, urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOW = (sys.argv + ["serves"])[1]
BEGAN = time.monotonic()


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.log_message("asked for %s", self.path)
        answer = getattr(self, "do_" + HOW, None)
        answer() if answer else self.say(200)

    def say(self, status, *headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_fails(self):
        try:
            sqlite3.connect(":memory:").execute("select * from orders")
        except sqlite3.Error as error:
            print("sqlite3.OperationalError:", error, flush=True)
            self.say(500)

    def do_dribbles(self):
        for byte in b"HTTP/1.1 200 OK\\r\\n" + b"X: y\\r\\n" * 100:
            self.wfile.write(bytes([byte]))
            time.sleep(1)

    def do_bombs(self):
        self.say(200, *[("X-%d" % n, "y" * 1000) for n in range(100)])

    def do_leads_away(self):
        self.say(302, ("Location", "http://169.254.169.254/latest/meta-data/"))

    def do_leads_home(self):
        self.say(302, ("Location", "http://localhost:8080/docs"))

    def do_slash(self):
        scheme = self.headers["X-Forwarded-Proto"] if "trusts" in sys.argv else "http"
        if self.path.endswith("/"):
            return self.say(200)
        self.say(307, ("Location", "%s://%s%s/" % (scheme, self.headers["Host"], self.path)))

    def do_deep(self):
        self.say(503 if self.path == "/deep" else 200)

    def do_warms(self):
        self.say(200 if time.monotonic() - BEGAN > 5 else 404)


def serve(address="", port=8080):
    ThreadingHTTPServer((address, port), Page).serve_forever()


if HOW == "misses":
    sys.tracebacklimit = 0
    os.environ["SHOP_TOKEN"]
elif HOW == "ends":
    sys.exit(0)
elif HOW == "dies":
    print("looking for colours\\n::error::\\x1b[31mred", os.environ["TOKEN"], flush=True)
    sys.stdout.buffer.write(b"bytes \\xff\\xfe\\n")
    time.sleep(2)
    sys.exit("ColourError: no colours left in " + os.environ["TOKEN"])
elif HOW == "hungers":
    held = [bytearray(1 << 20) for dummy in range(200)]
elif HOW == "local":
    serve("127.0.0.1")
elif HOW == "other_port":
    serve(port=9000)
elif HOW == "asks_localhost":
    while True:
        try:
            socket.create_connection(("127.0.0.1", 5432), 1)
        except OSError as error:
            print("ConnectionRefusedError: localhost:5432:", error.strerror, flush=True)
        time.sleep(1)
elif HOW == "listens_late":
    time.sleep(4)
    serve(port=7000)
elif HOW == "idles":
    time.sleep(3600)
else:
    serve()
"""
DOCKERFILE = "FROM python:3.13-slim\nENV PYTHONUNBUFFERED=1\nCOPY app.py /\n"
WORKER = {"expose": False}
SECRET = "s3cr3t-Value-of-the-platform"


def service(how: str, *more: str, **changes: Any) -> dict[str, Any]:
    own: dict[str, Any] = {
        "build": ".",
        "command": ["python", "/app.py", how, *more],
        "stop_signal": "SIGKILL",
        **changes,
    }
    if own.get("x-preview", {}).get("expose") is not False:
        own.setdefault("ports", ["8080"])
    return own


def files(services: dict[str, Any], **more: str) -> dict[str, str | bytes | None]:
    web = next(iter(services))
    compose = {"x-preview": {"web": web}, "services": services, "volumes": {"data": {}}}
    own = {"Dockerfile": DOCKERFILE, "app.py": APP, "compose.yaml": json.dumps(compose)}
    return {**own, **more}


def up(
    platform: Platform, number: int, services: dict[str, Any], more: dict[str, str] | None = None,
    **settings: Any,
) -> Played:  # fmt: skip
    commit = platform.repository.pull_request(
        number, f"Change {time.monotonic_ns()}", files=files(services, **(more or {}))
    )
    return platform.up(number, commit, **settings)


def failed(played: Played) -> dict[str, Any]:
    """The result of the task that failed first."""
    played.refused()
    texts = re.findall(r"^fatal: \[.*?FAILED! => (\{.*\})$", played.out, re.MULTILINE)
    found = [r for r in map(json.loads, texts) if "service" in r]
    assert found, played.out
    return found[0]


def sentences(played: Played) -> dict[str, str]:
    """What is told of each service."""
    return {f["service"]: f["sentence"] for f in reversed(failed(played)["findings"])}


def test_a_dozen_broken_services_are_told_apart_at_once(anywhere: Platform) -> None:
    platform = anywhere
    door = {"health": "/health"}
    played = up(
        platform,
        1,
        {
            "web": service("serves", **{"x-preview": door}),
            "local": service("local"),
            "other": service("other_port"),
            "asking": service("asks_localhost"),
            "failing": service("fails", **{"x-preview": door}),
            "dribbling": service("dribbles", **{"x-preview": {"health": {"timeout": "1s"}}}),
            "bombing": service("bombs"),
            "away": service("leads_away", **{"x-preview": door}),
            "home": service("leads_home"),
            "deep": service("deep", **{"x-preview": {"health": {"deep": "/deep"}}}),
            "missing": service("misses", **{"x-preview": WORKER}),
            "ending": service("ends", **{"x-preview": WORKER}),
            "hungry": service("hungers", **{"mem_limit": "32m", "x-preview": WORKER}),
            "checked": service(
                "idles",
                healthcheck={"test": "curl -f localhost", "interval": "1s", "retries": 1,
                             "start_period": "1s"},
                **{"x-preview": WORKER},
            ),
            "worker": service("idles", **{"x-preview": WORKER}),
        },
        preview_verify_timeout=120,
    )  # fmt: skip
    told = sentences(played)
    url = "http://{}--" + platform.name(1) + f".localhost:{platform.port}"
    assert told.pop("missing") == (
        "missing exits at start with code 1: the variable SHOP_TOKEN is missing."
    )
    assert told.pop("ending") == (
        "ending ends at once with code 0. Its command has to keep running in the foreground."
    )
    assert told.pop("hungry").startswith(
        "hungry was killed: it needs more memory than its limit of 32 MiB."
    )
    assert told.pop("checked") == (
        "checked runs, but its own healthcheck fails: the program curl is not in its image."
    )
    assert told.pop("local").startswith("local listens on 127.0.0.1:8080 only")
    assert told.pop("other").startswith("other listens on port 9000, not on 8080")
    assert told.pop("asking").startswith(
        "asking runs, but nothing listens on its port 8080: it looks for a service on localhost"
    )
    assert told.pop("failing") == (
        f"failing answers 500 at {url.format('failing')}/health: the table orders is missing. Let "
        "x-preview.migrate make it."
    )
    assert told.pop("dribbling") == (
        f"dribbling does not answer {url.format('dribbling')}/ within its timeout of 1 s."
    )
    assert told.pop("bombing") == (
        f"bombing answers {url.format('bombing')}/ with more than 64 KiB of headers."
    )
    assert told.pop("away") == (
        f"away redirects {url.format('away')}/health to "
        "http://169.254.169.254/latest/meta-data/, expected 200."
    )
    assert told.pop("home").startswith(
        f"home redirects {url.format('home')}/ to http://localhost:8080/docs, which only its own"
    )
    assert told.pop("deep").startswith(f"deep answers 503 at {url.format('deep')}/deep")
    assert told == {}
    assert played.result["outcome"] == "failed"
    assert played.result["failure"]["stage"] == "verify"
    # What cannot become well is told long before the time is up.
    assert played.result["stages"][-1]["seconds"] < 60


def at_once(platform: Platform, *wanted: tuple[dict[str, Any], dict[str, Any]]) -> list[Played]:
    """Bring one preview up, and down again, for each (services, settings); two at a time."""

    def bring(number: int, one: tuple[dict[str, Any], dict[str, Any]]) -> Played:
        mine = platform.beside(f"p{number}")
        played = up(mine, number, one[0], **one[1])
        mine.down(number).ok()
        return played

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(bring, range(1, len(wanted) + 1), wanted))


def told(refusals: list[Played]) -> list[tuple[str, str]]:
    """Stage and sentence of each."""
    return [(played.refused().result["failure"]["stage"], played.sentence) for played in refusals]


def test_what_is_well_passes_and_stays_when_a_later_commit_fails(anywhere: Platform) -> None:
    platform = anywhere
    reach = "import socket; socket.create_connection(('queue', 7000), 1)"
    secret = {"preview_secret_key": "k" * 40, "preview_secrets": {"TOKEN": SECRET}}
    late = {"image": "busybox:1.37", "command": ["sh", "-c", "sleep 4; exec nc -l -p 7000"]}
    job = service("ends", **{"x-preview": WORKER})

    def web(**wishes: Any) -> dict[str, Any]:
        return service(
            "slash",
            "trusts",
            environment={"TOKEN": "${TOKEN}"},
            volumes=["data:/data"],
            depends_on={
                "job": {"condition": "service_completed_successfully"},
                "queue": {"condition": "service_started"},
            },
            **{"x-preview": {"health": "/health", **wishes}},
        )

    # A seed that fails is told without the secrets it tells, and is not complete.
    failing = "echo partly >> /data/log; echo refused: $$TOKEN; exit 4"
    migrate = ["python", "-c", reach]
    services = {"web": web(migrate=migrate, seed=["sh", "-c", failing]), "job": job, "queue": late}
    played = up(platform, 1, services, **secret)
    assert told([played]) == [
        ("seed", "seed of web failed with code 4, saying: refused: ********.")
    ]
    assert failed(played)["log"] == ["refused: ********"]
    assert SECRET not in played.out
    assert platform.services(1) == ["queue"]

    # What starts slowly is waited for: the queue's port, and an app that warms up.
    checked = DOCKERFILE + "HEALTHCHECK --interval=1h CMD test -e /app.py\n"
    services = {
        "web": web(migrate=migrate, seed=["sh", "-c", "echo wholly >> /data/log"]),
        "warming": service(
            "warms", **{"x-preview": {"health": {"start_period": "30s", "retries": 1}}}
        ),
        "worker": service("idles", **{"x-preview": WORKER}),
        # The engine alone would ask for the first time in an hour.
        "checked": service("idles", build={"context": ".", "dockerfile_inline": checked})
        | {"x-preview": WORKER, "ports": []},
        "job": job,
        "queue": late | {"command": [*late["command"][:2], "sleep 5; exec nc -l -p 7000"]},
    }  # fmt: skip
    assert up(platform, 1, services, **secret).ok().result["outcome"] == "ready"
    assert platform.get(1, "/health/")[0] == 200
    assert platform.exec(1, "web", "cat", "/data/log") == "partly\nwholly"

    # A migration that does not end is ended, and what served before goes on serving.
    stuck = {"command": ["sh", "-c", "echo locking; sleep 600"], "timeout": 3}
    played = up(platform, 1, services | {"web": web(migrate=stuck)}, **secret)
    assert told([played]) == [
        ("migrate", "migrate of web did not end within its timeout of 3 s and was stopped.")
    ]
    assert failed(played)["log"] == ["locking"]
    assert platform.get(1, "/health/")[0] == 200
    assert platform.services(1) == sorted(services)


WEB = service("serves", **{"x-preview": {"health": "/health"}})


def test_what_cannot_be_started_is_told(anywhere: Platform) -> None:
    after = {"depends_on": {"job": {"condition": "service_completed_successfully"}}}
    misses = service("misses", **{"x-preview": WORKER})
    idles = service("idles", **{"x-preview": WORKER})
    refusals = at_once(
        anywhere,
        ({"web": WEB | after, "job": misses}, {}),
        ({"web": WEB | {"command": ["gunicorn", "app"]}}, {}),
        ({"web": WEB | after, "job": idles}, {"preview_verify_timeout": 20}),
    )
    assert told(refusals) == [
        (
            "deploy",
            "job has to complete, and failed with code 1: the variable SHOP_TOKEN is missing.",
        ),
        ("deploy", "web cannot be started: the program gunicorn is not in its image."),
        ("deploy", "job has to complete, and still runs."),
    ]


def test_what_is_up_but_not_well_does_not_pass(anywhere: Platform) -> None:
    db = {"image": "busybox:1.37", "command": ["httpd", "-f", "-p", "127.0.0.1:5432"]}
    slow = {"test": "echo no queue; false", "interval": "1s", "retries": 3, "start_period": "60s"}
    secret = {"preview_secret_key": "k" * 40, "preview_secrets": {"TOKEN": SECRET}}
    own = {"environment": {"TOKEN": "${TOKEN}"}, "x-preview": WORKER}
    both = {"web": service("serves", healthcheck=slow), "worker": service("dies", **own)}
    loop, silent = at_once(anywhere, (both, secret), ({"web": WEB, "db": db}, {}))
    assert told([silent]) == [
        (
            "database",
            "db listens on 127.0.0.1 only, which no other service reaches: let it listen on "
            "0.0.0.0.",
        )
    ]
    assert loop.result["failure"]["stage"] == "verify"
    assert sentences(loop) == {
        "worker": "worker exits at start with code 1, saying: ColourError: no colours left in "
        "********.",
        "web": "web is still starting: its own healthcheck has not passed yet, saying: no queue. "
        "Where it only needs more time, raise preview_verify_timeout.",
    }
    # A loop is seen fast. Its last words are not obeyed, and give no secret away.
    assert loop.result["stages"][-1]["seconds"] < 40
    log = failed(loop)["log"]
    assert log[:2] == ["looking for colours", ": :error::red ********"]
    assert log[-1] == "ColourError: no colours left in ********"
    assert loop.result["failure"]["log"] == log
    for text in (loop.out, json.dumps(loop.result)):
        assert SECRET not in text
        assert "\x1b" not in text
    assert not re.search(r"^\s*::error::", loop.out, re.MULTILINE)


ALEMBIC = {
    "Dockerfile": (
        "FROM python:3.13-slim\n"
        "RUN pip install --no-cache-dir --disable-pip-version-check alembic\n"
        "COPY . /\n"
    ),
    "alembic.ini": "[alembic]\nscript_location = /migrations\n",
    "migrations/env.py": (
        "from alembic import context\n"
        "from sqlalchemy import create_engine\n"
        "with create_engine('sqlite:////tmp/db').connect() as connection:\n"
        "    context.configure(connection=connection)\n"
        "    with context.begin_transaction():\n"
        "        context.run_migrations()\n"
        "    connection.commit()\n"
    ),
}


def revision(name: str, folder: str = "migrations") -> dict[str, str]:
    text = f"revision = '{name}'\ndown_revision = None\ndef upgrade(): pass\n"
    return {f"{folder}/versions/{name}.py": text}


def test_what_alembic_refuses_is_told(anywhere: Platform) -> None:
    upgrade = "alembic upgrade head"
    before = f"mv /migrations /new; mv /old /migrations; {upgrade} 2>/dev/null"

    def migrating(command: str, more: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
        web = service("serves", **{"x-preview": {"migrate": ["sh", "-c", command]}})
        return {"web": web}, {"more": ALEMBIC | more}

    old = {"old/env.py": ALEMBIC["migrations/env.py"], **revision("aaa", "old")}
    after = f"{before}; mv /migrations /old; mv /new /migrations; {upgrade}"
    heads = migrating(upgrade, revision("aaa") | revision("bbb"))
    unknown = migrating(after, revision("bbb") | old)
    assert told(at_once(anywhere, heads, unknown)) == [
        (
            "migrate",
            "migrate of web failed with code 255: its migrations have two heads. Merge them into "
            "one (alembic merge heads).",
        ),
        (
            "migrate",
            "migrate of web failed with code 255: the database is at revision aaa, which this "
            "commit does not know. Bring the migration back, or take the preview down and up again "
            "for a new database.",
        ),
    ]


def forward(listener: socket.socket, port: int) -> None:
    """A door before the gateway: what connects to the listener is led to its port."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    while True:
        try:
            outer, dummy = listener.accept()
        except OSError:
            return
        inner = socket.create_connection(("127.0.0.1", port))
        for pair in ((outer, inner), (inner, outer)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


def test_trouble_on_the_way_is_told_from_trouble_of_the_app(anywhere: Platform) -> None:
    with socket.create_server(("127.0.0.9", 0)) as door:
        threading.Thread(target=forward, args=(door, anywhere.port), daemon=True).start()
        elsewhere = {
            "preview_gateway_http_port": door.getsockname()[1],
            "preview_gateway_address": "127.0.0.9",
        }
        nowhere = {"preview_domain": "nowhere.invalid"}
        refusals = at_once(anywhere, ({"web": WEB}, nowhere), ({"web": WEB}, elsewhere))
    assert told(refusals) == [
        (
            "verify",
            f"web answers on its host, but {anywhere.name(1)}.nowhere.invalid cannot be found from "
            "here: no DNS record leads to it. Let a wildcard record of its domain lead to the "
            "host.",
        ),
        (
            "verify",
            "web answers on its host, but names under localhost lead to whatever machine asks. Set "
            "preview_domain or preview_host_ip.",
        ),
    ]


# A cluster's gateway is not on the host that is asked.
def test_a_gateway_that_is_not_there_is_told(platform: Platform) -> None:
    shut = free_port()
    played = up(platform, 1, {"web": WEB}, preview_gateway_http_port=shut)
    assert told([played]) == [
        (
            "verify",
            "the gateway does not answer, not even on its own host at "
            f"http://{platform.name(1)}.localhost:{shut}/health (Connection refused). Run "
            "ephemera.preview.gateway.",
        )
    ]


def test_an_app_that_takes_itself_for_http_is_told(anywhere: Platform) -> None:
    door = {"x-preview": {"health": "/health"}}
    both = {"web": service("slash", "trusts", **door), "naive": service("slash", **door)}
    with anywhere.over_https() as tls:
        played = up(anywhere, 1, both, **tls)
    domain = tls.get("preview_domain", "localhost")
    host = f"naive--{anywhere.name(1)}.{domain}:{tls['preview_gateway_https_port']}"
    assert sentences(played) == {
        "naive": f"naive redirects https://{host}/health to http://{host}/health/: behind the "
        "gateway it takes itself for http. Let it trust X-Forwarded-Proto."
    }
