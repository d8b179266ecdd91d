"""The gateway and the firewall, tried from outside and from inside real containers."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _firewall, _route
from conftest import (
    IPV6,
    InCluster,
    Platform,
    Played,
    a_port,
    an_app,
    docker,
    failing_at_first,
    free_port,
    holdings,
)
from gomodules import CACHE
from packages import needed
from sshd import a_builder
from test_doctor import ask

GATEWAY = "ephemera-preview-gateway"
IMAGE = "python:3.13-slim"
DOMAIN = "example.test"
PEBBLE = "github.com/letsencrypt/pebble/v2/cmd/{0}@v2.10.1"

# Answers with the request's headers, so that a test sees what an app sees.
ECHO = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Echo(BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(self.headers).encode() + b" " * (5000 if self.path == "/big" else 0)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_OPTIONS = do_POST = do_GET
ThreadingHTTPServer(("", 8080), Echo).serve_forever()
"""

# Prints the names of those addresses that a connection is made to.
REACH = """
import concurrent.futures, json, socket, sys
def reach(item):
    host, port = item[1].rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 2).close()
    except OSError:
        return ""
    return item[0]
targets = json.loads(sys.argv[1]).items()
print(*concurrent.futures.ThreadPoolExecutor(20).map(reach, targets))
"""


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: str


@dataclass
class Preview:
    """What the rest of the collection makes of a preview, as far as the gateway is concerned."""

    name: str
    octet: int
    host: str = ""
    app: str = "app"

    def __post_init__(self) -> None:
        self.host = self.host or f"{self.name}.{DOMAIN}"

    def start(self, *more: str, code: str = ECHO) -> Preview:
        """
        :param more: options of `docker run`.
        """
        labels = [f"--label=ephemera.preview/name={self.name}"]
        network = f"{self.name}_default"
        bridge = f"com.docker.network.bridge.name={_firewall.interface(self.app, network)}"
        subnets = [f"--subnet=10.213.{self.octet}.0/26"]
        if IPV6:
            subnets += ["--ipv6", f"--subnet=fd00:213:{self.octet}::/64"]
        docker("network", "create", *labels, "--opt", bridge, *subnets, network)
        for key, value in (("project", self.name), ("service", "web"), ("oneoff", "False")):
            labels.append(f"--label=com.docker.compose.{key}={value}")
        run = ["run", "--detach", *labels, "--security-opt=no-new-privileges", *more]
        docker(*run, f"--network={network}", f"--name={self.web}", IMAGE, "python", "-c", code)
        return self

    @property
    def edge(self) -> dict[str, Any]:
        return {
            "name": f"{self.name}_edge",
            "subnet": f"10.213.{self.octet}.64/26",
            "bridge": _firewall.interface(self.app, f"{self.name}_edge"),
            "labels": {"ephemera.preview/name": self.name},
            "aliases": {"web": f"web.{self.name}.preview.internal"},
        }

    def remove(self) -> None:
        containers = docker("ps", "-aq", f"--filter=name=^{self.name}-").split()
        if containers:
            docker("rm", "--force", "--volumes", *containers)
        for key in ("default", "edge"):
            docker("network", "disconnect", "-f", f"{self.name}_{key}", GATEWAY, check=False)
            docker("network", "rm", f"{self.name}_{key}", check=False)

    def address(self, key: str = "default", container: str = "") -> str:
        held = docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", container or self.web)
        return str(json.loads(held)[f"{self.name}_{key}"]["IPAddress"])

    @property
    def web(self) -> str:
        return f"{self.name}-web-1"

    def route(self, **settings: Any) -> dict[str, Any]:
        exposed = {
            "host": self.host,
            "alias": f"web.{self.name}.preview.internal",
            "port": 8080,
        }
        defaults = {
            "preview_auth_users": {},
            "preview_rate_limit": 0,
            "preview_secret_key": "k" * 32,
        }
        services = [{"name": "web", "expose": exposed}]
        return _route.route({"name": self.name, "services": services}, defaults | settings)

    def reaches(self, targets: dict[str, str], network: str = "") -> set[str]:
        """Which of these addresses this preview gets a connection to, by their names.

        :param network: ask from another container on this network of its.
        """
        where = ["run", "--rm", f"--network={network}", IMAGE] if network else ["exec", self.web]
        return set(docker(*where, "python", "-c", REACH, json.dumps(targets)).split())


@dataclass
class Host:
    """A Docker host with a gateway, and what a test leads it to."""

    platform: Platform
    https: int
    metrics: int
    settings: dict[str, Any] = field(default_factory=dict)
    played: dict[str, Any] | None = None

    def play(self, *arguments: str, **settings: Any) -> Played:
        """Set the gateway up with the settings of this test, and these."""
        played = self.platform.play(
            "gateway",
            *arguments,
            preview_domain=DOMAIN,
            preview_gateway_https_port=self.https,
            preview_gateway_metrics_port=self.metrics,
            **(self.settings | settings),
        )
        if "--check" not in arguments:
            self.played = None if played.rc else self.settings | settings
        return played

    def set_up(self, **settings: Any) -> None:
        """The same, unless it was the last that was done."""
        self.settings = settings
        if self.played != settings:
            self.play().ok()

    def route(self, preview: Preview, content: dict[str, Any]) -> Played:
        """Lead to a preview; the outcome of the one task that does it."""
        task = {
            "name": "Lead to it",
            "ephemera.preview.route": {
                "name": preview.name,
                "content": content,
                "directory": f"{self.platform.state}/gateway/routes",
                "edge": preview.edge,
            },
        }
        play = {"hosts": "preview_apps", "gather_facts": False, "tasks": [task]}
        file = self.platform.folder / "route.yml"
        file.write_text(json.dumps([play]).replace("{{", "{% raw %}{{{% endraw %}"))
        return self.platform.play(str(file))

    def leave(self, preview: Preview) -> None:
        """Lead to a preview no more, as teardown does it."""
        (self.platform.state / "gateway" / "routes" / f"{preview.name}.yaml").unlink()
        docker("network", "disconnect", "--force", f"{preview.name}_edge", GATEWAY)

    def get(
        self,
        host: str,
        path: str = "/",
        method: str = "GET",
        verify: ssl.SSLContext | None = None,
        **headers: str,
    ) -> Answer:
        if verify:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, self.https, timeout=10, context=verify
            )
            connection.sock = verify.wrap_socket(
                socket.create_connection(("127.0.0.1", self.https)), server_hostname=host
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.platform.port, timeout=10)
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, headers={"Host": host} | named)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read().decode("latin-1"))

    def scrape(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=10)
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


def until(true: Callable[[], bool], seconds: float = 10) -> float:
    """Wait until it is true; how long that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it did not come true"
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def any_host(gateway: Platform) -> Iterator[Host]:
    """The session's gateway, for this module to set up as it likes."""
    yield Host(replace(gateway, folder=gateway.folder / "gateway"), free_port(), free_port())
    shutil.rmtree(gateway.state / "gateway" / "acme", ignore_errors=True)
    for file in (gateway.state / "gateway" / "routes").glob(".tls-*"):
        file.unlink()
    gateway.play("gateway").ok()


@pytest.fixture
def host(any_host: Host) -> Host:
    """A gateway that serves over http."""
    any_host.set_up()
    return any_host


@pytest.fixture
def preview() -> Iterator[Preview]:
    mine = Preview(f"g{uuid.uuid4().hex[:6]}-pr-1", 200)
    before = holdings()
    try:
        yield mine.start()
    finally:
        mine.remove()
    assert not holdings() - before


def test_check_mode_tells_all_and_makes_nothing(host: Host, tmp_path: Path) -> None:
    played = host.play("--check", "--diff", preview_state_dir=str(tmp_path / "state")).ok()
    assert played.changed > 0
    assert "entryPoints:" in played.out
    assert not (tmp_path / "state").exists()
    assert host.play().ok().changed == 0


def test_a_route_serves_with_what_holds_for_all(host: Host, preview: Preview) -> None:
    host.route(preview, preview.route()).ok()
    took = until(lambda: host.get(preview.host).status == 200)
    assert took < 2

    forged = {"X_Forwarded_Proto": "https", "X_Forwarded_For": "1.2.3.4", "X_Real_Ip": "1.2.3.4"}
    answer = host.get(preview.host, "/a", **forged)
    assert "1.2.3.4" not in answer.body
    assert "X-Forwarded-Proto: http\n" in answer.body + "\n"
    assert f"Host: {preview.host}" in answer.body
    assert answer.headers["X-Robots-Tag"] == "noindex, nofollow"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "strict-origin-when-cross-origin"
    assert "Strict-Transport-Security" not in answer.headers
    compressed = host.get(preview.host, "/big", Accept_Encoding="gzip")
    assert compressed.headers["Content-Encoding"] == "gzip"

    router = f"{preview.name}--web@file"
    assert f'router="{router}"' in host.scrape()
    logged = [json.loads(line) for line in docker("logs", GATEWAY).splitlines()]
    mine = [entry for entry in logged if entry.get("RouterName") == router]
    assert mine and mine[-1]["DownstreamStatus"] == 200

    assert host.route(preview, preview.route()).ok().changed == 0
    host.leave(preview)
    until(lambda: host.get(preview.host).status == 404)


def test_what_is_not_there_answers_with_a_page(host: Host) -> None:
    answer = host.get(f"nobody.{DOMAIN}", "/api/x")
    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "gone" in answer.body and "being built" in answer.body
    assert answer.headers["X-Robots-Tag"] == "noindex, nofollow"


def test_no_file_harms_another(host: Host, preview: Preview) -> None:
    host.route(preview, preview.route()).ok()
    until(lambda: host.get(preview.host).status == 200)
    other = Preview("other-pr-1", 201)
    hostile = {"http": {"routers": {'{{ env "HOME" }}': {"rule": "Host(`x`)", "service": "y"}}}}
    assert "template" in host.route(other, hostile).refused().sentence
    taken = Preview("other-pr-1", 201, host=preview.host)
    assert preview.name in host.route(taken, taken.route()).refused().sentence
    routes = host.platform.state / "gateway" / "routes"
    assert not list(routes.glob("*other*"))
    time.sleep(0.3)
    assert host.get(preview.host).status == 200
    host.leave(preview)


def test_the_gateway_listens_on_no_edge_network(host: Host, preview: Preview) -> None:
    host.route(preview, preview.route()).ok()
    mine = preview.address("edge", GATEWAY)
    own = json.loads(docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", GATEWAY))
    ports = {
        f"{address}:{port}": f"{address}:{port}"
        for address in (mine, own[GATEWAY]["IPAddress"], preview.address("edge"))
        for port in (80, 443, 8080, 8081, 8082, 8443)
    }
    assert preview.reaches(ports, f"{preview.name}_edge") == {f"{preview.address('edge')}:8080"}
    host.leave(preview)


def test_a_service_that_ends_at_once_is_led_to_all_the_same(host: Host) -> None:
    """Why it ends is for who verifies to say, and not what the engine says of its sandbox."""
    dying = Preview(f"g{uuid.uuid4().hex[:6]}-pr-5", 25)
    try:
        dying.start("--restart=always", code="raise SystemExit(5)")
        host.set_up()
        until(lambda: docker("inspect", "-f", "{{.State.Status}}", dying.web) == "restarting")
        host.route(dying, dying.route()).ok()
        host.leave(dying)
    finally:
        dying.remove()


def test_a_service_that_runs_again_is_tried_again(
    host: Host, preview: Preview, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.set_up()
    call, said = "network connect --alias", "Error response from daemon: sandbox not found"
    failures = failing_at_first(tmp_path, monkeypatch, call, said, 2)
    host.route(preview, preview.route()).ok()
    assert len(failures.read_text().splitlines()) == 2
    until(lambda: host.get(preview.host).status == 200)
    host.leave(preview)


def test_a_gateway_made_anew_joins_its_previews_again(host: Host, preview: Preview) -> None:
    host.route(preview, preview.route()).ok()
    docker("rm", "--force", GATEWAY)
    host.play().ok()
    until(lambda: host.get(preview.host).status == 200)
    host.leave(preview)


def test_it_is_locked_down(host: Host) -> None:
    held = json.loads(docker("inspect", GATEWAY))[0]
    config = held["HostConfig"]
    assert config["ReadonlyRootfs"] and config["CapDrop"] == ["ALL"] and not config["CapAdd"]
    assert config["SecurityOpt"] == ["no-new-privileges:true"]
    assert config["Memory"] and config["PidsLimit"]
    assert config["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}
    assert not [m for m in held["Mounts"] if "docker.sock" in m["Source"]]
    published = docker("port", GATEWAY).splitlines()
    assert {line.split(" -> ")[1].rsplit(":", 1)[0] for line in published} == {"127.0.0.1"}


# --- TLS ---------------------------------------------------------------------------------------


def tls_context(*files: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for file in files:
        context.load_verify_locations(cafile=str(file))
    return context


def certificate(folder: Path, name: str, *options: str) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    key, crt = folder / f"{name}.key", folder / f"{name}.pem"
    argv = [needed("openssl", "openssl"), "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt"]
    argv += ["ec_paramgen_curve:prime256v1", "-subj", f"/CN={name}", *options]
    subprocess.run([*argv, "-keyout", str(key), "-out", str(crt)], check=True, capture_output=True)
    return crt, key


def test_selfsigned(any_host: Host, preview: Preview) -> None:
    host = any_host
    host.set_up(preview_gateway_tls="selfsigned")
    pem = host.platform.state / "gateway" / "certificates" / f"{DOMAIN}.pem"
    assert pem.stat().st_mode & 0o777 == 0o600
    trusted = tls_context(pem)
    host.route(preview, preview.route()).ok()
    until(lambda: host.get(preview.host, verify=trusted).status == 200)
    answer = host.get(preview.host, verify=trusted)
    assert "X-Forwarded-Proto: https\n" in answer.body + "\n"
    assert "Strict-Transport-Security" not in answer.headers
    assert host.get(f"nobody.{DOMAIN}", verify=trusted).status == 404
    for method, status in (("GET", 301), ("HEAD", 308), ("POST", 308)):
        redirect = host.get(preview.host, "/a?b=c", method)
        assert redirect.status == status
        assert redirect.headers["Location"] == f"https://{preview.host}:{host.https}/a?b=c"
    assert host.play().ok().changed == 0

    # Near its end it is made again, and served without the gateway being made anew.
    names = ["-addext", f"subjectAltName=DNS:*.{DOMAIN}", "-days", "20"]
    old, key = certificate(host.platform.folder, "old", *names)
    pem.write_text(old.read_text() + key.read_text())
    container = docker("inspect", "-f", "{{.Id}}", GATEWAY)
    assert host.play().ok().changed > 0
    assert pem.read_text() != old.read_text() + key.read_text()
    until(lambda: host.get(preview.host, verify=tls_context(pem)).status == 200)
    assert docker("inspect", "-f", "{{.Id}}", GATEWAY) == container
    host.leave(preview)


def test_given(any_host: Host, tmp_path: Path) -> None:
    host = any_host
    crt, key = certificate(tmp_path, "given", "-addext", f"subjectAltName=DNS:*.{DOMAIN}")
    host.settings = {
        "preview_gateway_tls": "given",
        "preview_gateway_certificate": str(crt),
        "preview_gateway_certificate_key": str(tmp_path / "none"),
    }
    assert "is no file on the controller" in host.play().refused().sentence
    host.settings["preview_gateway_certificate_key"] = str(key)
    played = host.play("--diff").ok()
    assert "PRIVATE KEY" not in played.out
    answer = host.get(f"nobody.{DOMAIN}", verify=tls_context(crt))
    assert answer.status == 404
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
    assert host.play().ok().changed == 0


@dataclass
class Authority:
    """A real ACME server, its DNS, and a DNS provider's API in front of that."""

    address: str
    port: int
    dns: int
    provider: int
    certificate: Path
    asked: list[tuple[str, str]]

    def settings(self) -> dict[str, Any]:
        return {
            "preview_gateway_tls": "acme",
            "preview_gateway_acme_email": f"platform@{DOMAIN}",
            "preview_gateway_acme_server": f"https://{self.address}:{self.port}/dir",
            "preview_gateway_acme_ca": str(self.certificate),
            "preview_gateway_acme_dns_provider": "httpreq",
            "preview_gateway_acme_resolvers": [f"{self.address}:{self.dns}"],
            "preview_gateway_acme_environment": {
                "HTTPREQ_ENDPOINT": f"http://{self.address}:{self.provider}",
                "HTTPREQ_USERNAME": "ann",
                "HTTPREQ_PASSWORD": "a $PATH '\" #b",
                "HTTPREQ_POLLING_INTERVAL": "1",
            },
        }


def pebble(program: str) -> str:
    """A program of Pebble, built once a machine."""
    version = PEBBLE.rsplit("@", 1)[1]
    found = CACHE / f"pebble-{version}" / program
    if not found.exists():
        subprocess.run(
            [needed("go", "golang-go"), "install", PEBBLE.format(program)],
            env=os.environ | {"GOBIN": str(found.parent)},
            check=True,
        )
    return str(found)


@pytest.fixture
def authority(any_host: Host, tmp_path: Path) -> Iterator[Authority]:
    address = "10.213.0.1"  # the host, as the gateway sees it
    if not docker("network", "ls", "-q", f"--filter=name=^{GATEWAY}$"):
        any_host.set_up()
    crt, key = certificate(tmp_path, "pebble", "-addext", f"subjectAltName=IP:{address}")
    management = free_port()
    mine = Authority(address, free_port(), free_port(), free_port(), crt, [])

    class Provider(BaseHTTPRequestHandler):
        """Takes the calls of the provider `httpreq` to the test server's own."""

        def do_POST(self) -> None:
            wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            mine.asked.append((self.path, self.headers["Authorization"]))
            verb = {"/present": "set-txt", "/cleanup": "clear-txt"}[self.path]
            connection = http.client.HTTPConnection("127.0.0.1", management)
            record = {"host": wanted["fqdn"], "value": wanted["value"]}
            connection.request("POST", f"/{verb}", json.dumps(record))
            self.send_response(connection.getresponse().status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    configuration = {
        "listenAddress": f"{address}:{mine.port}",
        "managementListenAddress": f"127.0.0.1:{free_port()}",
        "certificate": str(crt),
        "privateKey": str(key),
        "httpPort": 5002,
        "tlsPort": 5001,
        "retryAfter": {"authz": 1, "order": 1},
        "keyAlgorithm": "ecdsa",
        "profiles": {"default": {"description": "default", "validityPeriod": 7776000}},
    }
    (tmp_path / "pebble.json").write_text(json.dumps({"pebble": configuration}))
    dns = f"{address}:{mine.dns}"
    off = [f"-{name}=" for name in ("http01", "https01", "tlsalpn01", "doh")]
    server = ThreadingHTTPServer((address, mine.provider), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    commands = [
        [pebble("pebble-challtestsrv"), f"-dnsserver={dns}", *off]
        + [f"-management=127.0.0.1:{management}"],
        [pebble("pebble"), f"-config={tmp_path / 'pebble.json'}", f"-dnsserver={dns}"],
    ]
    quick = os.environ | {"PEBBLE_VA_NOSLEEP": "1"}
    with contextlib.ExitStack() as stack:
        stack.callback(server.shutdown)
        for argv in commands:
            log = stack.enter_context((tmp_path / Path(argv[0]).name).open("w"))
            process = subprocess.Popen(argv, env=quick, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        until(lambda: socket.socket().connect_ex((address, mine.port)) == 0)
        yield mine


def test_acme_wildcard(any_host: Host, authority: Authority) -> None:
    host = any_host
    host.settings = authority.settings()
    played = host.play("--diff").ok()
    assert "$PATH" not in played.out
    insecure = ssl.create_default_context()
    insecure.check_hostname = False
    insecure.verify_mode = ssl.CERT_NONE

    def issued() -> bool:
        raw = socket.create_connection(("127.0.0.1", host.https))
        with insecure.wrap_socket(raw, server_hostname=f"nobody.{DOMAIN}") as sock:
            return b"Pebble" in (sock.getpeercert(binary_form=True) or b"")

    until(issued, 60)
    assert host.get(f"nobody.{DOMAIN}", verify=insecure).status == 404
    expected = "Basic " + base64.b64encode(b"ann:a $PATH '\" #b").decode()
    assert ("/present", expected) in authority.asked
    assert host.play().ok().changed == 0
    # What was obtained outlives the gateway's container.
    asked = len(authority.asked)
    docker("rm", "--force", GATEWAY)
    host.play().ok()
    until(issued)
    assert len(authority.asked) == asked


# --- the firewall ------------------------------------------------------------------------------


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of the host, open on all its addresses."""
    with a_port() as port:
        yield port


# Addresses of a machine beside the host, which answers on port 80 of each.
NEIGHBOUR = {
    "private": "192.168.254.2",
    "metadata": "169.254.77.77",
    "public": "203.0.113.77",
    "private6": "fd00:254::2",
    "public6": "2001:db8:254::77",
}
OPEN = ("public", "public6")


@pytest.fixture
def neighbour() -> Iterator[dict[str, str]]:
    """The addresses of ``NEIGHBOUR`` that there are here, as targets."""
    name, link = "ephemera-neighbour", "ephemera-test"
    needed("ip", "iproute2")

    def run(*argv: str, check: bool = True) -> None:
        subprocess.run(argv, check=check, capture_output=True)

    here = {k: v for k, v in NEIGHBOUR.items() if IPV6 or ":" not in v}
    run("ip", "netns", "add", name)
    try:
        inside = ["ip", "-n", name]
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        for where, device in ((["ip"], link), (inside, "eth0"), (inside, "lo")):
            run(*where, "link", "set", device, "up")
        run("ip", "addr", "add", "192.168.254.1/30", "dev", link)
        run(*inside, "addr", "add", "192.168.254.2/30", "dev", "eth0")
        run(*inside, "route", "add", "default", "via", "192.168.254.1")
        if IPV6:
            run("ip", "addr", "add", "fd00:254::1/64", "dev", link, "nodad")
            run(*inside, "addr", "add", "fd00:254::2/64", "dev", "eth0", "nodad")
            run(*inside, "route", "add", "default", "via", "fd00:254::1")
        for address in set(here.values()) - {"192.168.254.2", "fd00:254::2"}:
            whole, via = ("128", "fd00:254::2") if ":" in address else ("32", "192.168.254.2")
            run(*inside, "addr", "add", f"{address}/{whole}", "dev", "lo")
            run("ip", "route", "add", f"{address}/{whole}", "via", via)
        serve = ["python3", "-m", "http.server", "80", "--bind", "::" if IPV6 else "0.0.0.0"]
        served = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{name}", *serve],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: socket.socket().connect_ex((here["private"], 80)) == 0)
            yield {key: f"{address}:80" for key, address in here.items()}
        finally:
            served.kill()
            served.wait()
    finally:
        run("ip", "link", "delete", link, check=False)
        run("ip", "netns", "delete", name)


def from_a_build(targets: dict[str, str], folder: Path) -> set[str]:
    """Which of these addresses a RUN step of a build gets a connection to, by their names."""
    (folder / "reach.py").write_text(REACH)
    step = f"echo reached $(python /reach.py '{json.dumps(targets)}')"
    (folder / "Dockerfile").write_text(f"FROM {IMAGE}\nCOPY reach.py /\nRUN {step}\n")
    argv = ["docker", "build", "--no-cache", "--progress=plain", "--output=type=cacheonly"]
    done = subprocess.run([*argv, str(folder)], capture_output=True, text=True, check=True)
    lines = [line.split(" reached ") for line in done.stderr.splitlines() if " reached " in line]
    return set(lines[-1][1].split()) & set(targets)


@pytest.fixture
def published() -> Iterator[int]:
    """A port that somebody else's container publishes on all of the host's addresses."""
    name = f"g{uuid.uuid4().hex[:6]}-published"
    docker("run", "-d", "--publish=8080", f"--name={name}", IMAGE, "python", "-c", ECHO)
    yield int(docker("port", name, "8080").splitlines()[0].rsplit(":", 1)[1])
    docker("rm", "--force", name)


@pytest.mark.skipif(os.geteuid() != 0, reason="rules and neighbours need root")
def test_the_firewall(
    any_host: Host,
    preview: Preview,
    neighbour: dict[str, str],
    listening: int,
    published: int,
    tmp_path: Path,
) -> None:
    host = any_host
    outer = "192.168.254.1"
    # Another preview of the app, and one of an app with settings of its own.
    sibling = Preview(f"{preview.name}2", 201).start()
    other = Preview(f"{preview.name}3", 202, app="other").start()
    elsewhere = Host(replace(host.platform, app="other"), host.https, host.metrics)
    database = ["--network-alias=db", f"--name={preview.name}-db-1", IMAGE]
    network = f"--network={preview.name}_default"
    docker("run", "--detach", network, *database, "python", "-c", ECHO)
    closed = {
        "bridge": f"10.213.200.1:{listening}",
        "outer": f"{outer}:{listening}",
        "published": f"{outer}:{published}",
        **({"bridge6": f"fd00:213:200::1:{listening}"} if IPV6 else {}),
        **{key: target for key, target in neighbour.items() if key not in OPEN},
    }
    kept_apart = {
        "sibling": f"{sibling.address()}:8080",
        "other": f"{other.address()}:8080",
        "gateway": "10.213.0.2:8080",
        "metrics": "10.213.0.2:8082",
    }
    open_ones = {"own": "db:8080", **{key: neighbour[key] for key in OPEN if key in neighbour}}
    everything = closed | kept_apart | open_ones
    # A build's steps, and a builder in a container of its own, have no IPv6 of the default bridge.
    build = {key: closed[key] for key in ("outer", "published", "private", "metadata")}
    build["public"] = open_ones["public"]
    edge = {"bridge": f"10.213.200.65:{listening}"}

    def from_a_builder() -> set[str]:
        argv = ["run", "--rm", "--privileged", IMAGE, "python", "-c", REACH, json.dumps(build)]
        return set(docker(*argv).split())

    try:
        # Without it all is open, so that what follows is its doing.
        host.set_up()
        host.route(preview, preview.route()).ok()
        assert preview.reaches(everything) == set(closed) | set(open_ones)
        assert preview.reaches(edge, f"{preview.name}_edge") == {"bridge"}
        assert from_a_build(build, tmp_path) == set(build) == from_a_builder()

        host.settings = {"preview_isolation": True}
        allow = [f"{NEIGHBOUR['private']}/32:80", f"{outer}/32:{listening}"]
        if IPV6:
            allow.append(f"[{NEIGHBOUR['private6']}]:80")
        excepted = {"private", "outer", "private6"} & set(closed)
        assert host.play(preview_egress_allow=allow).ok().changed > 0
        assert preview.reaches(everything) == excepted | set(open_ones)
        assert preview.reaches(edge, f"{preview.name}_edge") == set()
        mine = (excepted & set(build)) | {"public"}
        assert from_a_build(build, tmp_path) == mine == from_a_builder()
        # The gateway still reaches its previews, and clients the gateway.
        until(lambda: host.get(preview.host).status == 200)
        assert "router=" in host.scrape()

        # An app with other subnets and no exceptions takes none away, and gets none.
        assert set(closed) & other.reaches(everything)
        subnets = ["10.212.0.0/16"]
        elsewhere.play(preview_isolation=True, preview_docker_subnets=subnets).ok()
        assert preview.reaches(everything) == excepted | set(open_ones)
        assert not set(closed) & other.reaches(everything)
        # Whose a build is nobody can tell there.
        assert from_a_build(build, tmp_path) == {"public"}
        assert host.play(preview_egress_allow=allow).ok().changed == 0
        elsewhere.play(preview_isolation=False).ok()
        assert set(closed) & other.reaches(everything)

        # A rule that somebody removed is put back, as all of them are after a restart.
        subprocess.run(["iptables", "-D", "INPUT", "-j", "EPHEMERA-PREVIEW-HOST"], check=True)
        assert preview.reaches(closed) > excepted
        assert host.play().ok().changed > 0
        assert preview.reaches(closed) == set()
        script = host.platform.state / "gateway" / "firewall.sh"
        before = rules()
        for command in ("iptables", "ip6tables") if IPV6 else ("iptables",):
            for chain in ("DOCKER-USER", "INPUT", *ours(command)):
                subprocess.run([command, "-F", chain], check=True)
        assert rules() != before
        subprocess.run(["sh", str(script)], check=True)
        assert rules() == before
        host.leave(preview)
    finally:
        sibling.remove()
        other.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="rules and neighbours need root")
def test_the_firewall_around_builds_for_a_cluster(
    any_host: Host, in_cluster: InCluster, neighbour: dict[str, str], listening: int
) -> None:
    """No network policy holds for a build: its steps are kept where they run."""
    any_host.set_up()  # without rules of its own
    targets = {key: neighbour[key] for key in ("private", "metadata", "public")}
    targets["outer"] = f"192.168.254.1:{listening}"
    files: dict[str, str | bytes | None] = {
        "reach.py": REACH,
        "Dockerfile": f"FROM {IMAGE}\nCOPY reach.py more /\n"
        f"RUN mkdir /said && python /reach.py '{json.dumps(targets)}' >/said/reached\n",
        "compose.yaml": "services:\n  web:\n    build: .\n"
        "    command: [python, -m, http.server, '8080', --directory, /said]\n"
        "    ports: ['8080:8080']\n    x-preview: {health: /reached}\n",
    }

    def reached(**settings: Any) -> set[str]:
        """Which of them the build of one more commit gets a connection to."""
        files["more"] = uuid.uuid4().hex
        commit = in_cluster.repository.pull_request(1, "A change", files=files)
        in_cluster.up(1, commit, **settings).ok()
        return set(in_cluster.get(1, "/reached")[1].split())

    assert reached() == set(targets)
    in_cluster.settings["preview_isolation"] = True
    commit = in_cluster.repository.pull_request(1, "Another", files={"more": "no"})
    said = in_cluster.up(1, commit).refused().sentence
    assert "the firewall on this machine does not keep previews and builds of" in said
    assert f"Run `ansible-playbook ephemera.preview.gateway -l {in_cluster.app}`" in said
    assert in_cluster.get(1, "/reached")[0] == 200
    assert "firewall.gaps" in ask(in_cluster).problems

    assert in_cluster.play("gateway", "--check", "--diff").ok().changed > 0
    assert ours("iptables") == []
    try:
        assert in_cluster.play("gateway").ok().changed > 0
        assert in_cluster.play("gateway").ok().changed == 0
        assert "keep builds from the networks around it" in ask(in_cluster)["firewall"]
        assert reached() == {"public"}
        allow = {"preview_egress_allow": [f"{NEIGHBOUR['private']}/32:80"]}
        in_cluster.up(1, commit, **allow).refused()
        in_cluster.play("gateway", **allow).ok()
        assert reached(**allow) == {"public", "private"}
        in_cluster.down(1).ok()
    finally:
        removed = in_cluster.play("gateway", preview_gateway_state="absent").ok()
    assert removed.changed > 0
    assert in_cluster.play("gateway", preview_gateway_state="absent").ok().changed == 0
    assert ours("iptables") == []
    assert [each.name for each in in_cluster.state.iterdir()] == ["previews"]


@pytest.mark.skipif(os.geteuid() != 0, reason="rules need root")
def test_the_firewall_stands_where_another_host_builds(
    any_host: Host, in_cluster: InCluster, tmp_path: Path
) -> None:
    any_host.set_up()  # without rules of its own
    commit = in_cluster.repository.pull_request(1, "A change")
    with a_builder(in_cluster, tmp_path) as state:
        in_cluster.settings["preview_isolation"] = True
        refused = in_cluster.up(1, commit).refused()
        assert "the firewall on 127.0.0.1 does not keep previews and builds" in refused.sentence
        try:
            in_cluster.play("gateway").ok()
            known = json.loads((state / "gateway/firewall.json").read_text())
            assert known == {in_cluster.app: []}
            in_cluster.up(1, commit).ok()
            in_cluster.down(1).ok()
        finally:
            in_cluster.play("gateway", preview_gateway_state="absent").ok()
        assert not (state / "gateway").exists()
    assert ours("iptables") == []
    assert not (in_cluster.state / "gateway").exists()


def ours(command: str) -> list[str]:
    done = subprocess.run([command, "-S"], capture_output=True, text=True, check=True)
    return [line.split()[1] for line in done.stdout.splitlines() if line.startswith("-N EPHEMERA")]


def rules() -> str:
    saved = [
        subprocess.run([f"{ip}-save", "-t", "filter"], capture_output=True, text=True, check=True)
        for ip in ("iptables", "ip6tables")
    ]
    lines = "".join(one.stdout for one in saved).splitlines()
    return "\n".join(line for line in lines if line.startswith("-A"))


# --- through the playbook ----------------------------------------------------------------------


def test_up_with_all_that_is_granted(any_host: Host, gateway: Platform, tmp_path: Path) -> None:
    """One preview with TLS, passwords, a rate, a log driver, and isolation where that can be."""
    host, isolated = any_host, os.geteuid() == 0
    host.played = None
    definition = {"services": {"web": {"image": IMAGE, "ports": ["8080"]}}}
    definition["services"]["web"]["command"] = ["python", "-c", ECHO]
    with an_app(gateway, tmp_path) as platform:
        platform.settings = {
            "preview_domain": "previews.localhost",
            "preview_gateway_tls": "selfsigned",
            "preview_gateway_https_port": host.https,
            "preview_gateway_metrics_port": host.metrics,
            "preview_auth_users": {"ann": "secret", "bob": "$2y$05$" + "1" * 53},
            "preview_rate_limit": 10,
            "preview_log_driver": "local",
            "preview_log_options": {"max-size": "1m"},
            "preview_isolation": isolated,
        }
        commit = platform.repository.pull_request(
            1, "An echo", files={"compose.yaml": json.dumps(definition)}
        )
        try:
            if isolated:
                sentence = platform.up(1, commit).refused().sentence
                assert f"does not keep previews and builds of {platform.app} from" in sentence
                assert f"ephemera.preview.gateway -l {platform.app}" in sentence
                assert not platform.recorded(1)
            platform.play("gateway").ok()
            up = platform.up(1, commit).ok()
            name = platform.name(1)
            name_of_host = f"{name}.previews.localhost"
            assert up.result["url"] == f"https://{name_of_host}:{host.https}"
            assert "secret" not in up.out

            pem = platform.state / "gateway" / "certificates" / "previews.localhost.pem"
            trusted = tls_context(pem)
            right, wrong = (
                "Basic " + base64.b64encode(f"ann:{word}".encode()).decode()
                for word in ("secret", "other")
            )
            assert host.get(name_of_host).headers["Location"].startswith("https://")
            assert host.get(name_of_host, verify=trusted).status == 401
            assert host.get(name_of_host, verify=trusted, Authorization=wrong).status == 401
            answer = host.get(name_of_host, verify=trusted, Authorization=right)
            assert answer.status == 200
            assert "X-Forwarded-Proto: https\n" in answer.body + "\n"
            assert "uthorization" not in answer.body
            asks = {"Origin": "https://app.test", "Access_Control_Request_Method": "PUT"}
            assert host.get(name_of_host, "/", "OPTIONS", verify=trusted, **asks).status == 200
            asks.popitem()
            assert host.get(name_of_host, "/", "OPTIONS", verify=trusted, **asks).status == 401

            many = range(100)
            assert 429 in {host.get(name_of_host, verify=trusted).status for dummy in many}
            router = f"{name}--web@file"
            assert f'code="200",method="GET",protocol="http",router="{router}"' in host.scrape()
            logged = [json.loads(line) for line in docker("logs", GATEWAY).splitlines()]
            mine = [entry for entry in logged if entry.get("RouterName") == router]
            assert {200, 401, 429} <= {entry["DownstreamStatus"] for entry in mine}
            assert right.split()[1] not in json.dumps(mine)
            logs = json.loads(docker("inspect", f"{name}-web-1"))[0]["HostConfig"]["LogConfig"]
            assert logs == {"Type": "local", "Config": {"max-size": "1m"}}

            again = platform.up(1, commit).ok()
            assert (again.result["outcome"], again.changed) == ("unchanged", 0)
            if isolated:
                # What serves behind a firewall that is gone is not as wanted.
                subprocess.run(["iptables", "-F", "EPHEMERA-PREVIEW-OUT"], check=True)
                assert "does not keep previews" in platform.up(1, commit).refused().sentence
        finally:
            platform.play("gateway", preview_isolation=False).ok()
            platform.settings["preview_isolation"] = False


# --- removal -----------------------------------------------------------------------------------


def test_it_is_removed_when_no_preview_needs_it(any_host: Host, preview: Preview) -> None:
    host = any_host
    host.set_up(preview_isolation=os.geteuid() == 0)
    sentence = host.play(preview_gateway_state="absent").refused().sentence
    assert preview.name in sentence
    preview.remove()
    host.play(preview_gateway_state="absent").ok()
    assert not [line for line in holdings() if GATEWAY in line and "image" not in line]
    assert not (host.platform.state / "gateway").exists()
    assert os.geteuid() or "EPHEMERA" not in rules()
    assert host.play(preview_gateway_state="absent").ok().changed == 0
