# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of an API server that has its bad moments: a small TLS server that answers as it is told.
What a real one answers: tests/integration/test_kubernetes.py."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _kubernetes

HANGS_UP = 0


class Server(ThreadingHTTPServer):
    """Answers with these statuses, one after the other, and well after them."""

    statuses: list[int]
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {self.path}")
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == HANGS_UP:
            self.close_connection = True
            return
        body = json.dumps({"message": f"says {status}"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PATCH = answer

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    files = ["-keyout", f"{tmp_path}/key", "-out", f"{tmp_path}/certificate"]
    whom = ["-subj", "/CN=api", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1", "-nodes"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = ["openssl", "req", "-x509", *curve, *whom, *files]
    subprocess.run(command, check=True, capture_output=True)
    with Server(("127.0.0.1", 0), Handler) as made:
        made.statuses, made.asked = [], []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
        made.socket = context.wrap_socket(made.socket, server_side=True)
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def api(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[_kubernetes.Cluster]:
    known = {
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [
            {
                "name": "c",
                "cluster": {
                    "server": f"https://127.0.0.1:{server.server_port}",
                    "certificate-authority": "certificate",
                },
            }
        ],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(_kubernetes, "PATIENCE", 0.3)
    monkeypatch.setattr(_kubernetes, "_PAUSE", 0.01)
    (tmp_path / "kubeconfig").write_text(json.dumps(known))
    yield _kubernetes.Cluster(str(tmp_path / "kubeconfig"))


@pytest.mark.parametrize("bad", [[503, 500], [429, 504], [HANGS_UP], [HANGS_UP, 502]])
def test_a_question_is_asked_again(
    api: _kubernetes.Cluster, server: Server, bad: list[int]
) -> None:
    api.ask("GET", "/version")
    server.statuses = list(bad)
    assert api.ask("GET", "/version").body == {"message": "says 200"}
    assert server.asked == ["GET /version"] * (2 + len(bad))


def test_it_is_not_for_ever(api: _kubernetes.Cluster, server: Server) -> None:
    api.ask("GET", "/version")
    server.statuses = [503] * 1000
    with pytest.raises(_kubernetes.ClusterError, match="refuses: says 503"):
        api.ask("GET", "/version")


def test_what_may_have_been_done_is_not_done_again(
    api: _kubernetes.Cluster, server: Server
) -> None:
    api.ask("GET", "/version")
    for bad, says in ((503, "refuses: says 503"), (HANGS_UP, "does not answer")):
        server.statuses = [bad]
        with pytest.raises(_kubernetes.ClusterError, match=says):
            api.ask("PATCH", "/thing", {})
    # Who is asked too much has done nothing.
    server.statuses = [429]
    api.ask("PATCH", "/thing", {})
    assert server.asked.count("PATCH /thing") == 4


def test_who_has_never_answered_is_not_waited_for(api: _kubernetes.Cluster, server: Server) -> None:
    server.statuses = [HANGS_UP]
    with pytest.raises(_kubernetes.ClusterError, match="does not answer"):
        api.ask("GET", "/version")
    assert len(server.asked) == 1


def test_a_refusal_is_told_at_once(api: _kubernetes.Cluster, server: Server) -> None:
    server.statuses = [403]
    with pytest.raises(_kubernetes.ClusterError, match="says 403") as refused:
        api.ask("GET", "/version")
    assert refused.value.status == 403 and len(server.asked) == 1


def test_a_connection_that_was_closed_meanwhile_is_replaced(
    api: _kubernetes.Cluster, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "timeout", 0.3)  # of an idle connection
    api.ask("PATCH", "/thing", {})
    threading.Event().wait(1)
    api.ask("PATCH", "/thing", {})
