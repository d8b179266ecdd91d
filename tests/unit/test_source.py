"""Source: real git against real repositories, by folder, by smart HTTP and by ssh."""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _run, _source
from ansible_collections.ephemera.preview.plugins.module_utils._source import (
    Exported,
    Limits,
    Origin,
    SourceRefused,
)
from packages import needed

PULL = "refs/pull/42/head"
TOKEN = "t0p-s3cret/token"

# Plain git as any user has it, apart from this machine's own configuration.
PLAIN = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(folder: Path, *arguments: str, stdin: bytes = b"", check: bool = True) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=PLAIN, input=stdin, capture_output=True, check=False
    )
    if check:
        assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


class Repository:
    """A repository with one pull request, 42."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        git(path, "init", "-q", "-b", "main")
        self.main = self.commit({"README": "shop\n"})
        self.head = self.pull({"app.py": "print('v1')\n"})

    def commit(self, files: dict[str, str | bytes], message: str = "change") -> str:
        for name, content in files.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
        git(self.path, "add", "-A")
        git(self.path, "commit", "-q", "--allow-empty", "-m", message)
        return git(self.path, "rev-parse", "HEAD")

    def pull(self, files: dict[str, str | bytes]) -> str:
        """A commit that becomes the head of the pull request."""
        self.head = self.commit(files)
        git(self.path, "update-ref", PULL, "HEAD")
        return self.head

    def tree(self, *entries: tuple[str, str, str]) -> str:
        """A tree object of (mode, id, name), unchecked: what no `git add` would make."""
        data = b"".join(
            f"{int(mode, 8):o} {name}\0".encode("utf-8", "surrogateescape") + bytes.fromhex(oid)
            for mode, oid, name in entries
        )
        return git(
            self.path, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=data
        )

    def blob(self, content: bytes) -> str:
        return git(self.path, "hash-object", "-w", "--stdin", stdin=content)

    def pull_tree(self, tree: str) -> str:
        """A commit of any tree as the head of the pull request."""
        commit = git(self.path, "commit-tree", tree, "-m", "crafted")
        git(self.path, "update-ref", PULL, commit)
        return commit


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "forge" / "shop")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A program that leaves `ran` beside itself when anything starts it."""
    path = tmp_path / "canary" / "run"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\ntouch {path.parent}/ran\n")
    path.chmod(0o755)
    return path


def ran(canary: Path) -> bool:
    """Whether the canary ran; resets it."""
    try:
        (canary.parent / "ran").unlink()
    except FileNotFoundError:
        return False
    return True


def export(tmp_path: Path, commit: str, limits: Limits | None = None, **origin: Any) -> Exported:
    return _source.export(
        str(tmp_path / "state"), commit, Origin(**origin), limits or Limits(seconds=60)
    )


def refusal(tmp_path: Path, commit: str, limits: Limits | None = None, **origin: Any) -> str:
    with pytest.raises(SourceRefused) as caught:
        export(tmp_path, commit, limits, **origin)
    message = str(caught.value)
    assert TOKEN not in message
    assert not (tmp_path / "state" / "source").exists()
    assert not list((tmp_path / "state").glob(".source-*")) if (tmp_path / "state").exists() else 1
    return message


# -- the commit, the whole commit and nothing but the commit --------------------------------------


def test_exports_exactly_the_commit(tmp_path: Path, repository: Repository) -> None:
    (repository.path / "run.sh").write_text("#!/bin/sh\n")
    (repository.path / "run.sh").chmod(0o755)
    (repository.path / "link").symlink_to("/etc/passwd")
    commit = repository.pull({"deep/er/file": b"\x00\r\n\xff"})

    got = export(tmp_path, commit, url=str(repository.path), ref=PULL)

    assert got.commit == commit
    assert got.tree == git(repository.path, "rev-parse", commit + "^{tree}")
    assert (got.changed, got.missing) == (True, [])
    files = Path(got.path)
    assert files == tmp_path / "state" / "source" / commit
    assert sorted(p.name for p in files.iterdir()) == ["README", "app.py", "deep", "link", "run.sh"]
    assert (files / "deep/er/file").read_bytes() == b"\x00\r\n\xff"
    assert stat.S_IMODE((files / "run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((files / "app.py").stat().st_mode) == 0o644
    assert os.readlink(files / "link") == "/etc/passwd"
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_same_commit_again_fetches_nothing(tmp_path: Path, repository: Repository) -> None:
    first = export(tmp_path, repository.head, url=str(repository.path), ref=PULL)
    shutil.rmtree(repository.path)
    second = export(tmp_path, repository.head, url=str(repository.path), ref=PULL)
    assert second == first._replace(changed=False)


def test_next_commit_replaces_the_tree_and_reuses_what_was_fetched(
    tmp_path: Path, repository: Repository
) -> None:
    noise = os.urandom(500_000)
    first = repository.pull({"noise": noise, "old": "x"})
    export(tmp_path, first, url=str(repository.path), ref=PULL)
    (repository.path / "old").unlink()
    second = repository.pull({"new": "y"})

    got = export(tmp_path, second, url=str(repository.path), ref=PULL)

    assert got.changed
    assert not (Path(got.path) / "old").exists()
    assert (Path(got.path) / "noise").read_bytes() == noise
    packs = sorted((Path(got.git_dir) / "objects/pack").glob("*.pack"), key=os.path.getmtime)
    assert packs[-1].stat().st_size < 5000


def test_back_to_an_earlier_commit_needs_no_server(tmp_path: Path, repository: Repository) -> None:
    first = repository.head
    export(tmp_path, first, url=str(repository.path), ref=PULL)
    export(tmp_path, repository.pull({"new": "y"}), url=str(repository.path), ref=PULL)
    shutil.rmtree(repository.path)
    got = export(tmp_path, first, url=str(repository.path), ref=PULL)
    assert not (Path(got.path) / "new").exists()


def test_commit_of_the_event_when_the_reference_has_moved_on(
    tmp_path: Path, repository: Repository
) -> None:
    wanted = repository.head
    repository.pull({"app.py": "print('v2')\n"})
    repository.pull({"app.py": "print('v3')\n"})
    got = export(tmp_path, wanted, url=str(repository.path), ref=PULL)
    assert (Path(got.path) / "app.py").read_text() == "print('v1')\n"


def test_commit_pushed_away_by_force(tmp_path: Path, repository: Repository) -> None:
    gone = repository.head
    git(repository.path, "reset", "-q", "--hard", repository.main)
    now = repository.pull({"app.py": "print('other')\n"})
    message = refusal(tmp_path, gone, url=str(repository.path), ref=PULL)
    assert gone in message
    assert f"which is now at {now}" in message
    assert "pushed away by force" in message


def test_commit_of_another_branch_is_not_this_pull_request(
    tmp_path: Path, repository: Repository
) -> None:
    git(repository.path, "checkout", "-q", "-b", "other", repository.main)
    other = repository.commit({"other": "x"})
    assert "never belonged there" in refusal(tmp_path, other, url=str(repository.path), ref=PULL)


def test_missing_pull_request(tmp_path: Path, repository: Repository) -> None:
    message = refusal(tmp_path, "0" * 40, url=str(repository.path), ref="refs/pull/7/head")
    assert "has no refs/pull/7/head" in message
    assert "number right" in message


def test_empty_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "empty")
    message = refusal(tmp_path, "0" * 40, url=str(tmp_path / "empty"), ref=PULL)
    assert message.endswith("is empty: it has no branch yet.")


def test_without_a_reference_the_commit_itself_is_asked_for(
    tmp_path: Path, repository: Repository
) -> None:
    got = export(tmp_path, repository.head, url=str(repository.path))
    assert (Path(got.path) / "app.py").exists()
    shutil.rmtree(tmp_path / "state")
    message = refusal(tmp_path, "12" * 20, url=str(repository.path))
    assert "does not hand out commit " + "12" * 20 in message


def test_a_failure_leaves_the_last_commit_in_place(tmp_path: Path, repository: Repository) -> None:
    got = export(tmp_path, repository.head, url=str(repository.path), ref=PULL)
    with pytest.raises(SourceRefused):
        export(tmp_path, "12" * 20, url=str(repository.path), ref=PULL)
    assert (Path(got.path) / "app.py").exists()
    assert not export(tmp_path, repository.head, url=str(repository.path), ref=PULL).changed


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path, repository: Repository) -> None:
    state = tmp_path / "state"
    export(tmp_path, repository.head, url=str(repository.path), ref=PULL)
    (state / ".source-dead" / "files").mkdir(parents=True)
    # Killed between taking the old tree away and bringing the new one.
    (state / "source.git/exported").unlink()
    shutil.rmtree(state / "source")
    got = export(tmp_path, repository.head, url=str(repository.path), ref=PULL)
    assert got.changed
    assert (state / "source" / repository.head / "app.py").exists()
    assert sorted(p.name for p in state.iterdir()) == ["source", "source.git"]


def test_files_that_are_in_use_stay(tmp_path: Path, repository: Repository) -> None:
    """Containers hold folders, not names: what is deployed keeps its very files."""
    trees = tmp_path / "state" / "source"
    origin: dict[str, Any] = {"url": str(repository.path), "ref": PULL}

    def export_beside(commit: str) -> list[str]:
        _source.export(str(tmp_path / "state"), commit, Origin(**origin), Limits(), deployed)
        return sorted(path.name for path in trees.iterdir())

    deployed = repository.head
    assert export_beside(deployed) == [deployed]
    held = (trees / deployed).stat().st_ino
    second = repository.pull({"app.py": b"second"})
    assert export_beside(second) == sorted([deployed, second])
    third = repository.pull({"app.py": b"third"})
    assert export_beside(third) == sorted([deployed, third])
    assert export_beside(deployed) == [deployed]
    assert (trees / deployed).stat().st_ino == held


def test_killed_in_the_middle_of_a_fetch(tmp_path: Path, repository: Repository) -> None:
    """The git that outlives the killed module spoils nothing."""
    first = repository.head
    export(tmp_path, first, url=str(repository.path))
    git(repository.path, "config", "core.compression", "0")
    commit = repository.pull({f"noise{n}": os.urandom(2_000_000) for n in range(8)})
    state = tmp_path / "state"
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "import tests.conftest\n"
        "from ansible_collections.ephemera.preview.plugins.module_utils._source import *\n"
        f"export({str(state)!r}, {commit!r}, Origin(url={str(repository.path)!r}), Limits())"
    )
    root = str(Path(__file__).resolve().parents[2])
    run = subprocess.Popen([sys.executable, "-c", code, root])
    while run.poll() is None and not list(state.glob(".source-*/source.git/objects/pack/tmp_*")):
        time.sleep(0.002)
    run.kill()
    assert run.wait() == -9, "killed while git receives"
    assert (state / "source" / first / "app.py").exists()
    assert not export(tmp_path, first, url=str(repository.path)).changed
    assert export(tmp_path, commit, url=str(repository.path)).changed
    assert sorted(p.name for p in state.iterdir()) == ["source", "source.git"]


def test_ids_of_paths_for_digests(tmp_path: Path, repository: Repository) -> None:
    (repository.path / "way").symlink_to("web")
    commit = repository.pull({"web/Dockerfile": "FROM scratch\n"})
    got = export(tmp_path, commit, url=str(repository.path))
    ids = _source.object_ids(got.git_dir, commit, ["", "web", "way", "nothing", "way/Dockerfile"])
    assert ids[""] == got.tree
    assert ids["web"] == git(repository.path, "rev-parse", commit + ":web")
    assert ids["way"] not in (None, ids["web"])
    assert ids["nothing"] is None
    assert ids["way/Dockerfile"] is None


# -- what is no commit, no reference, no address --------------------------------------------------


@pytest.mark.parametrize(
    "commit", ["main", "abc123", "A" * 40, "0" * 64, "--output=/x", "", "0" * 39 + "\n"]
)
def test_no_commit(tmp_path: Path, commit: str) -> None:
    assert "is no commit" in refusal(tmp_path, commit, url="https://example.org/a")


@pytest.mark.parametrize(
    "ref",
    ["main", "--upload-pack=touch x", "refs/../x", "refs/a b", "refs/a\n", "refs/a:refs/b",
     "refs/a@{1}", "refs/x.lock", "refs//a", "refs/.a", "refs/*", "-refs/a", "refs/a^"],
)  # fmt: skip
def test_no_reference(tmp_path: Path, ref: str) -> None:
    assert "is no reference" in refusal(tmp_path, "0" * 40, url="https://example.org/a", ref=ref)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "shop",
        "../shop",
        "--upload-pack=touch${IFS}x",
        "-oProxyCommand=touch x",
        "ext::sh -c touch% x",
        "fd::17",
        "https::ext::sh",
        "ext://x",
        "ftp://example.org/a",
        "git://example.org/a",
        "ssh://-oProxyCommand=x/a",
        "ssh://git@-oProxyCommand=x/a",
        "git@-oProxyCommand=x:a",
        "git@example.org:-a",
        "https://example.org",
        "https://exa mple.org/a",
        "https://example.org/a\nb",
        "https://example.org/a?b",
        "/tmp/a\x00b",
    ],
)
def test_no_address(tmp_path: Path, url: str) -> None:
    assert "is no repository's address" in refusal(tmp_path, "0" * 40, url=url)


def test_a_password_in_the_address_is_neither_used_nor_shown(tmp_path: Path) -> None:
    message = refusal(tmp_path, "0" * 40, url=f"https://bob:{TOKEN.replace('/', '')}@example.org/a")
    assert "preview_source_token" in message
    assert "bob" not in message
    assert TOKEN.replace("/", "") not in message


def test_no_token_over_plain_http(tmp_path: Path) -> None:
    message = refusal(tmp_path, "0" * 40, url="http://example.org/a", token=TOKEN)
    assert message == "http://example.org/a: a token is sent over https only."


# -- smart HTTP -----------------------------------------------------------------------------------


class Forge(http.server.ThreadingHTTPServer):
    """Smart HTTP by git's own http-backend, private unless `open`; notes what it is asked."""

    daemon_threads = True

    def __init__(self, root: Path, *, user: str = "x-access-token") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.accepts = "Basic " + base64.b64encode(f"{user}:{TOKEN}".encode()).decode()
        self.authorizations: list[str | None] = []
        self.answer: int | None = None  # to everything with the right token
        self.redirect: str | None = None
        self.asks_first = True  # for the token, before it redirects
        self.silent = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/shop"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Forge

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        forge = self.server
        if forge.silent:
            time.sleep(30)
        given = self.headers.get("Authorization")
        forge.authorizations.append(given)
        if forge.redirect and (given == forge.accepts or not forge.asks_first):
            self.send_response(302)
            self.send_header("Location", forge.redirect + self.path)
            self._end(b"")
        elif given != forge.accepts:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="forge"')
            self._end(b"")
        elif forge.answer:
            self.send_response(forge.answer)
            self._end(b"")
        else:
            self._backend()

    def _backend(self) -> None:
        path, dummy, query = (
            urlsplit(self.path)._replace(scheme="", netloc="").geturl().partition("?")
        )
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            check=False,
            env={
                **PLAIN,
                "GIT_PROJECT_ROOT": str(self.server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "REMOTE_USER": "ci",
            },
        )
        head, dummy, payload = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self._end(payload)

    def _end(self, payload: bytes) -> None:
        self.send_header("Content-Length", str(len(payload)))
        # The client may have been ended by its deadline.
        with contextlib.suppress(ConnectionError):
            self.end_headers()
            self.wfile.write(payload)


@pytest.fixture
def forge(repository: Repository):
    server = Forge(repository.path.parent)
    yield server
    server.shutdown()
    server.server_close()


def test_private_repository_by_token(tmp_path: Path, repository: Repository, forge: Forge) -> None:
    wanted = repository.head
    repository.pull({"app.py": "print('v2')\n"})
    got = export(tmp_path, wanted, url=forge.url, ref=PULL, token=TOKEN)
    assert (Path(got.path) / "app.py").read_text() == "print('v1')\n"


def test_token_for_a_user(tmp_path: Path, repository: Repository, forge: Forge) -> None:
    user = "bob+ci@example.org"
    forge.accepts = "Basic " + base64.b64encode(f"{user}:{TOKEN}".encode()).decode()
    assert export(tmp_path, repository.head, url=forge.url, token=TOKEN, user=user).changed


def test_token_is_in_no_argument_environment_or_file(
    tmp_path: Path, repository: Repository, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    real = shutil.which("git")
    spy = tmp_path / "bin" / "git"
    spy.parent.mkdir()
    # Notes arguments, environment and every file of ours there is while git runs.
    spy.write_text(
        f"#!/bin/sh\n{{ printf '%s\\n' \"$@\"; env; {real} --version;"
        f' grep -ra . {tmp_path}/state; }} >>{log}\nexec {real} "$@"\n'
    )
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}:{os.environ['PATH']}")

    assert export(tmp_path, repository.head, url=forge.url, ref=PULL, token=TOKEN).changed

    noted = log.read_text(errors="replace")
    assert "GIT_ASKPASS" in noted
    assert TOKEN not in noted
    found = subprocess.run(["grep", "-raF", TOKEN, str(tmp_path / "state")], check=False)
    assert found.returncode == 1


def test_wrong_and_missing_token(tmp_path: Path, repository: Repository, forge: Forge) -> None:
    wrong = refusal(tmp_path, repository.head, url=forge.url, ref=PULL, token="wrong-one")
    assert f"{forge.url} answered 401: the token (preview_source_token) was not accepted" in wrong
    assert "wrong-one" not in wrong
    missing = refusal(tmp_path, repository.head, url=forge.url, ref=PULL)
    assert "answered 401: no token is set (preview_source_token)" in missing


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (403, "answered 403: the token"),
        (404, "is not there, or hidden from us"),
        (429, "answered 429: too many requests"),
        (502, "has trouble of its own"),
    ],
)
def test_what_a_forge_answers(
    tmp_path: Path, repository: Repository, forge: Forge, status: int, sentence: str
) -> None:
    forge.answer = status
    assert sentence in refusal(tmp_path, repository.head, url=forge.url, ref=PULL, token=TOKEN)


def test_token_goes_to_the_forge_and_nowhere_else(
    tmp_path: Path, repository: Repository, forge: Forge
) -> None:
    """A redirect elsewhere is not followed, and the helper answers no other server's question."""
    thief = Forge(repository.path.parent)
    try:
        forge.redirect = f"http://127.0.0.1:{thief.server_port}"
        message = refusal(tmp_path, repository.head, url=forge.url, ref=PULL, token=TOKEN)
        assert "redirects elsewhere" in message
        assert thief.authorizations == []
        assert forge.accepts in forge.authorizations
    finally:
        thief.shutdown()
        thief.server_close()


def test_helper_answers_no_other_server(
    tmp_path: Path, repository: Repository, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where git follows redirects and the second server asks, it gets no token."""
    thief = Forge(repository.path.parent)
    monkeypatch.setitem(_source._CONFIG, "http.followRedirects", "true")
    try:
        forge.asks_first = False
        forge.redirect = f"http://127.0.0.1:{thief.server_port}"
        refusal(tmp_path, repository.head, url=forge.url, ref=PULL, token=TOKEN)
        assert thief.authorizations
        assert set(thief.authorizations) == {None}
    finally:
        thief.shutdown()
        thief.server_close()


def test_unreachable(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        message = refusal(tmp_path, "0" * 40, url=f"http://127.0.0.1:{port}/a", ref=PULL)
    assert "127.0.0.1 can't be reached" in message
    message = refusal(tmp_path, "0" * 40, url="https://forge.invalid/a", ref=PULL)
    assert "the name forge.invalid does not resolve here" in message


def test_silent_server(tmp_path: Path, forge: Forge) -> None:
    forge.silent = True
    began = time.monotonic()
    message = refusal(tmp_path, "0" * 40, Limits(seconds=1), url=forge.url, ref=PULL)
    assert time.monotonic() - began < 5
    assert "not done within 1 seconds" in message
    assert "preview_source_timeout" in message


def test_by_a_proxy(tmp_path: Path, repository: Repository, forge: Forge) -> None:
    """The forge stands in for the proxy: it is asked for a host that does not exist."""
    origin = {"url": "http://forge.invalid/shop", "ref": PULL}
    proxy = {"http_proxy": f"http://127.0.0.1:{forge.server_port}"}
    forge.accepts = None
    assert export(tmp_path, repository.head, **origin, proxy=proxy).changed
    shutil.rmtree(tmp_path / "state")
    proxy["no_proxy"] = "forge.invalid"
    message = refusal(tmp_path, repository.head, **origin, proxy=proxy)
    assert "forge.invalid does not resolve" in message


def test_untrusted_certificate(tmp_path: Path, repository: Repository, forge: Forge) -> None:
    import ssl

    key, cert = tmp_path / "key", tmp_path / "cert"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    forge.socket = context.wrap_socket(forge.socket, server_side=True)
    url = forge.url.replace("http:", "https:")
    message = refusal(tmp_path, repository.head, url=url, ref=PULL, token=TOKEN)
    assert "the certificate of 127.0.0.1 is not trusted here" in message
    ca = cert.read_text()
    assert export(tmp_path, repository.head, url=url, ref=PULL, token=TOKEN, ca=ca).changed


# -- ssh ------------------------------------------------------------------------------------------


class Sshd:
    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.key = str(folder / "deploy")
        self.known = f"[127.0.0.1]:{port} " + (folder / "host.pub").read_text()


@pytest.fixture
def sshd(tmp_path: Path):
    server_program = needed("sshd", "openssh-server")
    folder = tmp_path / "ssh"
    folder.mkdir()
    for name in ("host", "deploy"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    shutil.copy(folder / "deploy.pub", folder / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "ListenAddress": f"127.0.0.1:{port}",
        "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
    }
    argv = [server_program, "-D", "-e", "-f", "/dev/null"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    server = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    for _attempt in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield Sshd(folder, port)
    server.terminate()
    server.wait()


def test_deploy_key(tmp_path: Path, repository: Repository, sshd: Sshd) -> None:
    import getpass

    url = f"ssh://{getpass.getuser()}@127.0.0.1:{sshd.port}{repository.path}"
    origin = {"url": url, "ref": PULL, "key_file": sshd.key, "host_keys": sshd.known}
    assert export(tmp_path, repository.head, **origin).changed
    shutil.rmtree(tmp_path / "state")

    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    message = refusal(tmp_path, repository.head, **{**origin, "key_file": str(other)})
    assert "did not accept the deploy key" in message

    imposter = f"[127.0.0.1]:{sshd.port} " + other.with_suffix(".pub").read_text()
    message = refusal(tmp_path, repository.head, **{**origin, "host_keys": imposter})
    assert "the host key of 127.0.0.1 is not among the known ones" in message
    message = refusal(tmp_path, repository.head, **{**origin, "key_file": "/nonexistent"})
    assert message == "there is no deploy key at /nonexistent on this machine."


# -- what fills disk and memory -------------------------------------------------------------------


def test_larger_than_allowed(tmp_path: Path, repository: Repository) -> None:
    commit = repository.pull({"noise": os.urandom(3 << 20)})
    limits = Limits(seconds=60, size=1 << 20)
    message = refusal(tmp_path, commit, limits, url=str(repository.path), ref=PULL)
    assert "is larger than 1 MiB. preview_source_max_size allows more" in message


def test_small_to_fetch_and_large_to_unpack(tmp_path: Path, repository: Repository) -> None:
    commit = repository.pull({"zeros": bytes(30 << 20)})
    limits = Limits(seconds=60, size=20 << 20)
    message = refusal(tmp_path, commit, limits, url=str(repository.path), ref=PULL)
    assert "take 30 MiB; preview_source_max_size allows 20" in message


def test_git_bomb(tmp_path: Path, repository: Repository) -> None:
    """Twelve objects that name 10^10 files."""
    below = ("100644", repository.blob(b"x"))
    for _attempt in range(10):
        tree = repository.tree(*((*below, f"f{n}") for n in range(10)))
        below = ("40000", tree)
    commit = repository.pull_tree(below[1])
    began = time.monotonic()
    message = refusal(tmp_path, commit, url=str(repository.path), ref=PULL)
    assert "has more than 200000 files" in message
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("depth", [100, 5_000])
def test_folders_without_end(tmp_path: Path, repository: Repository, depth: int) -> None:
    below = ("100644", repository.blob(b"x"))
    data = git_trees(repository, below, depth)
    commit = repository.pull_tree(data)
    refusal(tmp_path, commit, url=str(repository.path), ref=PULL)


def git_trees(repository: Repository, below: tuple[str, str], depth: int) -> str:
    """`depth` nested folders, by one process."""
    import hashlib

    lines, mode, oid = [], *below
    for mark in range(1, depth + 1):
        body = f"{int(mode, 8):o} d\0".encode() + bytes.fromhex(oid)
        raw = b"tree %d\0" % len(body) + body
        oid, mode = hashlib.sha1(raw).hexdigest(), "40000"
        lines.append((oid, raw))
        assert mark
    import zlib

    for name, raw in lines:
        path = repository.path / ".git/objects" / name[:2] / name[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(zlib.compress(raw, 0))
    return oid


# -- what a hostile repository tries --------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [".git", ".GIT", "..", ".", ".git::$INDEX_ALLOCATION", "git~1", ".g\u200cit", "a/../../x"],
)
def test_names_that_lead_elsewhere(tmp_path: Path, repository: Repository, name: str) -> None:
    below = repository.tree(("100644", repository.blob(b"x"), "config"))
    commit = repository.pull_tree(repository.tree(("40000", below, name)))
    message = refusal(tmp_path, commit, url=str(repository.path), ref=PULL)
    assert "holds what a repository must not" in message
    assert not (tmp_path / "config").exists()
    assert not (tmp_path / "x").exists()


def test_a_link_and_a_folder_of_one_name(tmp_path: Path, repository: Repository) -> None:
    """`a` → outside and `a/file`: a careless writer would follow the link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    inner = repository.tree(("100644", repository.blob(b"x"), "file"))
    commit = repository.pull_tree(
        repository.tree(
            ("120000", repository.blob(str(outside).encode()), "a"), ("40000", inner, "a")
        )
    )
    refusal(tmp_path, commit, url=str(repository.path), ref=PULL)
    assert not list(outside.iterdir())


def test_bare_repository_committed_as_a_folder(
    tmp_path: Path, repository: Repository, canary: Path
) -> None:
    """THREATS 3: any git started inside it runs what its config names."""
    inner = repository.path / "docs"
    git(repository.path, "init", "-q", "--bare", "docs")
    with (inner / "config").open("a") as config:
        config.write(f'[core]\n\tbare = false\n\tworktree = "."\n\tfsmonitor = "{canary}"\n')
        config.write(f'[gpg]\n\tprogram = "{canary}"\n')
    (inner / "hooks").mkdir(exist_ok=True)
    shutil.copy(canary, inner / "hooks" / "post-checkout")
    for kept in ("objects/x", "refs/x"):
        (inner / kept).touch()
    commit = repository.pull({"x": "y"})

    git(inner, "status", check=False)
    assert ran(canary), "the trick works on plain git"

    got = export(tmp_path, commit, url=str(repository.path), ref=PULL)
    _source.object_ids(got.git_dir, commit, ["docs"])
    assert (Path(got.path) / "docs/HEAD").exists()
    assert not ran(canary)


def test_filters_attributes_and_hooks_run_nothing_and_change_nothing(
    tmp_path: Path, repository: Repository, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's and the machine's configuration make the tricks work; git here reads none."""
    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    for hook in ("post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc"):
        shutil.copy(canary, home / "hooks" / hook)
    (home / ".gitconfig").write_text(
        f'[filter "evil"]\n\tsmudge = {canary}\n\tclean = {canary}\n\trequired = true\n'
        f"[core]\n\thooksPath = {home}/hooks\n\tfsmonitor = {canary}\n\tautocrlf = true\n"
        f"[credential]\n\thelper = !{canary}\n[protocol]\n\tallow = always\n"
    )
    content = b"line $Id$ $Format:%H$\nnext\n"
    repository.commit({"file": content, "wide": content, "left.out": content})
    (repository.path / ".gitattributes").write_text(
        "* filter=evil ident export-subst\nfile text eol=crlf\n"
        "wide working-tree-encoding=UTF-16\nleft.out export-ignore\n"
    )
    git(repository.path, "add", ".gitattributes")
    git(repository.path, "commit", "-q", "-m", "attributes")
    git(repository.path, "update-ref", PULL, "HEAD")
    commit = git(repository.path, "rev-parse", "HEAD")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    subprocess.run(
        ["git", "clone", "-q", repository.path, tmp_path / "clone"],
        check=False,
        capture_output=True,
    )
    assert ran(canary), "the trick works on plain git"

    got = export(tmp_path, commit, url=str(repository.path), ref=PULL)

    assert not ran(canary)
    for name in ("file", "wide", "left.out"):
        assert (Path(got.path) / name).read_bytes() == content


def test_environment_reaches_no_git(
    tmp_path: Path, repository: Repository, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_SSH_COMMAND", str(canary))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(canary))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(canary))
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    assert export(tmp_path, repository.head, url=str(repository.path), ref=PULL).changed
    assert not ran(canary)
    assert not (tmp_path / "trace").exists()


def test_submodules_are_not_followed(tmp_path: Path, repository: Repository, canary: Path) -> None:
    """Submodule URLs such as ext:: and --upload-pack=, and a path that is a link into .git."""
    (repository.path / ".gitmodules").write_text(
        f'[submodule "a"]\n\tpath = a\n\turl = ext::{canary}\n'
        f'[submodule "b"]\n\tpath = b\n\turl = {repository.path}\n\tupdate = checkout\n'
    )
    git(repository.path, "add", ".gitmodules")
    for path in ("a", "b"):
        entry = f"160000,{repository.main},{path}"
        git(repository.path, "update-index", "--add", "--cacheinfo", entry)
    git(repository.path, "commit", "-q", "-m", "submodules")
    commit = git(repository.path, "rev-parse", "HEAD")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(repository.path), str(clone))
    git(clone, "-c", "protocol.allow=always", "submodule", "update", "--init", "a", check=False)
    assert ran(canary), "the trick works on plain git"

    got = export(tmp_path, commit, url=str(repository.path))

    assert not ran(canary)
    assert list((Path(got.path) / "a").iterdir()) == list((Path(got.path) / "b").iterdir()) == []
    assert got.missing == [
        "submodule 'a' is left empty: it is not fetched",
        "submodule 'b' is left empty: it is not fetched",
    ]


@pytest.mark.parametrize("url", ["--upload-pack=touch x", "-u./canary", "ext::sh -c true"])
def test_submodule_urls_that_are_options(tmp_path: Path, repository: Repository, url: str) -> None:
    """Git's own check (fsck) refuses these at the door; without it they would be on our disk."""
    modules = f'[submodule "--x"]\n\tpath = a\n\turl = "{url}"\n'
    commit = repository.pull({".gitmodules": modules})
    if url.startswith("-"):
        message = refusal(tmp_path, commit, url=str(repository.path), ref=PULL)
        assert "holds what a repository must not" in message
    else:
        got = export(tmp_path, commit, url=str(repository.path), ref=PULL)
        assert (Path(got.path) / ".gitmodules").read_text() == modules


def test_lfsconfig_sends_nothing_anywhere(
    tmp_path: Path, repository: Repository, forge: Forge, canary: Path, monkeypatch
) -> None:
    """THREATS 3: `.lfsconfig` names the server that git-lfs hands the token to."""
    lfs = tmp_path / "bin" / "git-lfs"
    lfs.parent.mkdir()
    shutil.copy(canary, lfs)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        '[filter "lfs"]\n\tsmudge = git-lfs smudge -- %f\n\tprocess = git-lfs filter-process\n'
        "\trequired = true\n"
    )
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1\n"
    commit = repository.pull(
        {
            ".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n",
            ".lfsconfig": "[lfs]\n\turl = http://127.0.0.1:9/steal\n",
            "big.bin": pointer,
        }
    )
    monkeypatch.setenv("PATH", f"{lfs.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(home))
    subprocess.run(
        ["git", "clone", "-q", repository.path, tmp_path / "clone"],
        check=False,
        capture_output=True,
    )
    assert ran(canary), "the trick works on plain git"

    got = export(tmp_path, commit, url=forge.url, ref=PULL, token=TOKEN)

    assert not ran(canary)
    assert (Path(got.path) / "big.bin").read_text() == pointer
    assert got.missing == ["files kept in Git LFS are exported as pointers: LFS is not fetched"]


# -- a checkout that code of the pull request could write to --------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, repository: Repository) -> Path:
    """As CI makes one: shallow, of the pull request's head, with a token in .git/config."""
    path = tmp_path / "ci" / "shop"
    path.mkdir(parents=True)
    git(path, "init", "-q")
    git(path, "fetch", "-q", "--depth=1", f"file://{repository.path}", PULL)
    git(path, "checkout", "-q", "FETCH_HEAD")
    git(path, "config", "http.extraheader", f"AUTHORIZATION: basic {TOKEN}")
    return path


def test_checkout_of_ci(tmp_path: Path, repository: Repository, checkout: Path) -> None:
    (checkout / "app.py").write_text("changed after the checkout\n")
    (checkout / "junk").touch()
    got = export(tmp_path, repository.head, checkout=str(checkout))
    assert (Path(got.path) / "app.py").read_text() == "print('v1')\n"
    assert not (Path(got.path) / "junk").exists()
    found = subprocess.run(["grep", "-raF", TOKEN, str(tmp_path / "state")], check=False)
    assert found.returncode == 1
    shutil.rmtree(checkout)
    _source.object_ids(got.git_dir, repository.head, [""])


def test_checkout_without_the_commit(
    tmp_path: Path, repository: Repository, checkout: Path
) -> None:
    message = refusal(tmp_path, "12" * 20, checkout=str(checkout))
    assert f"{checkout} does not hold commit {'12' * 20}" in message
    assert "ref: ${{ github.event.pull_request.head.sha }}" in message
    message = refusal(tmp_path, "12" * 20, checkout=str(tmp_path))
    assert "needs an ordinary checkout" in message


def test_checkout_with_hostile_configuration(
    tmp_path: Path, repository: Repository, checkout: Path, canary: Path
) -> None:
    config = checkout / ".git" / "config"
    with config.open("a") as handle:
        handle.write(
            f'[core]\n\tfsmonitor = {canary}\n\tsshCommand = {canary}\n'
            f'\thooksPath = {canary.parent}\n\tgitProxy = {canary}\n'
            f'\talternateRefsCommand = {canary}\n'
            f'[uploadpack]\n\tpackObjectsHook = {canary}\n'
            f'[remote "origin"]\n\turl = ext::{canary}\n\tpromisor = true\n\tpartialclonefilter ='
            ' blob:none\n\tuploadpack = ' + str(canary) + '\n'
            '[extensions]\n\tpartialClone = origin\n[protocol]\n\tallow = always\n'
            f'[gpg]\n\tprogram = {canary}\n[log]\n\tshowSignature = true\n'
        )  # fmt: skip
    for hook in ("post-checkout", "reference-transaction", "pre-push", "post-index-change"):
        (checkout / ".git/hooks").mkdir(exist_ok=True)
        shutil.copy(canary, checkout / ".git/hooks" / hook)
    git(checkout, "status", check=False)
    assert ran(canary), "the trick works on plain git"

    assert export(tmp_path, repository.head, checkout=str(checkout)).changed

    assert not ran(canary)


def test_checkout_that_lacks_objects_asks_nobody_for_them(
    tmp_path: Path, repository: Repository, checkout: Path, canary: Path
) -> None:
    """A partial clone's server is named by its config: `ext::` would run on the first read."""
    blob = git(checkout, "rev-parse", "HEAD:app.py")
    (checkout / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with (checkout / ".git/config").open("a") as handle:
        handle.write(
            f'[remote "origin"]\n\turl = ext::{canary}\n\tpromisor = true\n'
            "[core]\n\trepositoryformatversion = 1\n"
            "[extensions]\n\tpartialClone = origin\n[protocol]\n\tallow = always\n"
        )
    git(checkout, "cat-file", "-p", blob, check=False)
    assert ran(canary), "the trick works on plain git"

    message = refusal(tmp_path, repository.head, checkout=str(checkout))

    assert not ran(canary)
    assert "broken or a partial clone" in message


def test_checkout_with_forged_objects(
    tmp_path: Path, repository: Repository, checkout: Path
) -> None:
    """Git trusts its own store: a pack's index may give a commit's id to other content."""
    honest = repository.head
    good = repository.blob(b"print('v1')\n")
    evil = repository.blob(b"print('owned')\n")
    forged = checkout / ".git/objects" / good[:2] / good[2:]
    packs = checkout / ".git/objects/pack"
    forged.unlink()
    # A pack of the evil blob, whose index says that it is the good one.
    name = git(
        repository.path, "pack-objects", "-q", str(packs / "pack"), stdin=evil.encode() + b"\n"
    )
    index = packs / f"pack-{name}.idx"
    index.chmod(0o644)
    index.write_bytes(forge_index(index.read_bytes(), evil, good))
    assert git(checkout, "cat-file", "-p", f"{honest}:app.py") == "print('owned')", (
        "plain git believes the index"
    )

    refusal(tmp_path, honest, checkout=str(checkout))


def forge_index(data: bytes, old: str, new: str) -> bytes:
    """A version 2 index of one object, with another id and right checksums."""
    import hashlib
    import struct

    assert data[:8] == b"\xfftOc\0\0\0\2"
    first = bytes.fromhex(new)[0]
    fanout = b"".join(struct.pack(">I", int(n >= first)) for n in range(256))
    rest = data[8 + 1024 + 20 : -20]
    assert data[8 + 1024 : 8 + 1024 + 20].hex() == old
    body = data[:8] + fanout + bytes.fromhex(new) + rest
    return body + hashlib.sha1(body).digest()


@pytest.mark.parametrize("trick", ["git", "objects", "pack", "alternates", "fifo", "file"])
def test_checkout_that_leads_elsewhere(
    tmp_path: Path, repository: Repository, checkout: Path, trick: str
) -> None:
    """A neighbour's objects must not become readable by linking to them."""
    neighbour = Repository(tmp_path / "neighbour")
    own, theirs = checkout / ".git", neighbour.path / ".git"
    if trick == "git":
        shutil.rmtree(own)
        own.symlink_to(theirs)
    elif trick == "file":
        shutil.rmtree(own)
        own.write_text(f"gitdir: {theirs}\n")
    elif trick == "objects":
        shutil.rmtree(own / "objects")
        (own / "objects").symlink_to(theirs / "objects")
    elif trick == "pack":
        folders = (own / "objects" / f"{number:02x}" for number in range(256))
        free = next(folder for folder in folders if not folder.exists())
        free.symlink_to(theirs / "objects" / neighbour.head[:2])
    elif trick == "alternates":
        (own / "objects/info").mkdir(exist_ok=True)
        (own / "objects/info/alternates").write_text(f"{theirs}/objects\n")
    else:
        os.mkfifo(own / "objects/pack/pack-0.idx")
    began = time.monotonic()
    message = refusal(tmp_path, neighbour.head, checkout=str(checkout))
    assert "does not hold" not in message
    assert time.monotonic() - began < 5


def test_a_token_is_hidden_before_what_git_says_is_cut(tmp_path: Path) -> None:
    origin = _source.Origin(url="https://example.org/a.git", token=TOKEN)
    git = _source._Git(str(tmp_path), str(tmp_path), "https", origin, "0" * 40, _source.Limits())
    for after in range(570, 601):
        said = f"fatal: {'x' * 99} {TOKEN}{'y' * after}"
        message = str(git.refused(_run.Ended(128, b"", said, False)))
        assert not any(TOKEN[i : i + 6] in message for i in range(len(TOKEN) - 5)), after
