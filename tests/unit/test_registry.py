# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry's ways that the one of the tests does not have, by sockets that have them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import http.server
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _registry
from ansible_collections.ephemera.preview.plugins.module_utils._registry import (
    Registries,
    RegistryError,
)

BASIC = "Basic " + base64.b64encode(b"ci:pass").decode()
DIGEST = "sha256:" + "a" * 64
Reply = tuple[int, dict[str, str], bytes]


class Server:
    """Answers each request by a function of method, path and headers."""

    def __init__(self, reply: Callable[[str, str, Any], Reply]) -> None:
        asked: list[tuple[str, str, str]] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.command, self.path, self.headers.get("Authorization", "")))
                status, headers, body = reply(self.command, self.path, self.headers)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_DELETE = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.asked = asked
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def known(self, **options: Any) -> Registries:
        login = {"registry": self.host, "username": "ci", "password": "pass"}
        return Registries([login], **options)


@contextmanager
def serving(reply: Callable[[str, str, Any], Reply]) -> Iterator[Server]:
    server = Server(reply)
    yield server
    server.server.shutdown()
    server.server.server_close()


def test_a_token_is_asked_for_where_the_registry_says() -> None:
    def reply(method: str, path: str, headers: Any) -> Reply:
        if path.startswith("/token?"):
            return 200, {}, json.dumps({"token": "t0"}).encode()
        if headers.get("Authorization") == "Bearer t0":
            return 200, {"Docker-Content-Digest": DIGEST}, b""
        host = headers["Host"]
        challenge = f'Bearer realm="http://{host}/token",service="reg",scope="repository:a/b:pull"'
        return 401, {"WWW-Authenticate": challenge}, b""

    with serving(reply) as server:
        registries = server.known()
        assert registries.digest(f"{server.host}/a/b:1") == DIGEST
        assert registries.digest(f"{server.host}/a/b:2") == DIGEST
        assert server.asked == [
            ("HEAD", "/v2/a/b/manifests/1", ""),
            ("GET", "/token?service=reg&scope=repository%3Aa%2Fb%3Apull", BASIC),
            ("HEAD", "/v2/a/b/manifests/1", "Bearer t0"),
            ("HEAD", "/v2/a/b/manifests/2", "Bearer t0"),
        ]


def test_a_login_is_not_sent_to_an_address_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    challenge = 'Bearer realm="http://elsewhere.example.org/token"'
    asked = []

    def send(self: Registries, method: str, url: str, headers: Any, body: bytes) -> Any:
        asked.append(url)
        message = http.client.HTTPMessage()
        message["WWW-Authenticate"] = challenge
        return _registry._Answer(401, message, b"")

    monkeypatch.setattr(Registries, "_send", send)
    login = {"registry": "r.example.org", "username": "ci", "password": "pass"}
    with pytest.raises(RegistryError, match="unencrypted, to 'http://elsewhere"):
        Registries([login]).digest("r.example.org/a:1")
    assert asked == ["https://r.example.org/v2/a/manifests/1"]


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(401, "answers 401 for"), (403, "answers 403"), (429, "answers 429"), (502, "answers 502")],
)
def test_what_a_registry_answers(status: int, sentence: str) -> None:
    with serving(lambda *_: (status, {}, b"")) as server:
        with pytest.raises(RegistryError, match=sentence):
            server.known().digest(f"{server.host}/a/b:1")
        # Once more with the login, where that was asked for.
        assert [asked[2] for asked in server.asked] == ([""] if status != 401 else ["", BASIC])


def test_tags_come_in_pages_of_the_same_registry() -> None:
    def reply(method: str, path: str, headers: Any) -> Reply:
        if "last" in path:
            return 200, {}, b'{"name": "a/b", "tags": ["2"]}'
        following = '<https://elsewhere.example.org/v2/a/b/tags/list?n=1&last=1>; rel="next"'
        return 200, {"Link": following}, b'{"name": "a/b", "tags": ["1"]}'

    with serving(reply) as server:
        assert server.known().tags(f"{server.host}/a/b") == ["1", "2"]
    with serving(lambda *_: (404, {}, b"")) as server:
        assert server.known().tags(f"{server.host}/a/b") == []


def test_a_redirect_to_elsewhere_gets_no_credentials() -> None:
    blob = b'{"config": {"Labels": {"a": "b"}}}'
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    with serving(lambda *_: (200, {}, blob)) as storage:

        def reply(method: str, path: str, headers: Any) -> Reply:
            if headers.get("Authorization") != BASIC:
                return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""
            if "/blobs/" in path:
                return 307, {"Location": f"http://{storage.host}/data?signed"}, b""
            return 200, {}, json.dumps({"config": {"digest": digest}}).encode()

        with serving(reply) as server:
            assert server.known().config(f"{server.host}/a/b:1") == {"Labels": {"a": "b"}}
            assert storage.asked == [("GET", "/data?signed", "")]
            blob = b'{"config": {}}'
            with pytest.raises(RegistryError, match="gave something else for " + digest):
                server.known().config(f"{server.host}/a/b:1")


@pytest.mark.parametrize(
    ("status", "sentence"), [(405, r"deletes no images \(405\)"), (403, "the right to delete")]
)
def test_a_registry_that_deletes_nothing(status: int, sentence: str) -> None:
    def reply(method: str, path: str, headers: Any) -> Reply:
        if method == "DELETE":
            return status, {}, b""
        return 200, {"Docker-Content-Digest": DIGEST}, b'{"tags": ["1", "2"]}'

    with serving(reply) as server:
        removed = server.known().delete(f"{server.host}/a/b")
        assert removed.digests == []
        assert re.search(sentence, removed.refused)
        assert [asked[0] for asked in server.asked].count("DELETE") == 1


def test_answers_are_bounded() -> None:
    for body, sentence in (
        (b" " * (_registry.SIZE + 1), "more than 4 MiB"),
        (b"<html>", "answers what no registry does"),
    ):
        reply: Reply = (200, {}, body)
        with serving(lambda *_, r=reply: r) as server, pytest.raises(RegistryError, match=sentence):
            server.known().tags(f"{server.host}/a/b")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(RegistryError, match="did not answer within 0.3 seconds"):
            Registries(seconds=0.3).tags(f"{host}/a/b")


def test_a_registry_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RegistryError, match=rf"{host} can't be reached \(Connection refused\)"):
        Registries().digest(f"{host}/a:1")


@pytest.mark.parametrize(
    ("image", "host", "path"),
    [
        ("redis:8", "registry-1.docker.io", "/v2/library/redis/manifests/8"),
        ("acme/shop", "registry-1.docker.io", "/v2/acme/shop/manifests/latest"),
        (f"r.org:5000/a/b:1@{DIGEST}", "r.org:5000", f"/v2/a/b/manifests/{DIGEST}"),
    ],
)
def test_where_an_image_is(image: str, host: str, path: str) -> None:
    place = _registry._place(image)
    assert (place.host, place.manifest) == (host, path)


def test_a_proxy_is_for_what_is_elsewhere() -> None:
    proxy = {"https_proxy": "http://p.example.org:3128", "no_proxy": ".inside.example.org"}
    registries = Registries(proxy=proxy)
    assert registries._proxies("r.example.org") == {"https": "http://p.example.org:3128"}
    assert registries._proxies("r.inside.example.org:5000") == {}
    assert registries._proxies("localhost:5000") == {}
