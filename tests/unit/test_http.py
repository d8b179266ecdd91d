"""One bounded request against real sockets that misbehave."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _http

Reply = Callable[[socket.socket], None]


class Server:
    """Answers every connection by a function, and keeps what it was asked."""

    def __init__(self, reply: Reply | bytes, context: ssl.SSLContext | None = None) -> None:
        self.reply = (lambda sock: sock.sendall(reply)) if isinstance(reply, bytes) else reply
        self.context = context
        self.asked: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http{'s' if context else ''}://app.localhost:{self.port}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, dummy = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        try:
            if self.context:
                sock = self.context.wrap_socket(sock, server_side=True)
            self.asked.append(sock.recv(65536).decode("latin-1"))
            self.reply(sock)
        except OSError:
            pass
        finally:
            sock.close()


@contextmanager
def serving(reply: Reply | bytes, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(reply, context)
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()


def response(status: str = "200 OK", *headers: str, body: str = "") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


def dripping(first: bytes) -> Reply:
    def reply(sock: socket.socket) -> None:
        sock.sendall(first)
        while True:
            sock.sendall(b"x")
            time.sleep(0.05)

    return reply


def flooding(first: bytes, chunk: bytes) -> Reply:
    def reply(sock: socket.socket) -> None:
        sock.sendall(first)
        while True:
            sock.sendall(chunk)

    return reply


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def test_an_answer_and_what_was_asked() -> None:
    with serving(response()) as server:
        answer = _http.get(server.url + "/health?deep=1", headers={"Authorization": "Basic eA=="})
    assert (answer.status, answer.trouble) == (200, "")
    assert answer.address == f"127.0.0.1:{server.port}"
    lines = server.asked[0].split("\r\n")
    assert lines[0] == "GET /health?deep=1 HTTP/1.1"
    assert f"Host: app.localhost:{server.port}" in lines
    assert "Authorization: Basic eA==" in lines


def test_the_body_of_an_error_is_kept_in_part() -> None:
    with serving(response("502 Bad Gateway", body="Bad Gateway" + " " * 9000)) as server:
        answer = _http.get(server.url)
    assert answer.status == 502
    assert answer.body.startswith(b"Bad Gateway")
    assert len(answer.body) <= 4096


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_byte_at_a_time_does_not_hold_it_up(first: bytes) -> None:
    with serving(dripping(first)) as server, within(1.5):
        assert _http.get(server.url, timeout=0.5).trouble == "timeout"


def test_a_good_answer_may_stream_for_ever() -> None:
    with serving(dripping(b"HTTP/1.1 200 OK\r\n\r\n")) as server, within(3):
        assert _http.get(server.url, timeout=5).status == 200


def test_an_error_that_streams_for_ever_is_told_all_the_same() -> None:
    with serving(dripping(b"HTTP/1.1 500 No\r\n\r\n")) as server, within(1.5):
        assert _http.get(server.url, timeout=1).status == 500


def test_a_silent_app_is_given_up() -> None:
    with serving(lambda sock: time.sleep(3)) as server, within(1.5):
        assert _http.get(server.url, timeout=0.5).trouble == "timeout"


@pytest.mark.parametrize(
    ("first", "chunk"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-%d: y\r\n" * 20),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 4096),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK", b"y" * 4096),
    ],
)
def test_no_more_is_read_than_the_limit(first: bytes, chunk: bytes) -> None:
    read = 0
    recv_into = socket.socket.recv_into

    class Counting(socket.socket):
        def recv_into(self, *arguments, **options):  # type: ignore[no-untyped-def]
            nonlocal read
            count = recv_into(self, *arguments, **options)
            read += count
            return count

    with (
        serving(flooding(first, chunk)) as server,
        pytest.MonkeyPatch.context() as patch,
        within(2),
    ):
        patch.setattr(_http.socket, "socket", Counting)
        assert _http.get(server.url, timeout=2).trouble in ("size", "closed")
    assert 0 < read <= _http.LIMIT


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 huh\r\n\r\n"])
def test_what_is_no_answer_is_told(reply: bytes) -> None:
    with serving(reply) as server:
        assert _http.get(server.url).trouble == "closed"


def test_a_redirect_off_the_preview_is_not_followed() -> None:
    with serving(response()) as inner:
        for location in (inner.url, f"//127.0.0.1:{inner.port}/x", "http://169.254.169.254/latest"):
            with serving(response("302 Found", f"Location: {location}")) as server:
                answer = _http.get(server.url)
            assert (answer.status, answer.location) == (302, location)
            assert answer.url == server.url
    assert inner.asked == []


def test_a_redirect_on_the_preview_is_followed_a_few_times() -> None:
    def reply(sock: socket.socket) -> None:
        last = "/health/" in server.asked[-1].split("\r\n")[0]
        sock.sendall(response() if last else response("307 Go on", "Location: /health/"))

    with serving(reply) as server:
        answer = _http.get(server.url + "/health")
    assert (answer.status, answer.url) == (200, server.url + "/health/")
    with serving(response("302 Found", "Location: /again")) as server:
        answer = _http.get(server.url)
    assert (answer.status, len(server.asked)) == (302, 1 + _http.REDIRECTS)
    with serving(response("302 Found", "Location: /again")) as server:
        assert _http.get(server.url, redirects=0).status == 302
    assert len(server.asked) == 1


@pytest.mark.parametrize("location", ["/a\tb c", "http://[", "http://app.localhost:x/", "/\x85é"])
def test_a_malformed_redirect_leads_nowhere(location: str) -> None:
    reply = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    with serving(reply.encode()) as server:
        assert _http.get(server.url).status == 302
    assert len(server.asked) == 1


def test_the_address_may_be_given() -> None:
    with serving(response()) as server:
        answer = _http.get(
            f"http://shop.preview.invalid:{server.port}/", address=("127.0.0.1", server.port)
        )
    assert answer.status == 200
    assert f"Host: shop.preview.invalid:{server.port}" in server.asked[0]


def test_nobody_there_is_told_from_no_such_name() -> None:
    with serving(response()) as server:
        pass
    assert _http.get(server.url).trouble == "refused"
    assert _http.get("http://nothing.invalid/").trouble == "dns"


def test_a_resolver_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http.socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    with within(1.5):
        assert _http.get("http://slow.example/", timeout=0.3).trouble == "dns"


def test_an_address_that_swallows_everything_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for dummy in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        with within(1.5):
            answer = _http.get(f"http://127.0.0.1:{port}/", timeout=0.5)
        for sock in waiting:
            sock.close()
    assert answer.trouble == "unreachable"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt",
         "ec_paramgen_curve:prime256v1", "-days", "2", "-subj", "/CN=app.localhost",
         "-addext", "subjectAltName=DNS:app.localhost",
         "-keyout", str(file), "-out", str(file) + ".crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


def test_a_certificate_nobody_vouches_for_is_told(certificate: Path) -> None:
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with serving(response(), server_side) as server:
        answer = _http.get(server.url)
        assert (answer.status, answer.trouble) == (0, "tls")
        assert "self-signed certificate" in answer.detail
        assert _http.get(server.url, context=trusting).status == 200
        other = _http.get(server.url.replace("app.", "other."), context=trusting)
        assert other.trouble == "tls"
        assert "match" in other.detail


def test_a_server_without_tls_is_told() -> None:
    with serving(response()) as server:
        assert _http.get(server.url.replace("http:", "https:"), timeout=2).trouble == "tls"
