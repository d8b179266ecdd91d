"""Images against the real engine, its BuildKit, and a real registry with a password."""

from __future__ import annotations

import http.server
import io
import os
import re
import shutil
import socket
import ssl
import subprocess
import tarfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _build, _docker
from ansible_collections.ephemera.preview.plugins.module_utils._build import (
    BuildFailed,
    Wanted,
)
from builds import BASE, PASSWORD, Preview, Registry, docker, new_previews, start_registry
from conftest import TINY, Platform, command_lines, failing_at_first, wait
from packages import needed

root = pytest.mark.skipif(os.geteuid() != 0, reason="limits take root")


def plain_build(folder: Path) -> str:
    """What a build without any of our defences prints."""
    done = subprocess.run(
        ["docker", "buildx", "build", "--progress=plain", "--output=type=cacheonly", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


@pytest.fixture
def previews(tmp_path: Path) -> Iterator[Any]:
    yield from new_previews(tmp_path)


@pytest.fixture
def preview(previews: Any) -> Preview:
    return previews()


@pytest.fixture
def spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Notes every argument list and environment that docker and git are started with, one call
    after the other, as some are made side by side."""
    log = tmp_path / "spy.log"
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("docker", "git"):
        real = shutil.which(name)
        (folder / name).write_text(
            f'#!/bin/sh\n( flock 9; printf "%s\\n" "{name} $*";'
            f' env | sed "s/^/env /" ) 9>>{log} >&9\n'
            f'exec {real} "$@"\n'
        )
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    log.touch()
    return log


def nameless() -> set[str]:
    return set(docker("image", "ls", "--quiet", "--filter", "dangling=true").split())


def calls(spy: Path, what: str) -> int:
    return sum(line.startswith(what) for line in spy.read_text().splitlines())


# -- what is built, and what is not ---------------------------------------------------------------


def test_builds_and_names_the_image(preview: Preview) -> None:
    preview.write({"app/hello": "hello\n", "docker/web.Dockerfile":
                   f"FROM {BASE} AS base\nARG GREETING\nCOPY hello /hello\n"
                   'RUN echo "$GREETING" >>/hello\nFROM base AS web\nFROM base AS other\n'
                   "RUN echo other >>/hello\n"})  # fmt: skip
    service = preview.service(
        context="app",
        dockerfile="../docker/web.Dockerfile",
        target="web",
        args={"GREETING": "a b $x 'y'", "UNSET": None},
    )
    made = preview.make(service).images["web"]
    assert (made.ref, made.how) == (preview.image(), "built")
    assert made.id == docker("image", "inspect", "--format", "{{.Id}}", preview.image())
    assert preview.run("cat", "/hello") == "hello\na b $x 'y'"
    assert sorted(p.name for p in preview.folder.iterdir()) == [".buildx", "source"]


def test_inline_dockerfile_further_contexts_and_what_is_ignored(preview: Preview) -> None:
    preview.write({"lib/data": "data\n", "junk": "x", "kept": "x", "Dockerfile": "",
                   "Dockerfile.dockerignore": "junk\n"})  # fmt: skip
    inline = f"FROM {BASE}\nCOPY --from=lib data /data\n"
    preview.make(preview.service(dockerfile_inline=inline, additional_contexts={"lib": "lib"}))
    assert preview.run("cat", "/data") == "data"
    preview.build(f"FROM {BASE}\nCOPY . /all\n")
    assert preview.run("ls", "/all").split() == [
        "Dockerfile",
        "Dockerfile.dockerignore",
        "kept",
        "lib",
    ]


def test_unchanged_content_is_named_and_not_built(preview: Preview, spy: Path) -> None:
    preview.write({"Dockerfile": f"FROM {BASE}\nRUN echo first\n"})
    first = preview.make(preview.service(digest="d1"))
    assert calls(spy, "docker buildx") == 1
    previous = {"web": {"digest": "d1", "image_id": first.images["web"].id}}

    again = preview.make(preview.service(digest="d1"), previous=previous)
    assert again.images["web"].how == "kept"
    second = preview.make(preview.service(tag="ba9876543210", digest="d1"), previous=previous)
    assert second.images["web"].how == "retagged"
    assert second.images["web"].id == first.images["web"].id
    assert calls(spy, "docker buildx") == 1

    for changed in ({"digest": "d2"}, {"digest": ""}):
        preview.make(preview.service(**changed), previous=previous)
    docker("image", "rm", "--force", first.images["web"].id)
    assert (
        preview.make(preview.service(digest="d1"), previous=previous).images["web"].how == "built"
    )
    assert calls(spy, "docker buildx") == 4


def test_afresh_from_base_images_pulled_anew(preview: Preview, mirror: Registry) -> None:
    mirror.push(BASE, "acme/base:1")
    preview.write({"Dockerfile": f"FROM {mirror.host}/acme/base:1\nRUN date +%N >/when\n"})
    service, options = preview.service(digest="d1"), {"base_images": ("127.0.0.1:*/acme/*",)}
    first = preview.make(service, **options).images["web"]
    previous = {"web": {"digest": "d1", "image_id": first.id}}
    assert preview.make(service, previous=previous, **options).images["web"].how == "kept"
    again = preview.make(service, previous=previous, fresh=True, **options).images["web"]
    assert (again.how, again.id == first.id) == ("built", False)
    former = docker("image", "inspect", "--format", '{{join .RepoTags " "}}', first.id)
    assert former == f"ephemera-preview/{preview.name}/web:former-{first.id[7:19]}"


def test_services_of_one_build_are_built_once(preview: Preview, spy: Path) -> None:
    preview.write({"Dockerfile": f"FROM {BASE}\n"})
    web = preview.service()
    made = preview.make(web, web._replace(name="worker"), web._replace(name="cron"))
    assert calls(spy, "docker buildx") == 1
    assert {each.ref for each in made.images.values()} == {preview.image()}


def test_check_mode_tells_and_does_nothing(preview: Preview, spy: Path) -> None:
    request = preview.request._replace(services=(preview.service(),))
    assert _build.make(request, check=True).images["web"].how == "built"
    assert calls(spy, "docker buildx") == 0


# -- what an author may not have ------------------------------------------------------------------


@pytest.mark.parametrize(
    "dockerfile",
    [
        "FROM {other}",
        "FROM docker.io/{other}",
        "ARG IT={other}\nFROM ${{IT}}",
        "FROM {base}\nCOPY --from={other} /secret /",
        "FROM {base}\nRUN --mount=type=bind,from={other},target=/m cat /m/secret",
        "# syntax={other}\nFROM {base}",
    ],
)
def test_image_of_another_preview(previews: Any, dockerfile: str) -> None:
    neighbour, mine = previews(), previews()
    neighbour.build(f"FROM {BASE}\nRUN echo mine >/secret\n")
    text = dockerfile.format(other=neighbour.image(), base=BASE) + "\n"
    if "syntax" not in text:
        mine.write({"Dockerfile": text})
        assert "ERROR" not in plain_build(mine.checkout), "the trick works on plain BuildKit"
    options = {"frontends": (neighbour.image(),)}
    message = str(mine.refused(text, **options))
    assert neighbour.image() in message
    assert "previews don't share images" in message
    options["base_images"] = ("*", "*/*")
    assert "previews don't share" in str(mine.refused(text, **options)), "and last"


def test_service_with_the_image_of_another_preview(previews: Any) -> None:
    neighbour, mine = previews(), previews()
    for image in (neighbour.image(), "docker.io/" + neighbour.image()):
        with pytest.raises(BuildFailed, match="previews don't share images"):
            mine.make(Wanted("web", image, "pull", {}))
    with pytest.raises(BuildFailed, match="is no image of"):
        mine.make(Wanted("web", neighbour.image(), "build", {"context": "."}))


def test_base_images_are_those_of_the_list(preview: Preview) -> None:
    allowed = ("busybox:1.*", "registry.example.org/acme/*")
    preview.build(
        f"FROM {BASE}\nFROM scratch\nCOPY --from={BASE} /bin/true /\n", base_images=allowed
    )
    docker("image", "rm", preview.image())
    for image in (
        "redis:8",
        "busybox:2",
        "docker.io/acme/busybox:1.37",
        "registry.example.org/b:1",
    ):
        message = str(preview.refused(f"FROM {image}\n", base_images=allowed))
        assert "preview_base_images" in message
        assert image.rpartition("/")[2] in message


def test_registries_of_this_machine_are_not_for_authors(
    preview: Preview, registry: Registry
) -> None:
    for host in (registry.host, registry.host.replace("127.0.0.1", "localhost"), "[::1]:5000"):
        message = str(preview.refused(f"FROM {host}/acme/base:1\n"))
        assert "the platform does not allow the image" in message
    assert registry.log.read_text().count("/v2/acme/base") == 0


@pytest.mark.parametrize("base_images", [(), (BASE,)])
def test_the_engine_fetches_nothing_for_an_author(preview: Preview, base_images: Any) -> None:
    """THREATS 7: ADD is fetched by the engine, which can reach what no build may."""
    with Answers(200) as server:
        text = f"FROM {BASE}\nADD http://127.0.0.1:{server.port}/metadata /x\n"
        preview.write({"Dockerfile": text})
        plain_build(preview.checkout)
        assert server.asked, "the trick works on plain BuildKit"
        server.asked.clear()
        message = str(preview.refused(text, base_images=base_images))
        assert "ADD http://127.0.0.1" in message
        assert "by RUN, with wget, curl or git" in message
        preview.refused(f"FROM {BASE}\nADD http://127.0.0.1:{server.port}/r.git#main /x\n")
        preview.refused("FROM scratch\nADD git@127.0.0.1:a/b.git /x\n")
        assert not server.asked


def test_frontends(preview: Preview) -> None:
    head = "# syntax=docker/dockerfile:1\n# check=skip=all\n# escape=`\n"
    preview.build(f"{head}FROM {BASE}\nRUN a=1; `\n  echo $a >/a\n")
    assert preview.run("cat", "/a") == "1"
    docker("image", "rm", preview.image())
    evil = f"#syntax=evil.example.org/frontend:1\nFROM {BASE}\n"
    for text in (evil, evil.replace("#", "//"), evil.replace("#syntax", "# SYNTAX ")):
        assert "# syntax=evil.example.org/frontend:1 is refused" in str(preview.refused(text))


@pytest.mark.parametrize(
    "run",
    [
        "RUN --network=host true",
        "RUN --security=insecure true",
        "RUN --device=nvidia.com/gpu true",
        "RUN --mount=type=ssh,required=true true",
        "RUN --mount=type=secret,id=GITHUB_TOKEN,required=true true",
    ],
)
def test_nothing_of_the_host(preview: Preview, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "host-token")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent")
    preview.refused(f"FROM {BASE}\n{run}\n")


@pytest.mark.parametrize("build", [
    {"context": "out"}, {"dockerfile": "out/Dockerfile"}, {"context": "../.."},
    {"additional_contexts": {"x": "out"}}, {"dockerfile": "../../../Dockerfile"},
    {"args": {"BUILDKIT_SYNTAX": "evil"}}, {"args": {"--secret": "x"}},
])  # fmt: skip
def test_paths_and_arguments_that_lead_elsewhere(
    preview: Preview, tmp_path: Path, build: dict[str, Any], spy: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {BASE}\n")
    (preview.checkout / "out").symlink_to(tmp_path)
    preview.refused(f"FROM {BASE}\n", build)
    assert calls(spy, "docker buildx") == 0


def test_no_git_in_the_context(preview: Preview, spy: Path) -> None:
    """THREATS 3: buildx asks git about its context, and git runs what is configured there."""
    subprocess.run(["git", "init", "-q", "--bare", preview.checkout], check=True)
    with (preview.checkout / "config").open("a") as config:
        config.write('[core]\n\tbare = false\n\tworktree = "."\n')
    preview.write({"Dockerfile": f"FROM {BASE}\n"})
    plain_build(preview.checkout)
    assert calls(spy, "git") > 0, "the trick works on plain buildx"
    before = calls(spy, "git")
    preview.make()
    assert calls(spy, "git") == before


def test_cache_mounts_are_a_previews_own(previews: Any) -> None:
    """THREATS 8: what one pull request leaves in a cache mount, another one's build would run."""

    def look(preview: Preview, path: str = "pip") -> str:
        preview.build(
            f"FROM {BASE}\nARG N\nRUN --mount=type=cache,target=/c,id={path} cp -r /c /seen;"
            f" echo {preview.name} >/c/poison\n",
            {"args": {"N": uuid.uuid4().hex, "WHO": preview.name}},
        )
        return preview.run("sh", "-c", "cat /seen/* 2>/dev/null || true")

    first, second = previews(), previews()
    assert look(first) == ""
    assert look(first) == first.name, "the cache mount works"
    assert look(second) == ""
    assert look(second, f"../{first.name}/pip") == ""

    second.request = second.request._replace(trusted=False)
    assert look(second) == "", "nor with its own from another level of trust"

    subprocess.run(_docker.cache_prune(second.name), check=True, capture_output=True)
    assert look(second) == "", "its own is pruned"
    assert look(first) == first.name, "another's is not"


@pytest.mark.parametrize("by", ["the Dockerfile", "an ONBUILD of its base"])
def test_results_of_steps_with_cache_mounts_are_a_previews_own(previews: Any, by: str) -> None:
    """THREATS 8: BuildKit finds a step's result whatever cache mount it came from."""
    token = uuid.uuid4().hex
    mount = "RUN --mount=type=cache,target=/c,id=pip"
    step = f"{mount} : {token}; cp -r /c /seen"
    base = f"t{token[:6]}"
    text = f"FROM {BASE}\n{step}\n"
    if by != "the Dockerfile":
        docker("build", "-q", "-t", base, "-", input=f"FROM {BASE}\nONBUILD {step}\n")
        text = f"FROM {base}\n"
    first, second = previews(), previews()

    def look(preview: Preview) -> str:
        preview.build(text)
        return preview.run("sh", "-c", "cat /seen/* 2>/dev/null || true")

    try:
        first.build(f"FROM {BASE}\n{mount} echo poison >/c/it; : {token}\n")
        assert look(first) == "poison", "its own is kept"
        before = nameless()
        assert look(second) == ""
        # What is built for a cluster beside this test has no name for a moment.
        wait(lambda: nameless() <= before, 10)
    finally:
        docker("image", "rm", "--force", base)


def test_results_of_steps_without_are_shared(previews: Any) -> None:
    text = f"FROM {BASE}\nRUN : {uuid.uuid4()}; date +%N >/when\n"
    seen = {each.build(text) and each.run("cat", "/when") for each in (previews(), previews())}
    assert len(seen) == 1


def test_labels_of_the_platform(previews: Any) -> None:
    """THREATS 9: a label reaches the container and makes it look like one of ours."""
    preview, other = previews(), previews()
    label = "ephemera.preview/owner"
    message = str(preview.refused(f"FROM {BASE}\nLABEL {label}=0123456789abcdef\n"))
    assert f"carries the label {label}" in message

    # By way of an image that has it, too.
    docker("build", "-q", "-t", other.image(), "-", input=f"FROM {BASE}\nLABEL {label}=x\n")
    base = f"t{uuid.uuid4().hex[:6]}"
    docker("tag", other.image(), base)
    try:
        assert label in str(preview.refused(f"FROM {base}\n"))
        with pytest.raises(BuildFailed, match=label):
            preview.make(Wanted("web", base, "pull", {}))
        assert docker("image", "ls", "--quiet", base), "what was there before stays"
    finally:
        docker("image", "rm", "--force", base)


@pytest.mark.parametrize(
    ("instruction", "sentence"),
    [
        ("HEALTHCHECK --interval=1ms CMD true", "Interval is 0.001s"),
        ("HEALTHCHECK --start-interval=1ms CMD true", "StartInterval is 0.001s"),
        ("HEALTHCHECK --timeout=48h CMD true", "Timeout is 172800s"),
        ("HEALTHCHECK --interval=1s --timeout=5s --start-period=60s CMD true", ""),
        ("EXPOSE 1-2000", "has 2000 of what EXPOSE names"),
        ("VOLUME " + " ".join(f"/v/{n}" for n in range(60)), "has 60 of what VOLUME names"),
    ],
)
def test_what_containers_inherit(preview: Preview, instruction: str, sentence: str) -> None:
    """Each check, volume and port of an image is the engine's work."""
    text = f"FROM {BASE}\n{instruction}\n"
    if sentence:
        assert sentence in str(preview.refused(text))
    else:
        preview.build(text)


@pytest.mark.parametrize(("interval", "begins"), [("5s", True), ("1ms", False)])
def test_what_runs_beside_the_builds_waits_for_its_images(
    preview: Preview, tmp_path: Path, interval: str, begins: bool
) -> None:
    data, began = f"{preview.name}-data:1", tmp_path / "began"
    text = f"FROM {BASE}\nHEALTHCHECK --interval={interval} CMD true\n"
    build = ["docker", "build", "--quiet", "--tag", data, "-"]
    subprocess.run(build, input=text, text=True, check=True, capture_output=True)
    command = _build.Meanwhile(["sh", "-c", f"cat >{began}; echo begun"], "told", ["db"], 10)
    services = preview.service(), Wanted("db", data, "pull", {})
    preview.write({"Dockerfile": f"FROM {BASE}\n"})
    try:
        if begins:
            assert preview.make(*services, meanwhile=command).meanwhile == "begun\n"
            assert began.read_text() == "told"
        else:
            with pytest.raises(BuildFailed, match="Interval is 0.001s"):
                preview.make(*services, meanwhile=command)
            assert not began.exists()
    finally:
        docker("image", "rm", "--force", data)


# -- limits ---------------------------------------------------------------------------------------


def processes(what: str) -> list[str]:
    return [line for line in command_lines() if line.startswith(what)]


def test_a_build_that_takes_too_long_is_over(preview: Preview) -> None:
    began = time.monotonic()
    failed = preview.refused(f"FROM {BASE}\nRUN echo begun; sleep 4711\n", timeout=20)
    assert time.monotonic() - began < 60
    assert "was not done within 20 seconds" in str(failed)
    assert "preview_build_timeout" in str(failed)
    assert any("begun" in line for line in failed.log)
    wait(lambda: not processes("sleep 4711"), 10)  # in the engine too
    assert not list(Path("/sys/fs/cgroup").glob(f"**/*{preview.app}*"))


@root
def test_memory_of_a_build(preview: Preview) -> None:
    text = f"FROM {BASE}\nRUN x=$(head -c 300000000 /dev/zero | tr '\\0' a); echo ${{#x}}\n"
    failed = preview.refused(text, memory=64 << 20)
    assert "preview_build_memory" in str(failed)
    assert not list(Path("/sys/fs/cgroup").glob(f"**/*{preview.app}*"))
    assert preview.make(preview.service(dockerfile_inline=f"FROM {BASE}\nRUN true\n")).limited


@root
def test_builds_of_an_app_share_their_limits(previews: Any) -> None:
    cgroups = Path("/sys/fs/cgroup")
    app = previews().app
    with _build.confined(app, True, 1 << 30, 100) as one:
        with _build.confined(app, True, 1 << 31, 200) as two:
            assert one == two
        left = list(cgroups.glob(f"**{one}/pids.max"))
        assert [path.read_text().strip() for path in left] == ["200"], "the other still builds"
        with _build.confined(app, False, 1 << 30, 100) as other:
            assert other not in ("", one)
    assert not list(cgroups.glob(f"**/*{app}*"))


@root
def test_processes_of_a_build(preview: Preview) -> None:
    failed = preview.refused(
        f"FROM {BASE}\nRUN (for i in $(seq 200); do sleep 4712 & done); sleep 1; exit 1\n", pids=50
    )
    assert "more processes than builds may have" in str(failed)
    assert not processes("sleep 4712")


def test_disk_of_a_build(preview: Preview) -> None:
    text = (
        f"FROM {BASE}\nRUN echo {uuid.uuid4()}; dd if=/dev/zero of=/x bs=1M count=600; sleep 4713\n"
    )
    assert "of the engine's disk" in str(preview.refused(text, disk=100 << 20))
    assert not processes("sleep 4713")


# -- secrets, proxies, registries -----------------------------------------------------------------


def everything_in(image: str) -> bytes:
    """An image's configuration, history and every file of every layer."""
    saved = subprocess.run(["docker", "save", image], capture_output=True, check=True).stdout
    found = (
        docker("image", "inspect", image).encode() + docker("history", "--no-trunc", image).encode()
    )
    with tarfile.open(fileobj=io.BytesIO(saved)) as outer:
        for member in outer:
            data = (outer.extractfile(member) or io.BytesIO()).read()
            found += data
            if tarfile.is_tarfile(io.BytesIO(data)):
                with tarfile.open(fileobj=io.BytesIO(data)) as layer:
                    for each in layer:
                        found += (layer.extractfile(each) if each.isfile() else io.BytesIO()).read()
    return found


def test_build_secrets(preview: Preview, spy: Path) -> None:
    value = "npm-secret-8e21"
    text = (
        f"FROM {BASE}\nRUN --mount=type=secret,id=NPM_TOKEN,required=true"
        " test $(wc -c </run/secrets/NPM_TOKEN) = 15 && echo done >/done\n"
        'RUN --mount=type=secret,id=other test -z "$(ls /run/secrets)"\n'
    )
    preview.build(
        text, {"secrets": ["NPM_TOKEN"]}, secrets={"NPM_TOKEN": value, "other": "unasked"}
    )
    assert preview.run("cat", "/done") == "done"
    assert value.encode() not in everything_in(preview.image())
    assert b"done" in everything_in(preview.image()), "this looks into layers"
    assert value not in spy.read_text()
    docker("image", "rm", preview.image())

    # BuildKit's cache knows nothing of secrets: what was built with one is reused without.
    preview.build(text)
    docker("image", "rm", preview.image())
    build = {"secrets": [{"source": "NPM_TOKEN"}]}
    message = str(preview.refused(text, build, trusted=False, secrets={"NPM_TOKEN": value}))
    assert "it needs the build secret NPM_TOKEN" in message
    assert "preview_build_secrets" in message
    leak = text.replace("test $", "cat /run/secrets/NPM_TOKEN; false $")
    failed = preview.refused(leak, {"secrets": ["NPM_TOKEN"]}, secrets={"NPM_TOKEN": value})
    assert value not in str(failed) + "".join(failed.log)
    assert "********" in "".join(failed.log)


def test_certificates_and_proxies_are_for_the_build_alone(preview: Preview, spy: Path) -> None:
    proxy = {"http_proxy": "http://me:proxy-pass@proxy.invalid:3128", "no_proxy": "localhost"}
    preview.build(
        f"FROM {BASE}\nRUN --mount=type=secret,id=preview_ca,required=true"
        " grep -q CERT /run/secrets/preview_ca\n"
        'RUN test "$http_proxy$HTTP_PROXY" = "$E$E" && test "$NO_PROXY" = localhost\n'.replace(
            "$E", proxy["http_proxy"]
        ),
        proxy=proxy,
        ca="-----BEGIN CERTIFICATE-----\n",
    )
    found = everything_in(preview.image())
    assert b"BEGIN CERT" not in found
    assert b"HTTP_PROXY=" not in found.replace(b'"$http_proxy$HTTP_PROXY"', b"")
    arguments = [line for line in spy.read_text().splitlines() if not line.startswith("env ")]
    assert "proxy-pass" not in "\n".join(arguments)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry that wants a password."""
    yield from start_registry(tmp_path / "registry", auth=True)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Registry]:
    yield from start_registry(tmp_path / "mirror", auth=False)


class Answers:
    """A server that gives everything one answer, with TLS as registries have it when asked."""

    def __init__(self, status: int, certificate: Path | None = None) -> None:
        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.asked = asked
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port

    def __enter__(self) -> Answers:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_private_base_image(preview: Preview, registry: Registry, spy: Path) -> None:
    base = f"{registry.host}/acme/base:1"
    registry.push(BASE, "acme/base:1")
    text = (
        f"FROM {base}\nRUN cat /root/.docker/config.json /run/secrets/* 2>/dev/null | wc -c >/n\n"
    )

    message = str(preview.refused(text, base_images=("127.0.0.1:*/*",)))
    assert f"answers 401 for {base}" in message
    assert "preview_registries" in message
    wrong = tuple(each | {"password": "wrong-pass"} for each in registry.login)
    message = str(preview.refused(text, registries=wrong))
    assert "answers 401" in message
    assert "wrong-pass" not in message

    preview.build(text, registries=registry.login)
    assert preview.run("cat", "/n") == "0"
    assert PASSWORD not in spy.read_text()
    assert PASSWORD.encode() not in everything_in(preview.image())
    grep = subprocess.run(["grep", "-ra", PASSWORD, str(preview.folder)], check=False)
    assert grep.returncode == 1
    missing = str(preview_refused_again(preview, f"FROM {registry.host}/acme/none:1\n", registry))
    assert f"the registry has no image {registry.host}/acme/none:1" in missing


def preview_refused_again(preview: Preview, text: str, registry: Registry) -> BuildFailed:
    docker("image", "rm", preview.image())
    return preview.refused(text, registries=registry.login)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    public = path.with_suffix(".crt")
    subprocess.run(
        [needed("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes",
         "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", public],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + public.read_text())
    return path


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(403, "answers 403"), (429, "answers 429: too many requests")],
)
def test_what_a_registry_answers(
    preview: Preview, certificate: Path, status: int, sentence: str
) -> None:
    with Answers(status, certificate) as server:
        image = f"127.0.0.1:{server.port}/acme/base:1"
        login = ({"registry": image.partition("/")[0], "username": "u", "password": "pass"},)
        assert sentence in str(preview.refused(f"FROM {image}\n", registries=login))
        with pytest.raises(BuildFailed, match=sentence):
            preview.make(Wanted("web", image, "pull", {}), registries=login)
        assert server.asked


def test_a_registry_that_is_not_there(preview: Preview) -> None:
    image = "registry.invalid/acme/base:1"
    assert "can't be reached" in str(preview.refused(f"FROM {image}\n"))
    with pytest.raises(BuildFailed, match=f"Pulling {image} failed: .*can't be reached"):
        preview.make(Wanted("web", image, "pull", {}))


def test_a_registry_that_does_not_answer(preview: Preview) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        options: Any = {"registries": ({"registry": host, "username": "u", "password": "pass"},)}
        message = str(preview.refused(f"FROM {host}/acme/base:1\n", timeout=20, **options))
        assert f"the registry of {host}/acme/base:1 did not answer within 20 seconds" in message
        with pytest.raises(BuildFailed, match="3 seconds, and was stopped. preview_images_timeout"):
            wanted = Wanted("web", f"{host}/acme/base:1", "pull", {})
            preview.make(wanted, images_timeout=3, **options)


def test_disk_of_a_pull(preview: Preview, registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(200 << 20))
    with tarfile.open(tmp_path / "large.tar", "w") as archive:
        archive.add(tmp_path / "large", "large")
    docker("import", str(tmp_path / "large.tar"), preview.image("ci"))
    registry.push(preview.image("ci"), "acme/large:1")
    docker("image", "rm", preview.image("ci"))
    wanted = Wanted("web", f"{registry.host}/acme/large:1", "pull", {})
    try:
        with pytest.raises(BuildFailed, match="of the engine's disk"):
            preview.make(wanted, registries=registry.login, disk=10 << 20)
    finally:
        docker("image", "rm", "--force", wanted.image, check=False)


def test_an_image_that_goes_away(preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    solve = _build._Maker._solve

    def lose(*arguments: Any) -> Any:
        ended = solve(*arguments)
        docker("image", "rm", preview.image())
        return ended

    monkeypatch.setattr(_build._Maker, "_solve", lose)
    with pytest.raises(BuildFailed, match="is gone from the engine though it was just made"):
        preview.build(f"FROM {BASE}\n")


# What Docker 28 said to one of 500 builds while another loop built and removed the same image.
LOST = (
    "ERROR: failed to build: failed to solve: failed to get digest sha256:{0}: open"
    " /var/lib/docker/image/overlay2/imagedb/content/sha256/{0}: no such file or directory"
).format("1cf2" * 16)


@pytest.mark.parametrize("times", [1, 3])
def test_a_build_that_another_removal_came_between(
    preview: Preview, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = failing_at_first(tmp_path, monkeypatch, "buildx build", LOST, times)
    if times == 1:
        preview.build(f"FROM {BASE}\n")
    else:
        assert "failed to get digest" in str(preview.refused(f"FROM {BASE}\n"))
    assert len(failures.read_text().splitlines()) == times


def test_mirror_of_docker_hub(preview: Preview, mirror: Registry) -> None:
    name = f"t{uuid.uuid4().hex[:6]}"
    mirror.push(BASE, f"library/{name}:1")
    options = {"mirror": f"http://{mirror.host}/"}
    for bases in ((), (f"{name}:*",)):
        preview.build(f"FROM {name}:1\nRUN echo {len(bases)}\n", base_images=bases, **options)
    docker("image", "rm", preview.image())
    assert "preview_base_images" in str(
        preview.refused(f"FROM {name}:1\n", base_images=("redis",), **options)
    )
    try:
        made = preview.make(Wanted("web", f"{name}:1", "pull", {}), **options).images["web"]
        assert made.how == "pulled"
        assert docker("image", "ls", "--format", "{{.Repository}}", "--filter",
                      f"reference=*/*/{name}") == "", "the mirror's own name is gone"  # fmt: skip
        again = preview.make(Wanted("web", f"{name}:1", "pull", {})).images["web"]
        assert (again.how, again.id) == ("present", made.id)
    finally:
        docker("image", "rm", "--force", f"{name}:1")


# -- images that CI pushes ------------------------------------------------------------------------


def test_waits_for_the_image_that_ci_pushes(
    preview: Preview, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_build, "POLL", 0.3)
    image = f"{registry.host}/acme/shop:5f3c9d2f"
    wanted = Wanted("web", preview.image(), "prebuilt", {}, image)
    docker("build", "-q", "-t", preview.image("ci"), "-", input=f"FROM {BASE}\nRUN echo {image}\n")
    pushed = registry.push(preview.image("ci"), "acme/shop:ci")

    def push() -> None:
        time.sleep(1.5)
        registry.tag("acme/shop", "ci", "5f3c9d2f")

    with ThreadPoolExecutor(1) as ci:
        tagged = ci.submit(push)
        made = preview.make(wanted, registries=registry.login).images["web"]
        tagged.result()
    assert (made.ref, made.how) == (preview.image(), "pulled")
    assert made.digest == pushed
    assert made.id == docker("image", "inspect", "--format", "{{.Id}}", preview.image("ci"))
    assert not docker("image", "ls", "--quiet", f"{registry.host}/acme/shop")
    assert preview.make(wanted, registries=registry.login).images["web"].how == "present"


def test_who_has_the_name_of_an_image_of_ci_keeps_it(preview: Preview, registry: Registry) -> None:
    image = f"{registry.host}/acme/shop:2"
    registry.push(BASE, "acme/shop:2")
    docker("tag", BASE, image)
    try:
        wanted = Wanted("web", preview.image(), "prebuilt", {}, image)
        assert preview.make(wanted, registries=registry.login).images["web"].how == "pulled"
        assert docker("image", "ls", "--quiet", image)
    finally:
        docker("image", "rm", image)


def test_an_image_that_ci_does_not_push(preview: Preview, registry: Registry) -> None:
    image = f"{registry.host}/acme/shop:1"
    wanted = Wanted("web", preview.image(), "prebuilt", {}, image)
    began = time.monotonic()
    with pytest.raises(BuildFailed) as caught:
        preview.make(wanted, registries=registry.login, images_timeout=3)
    assert time.monotonic() - began < 20
    assert f"{image} did not appear within 3 seconds" in str(caught.value)
    began = time.monotonic()
    with pytest.raises(BuildFailed, match="answers 401"):
        preview.make(wanted, images_timeout=90)
    assert time.monotonic() - began < 30, "a refusal is not waited for"


def test_a_whole_run_with_an_image_of_ci_and_a_private_base(
    platform: Platform, registry: Registry, previews: Any
) -> None:
    secret = "build-secret-77d1"
    registry.push(BASE, "acme/base:1")
    ci = previews()
    for page in ("one", "two"):
        page_image = (
            f"FROM {BASE}\nRUN mkdir /www; cd /www; echo ok >health; echo {page} >index.html\n"
        )
        docker("build", "-q", "-t", ci.image(page), "-", input=page_image)
    side = (
        f"FROM {registry.host}/acme/base:1\nRUN --mount=type=secret,id=TOKEN,required=true"
        " test $(wc -c </run/secrets/TOKEN) = 17; cat /root/.docker/config.json 2>/dev/null | wc -c"
        ' >/seen\nCMD ["sleep", "600"]\n'
    )
    compose = TINY["compose.yaml"].replace(
        "    build: .\n", '    image: shop\n    command: [httpd, -f, -p, "8080", -h, /www]\n'
    )
    build = "{context: side, secrets: [TOKEN]}"
    compose = compose.replace(
        "  cache:\n    im", f"  side: {{build: {build}, init: true}}\n  cache:\n    im"
    )
    compose += "secrets: {TOKEN: {environment: TOKEN}}\n"
    commit = platform.repository.pull_request(
        1, "Images of CI", files={"compose.yaml": compose, "side/Dockerfile": side}
    )
    (registry.folder / "password").write_text(PASSWORD + "\n")
    (login,) = ({k: v for k, v in each.items() if k != "password"} for each in registry.login)
    login["password_command"] = ["cat", str(registry.folder / "password")]
    platform.settings |= {
        "preview_images": {"web": f"{registry.host}/acme/shop:{{commit}}"},
        "preview_registries": [login],
        "preview_build_secrets": {"TOKEN": secret},
    }
    registry.push(ci.image("one"), "acme/shop:ci")
    running = platform.begin("up", "-vvv", "--diff", preview_number=1, preview_commit=commit)
    platform.wait_for(1, "build", running)
    time.sleep(2)
    registry.tag("acme/shop", "ci", commit)
    up = running.ended().ok()
    assert platform.get(1) == (200, "one\n")
    assert platform.exec(1, "side", "cat", "/seen") == "0"

    registry.push(ci.image("two"), f"acme/shop:{commit}")
    assert platform.up(1, commit).ok().changed == 0, "what is deployed is no tag"
    assert platform.get(1) == (200, "one\n")

    name = platform.name(1)
    images = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter",
                    f"reference=ephemera-preview/{name}/side").split()  # fmt: skip
    seen = b"".join(map(everything_in, images))
    seen += docker("inspect", f"{name}-web-1", f"{name}-side-1").encode() + up.out.encode()
    seen += b"".join(
        p.read_bytes() for p in (platform.state / "previews" / name).rglob("*") if p.is_file()
    )
    assert images and not [word for word in (secret, PASSWORD) if word.encode() in seen]

    refused = platform.up(1, commit, preview_builder="elsewhere").refused()
    assert "preview_builder: 'elsewhere' is refused" in refused.sentence


# -- failures of the Dockerfile -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dockerfile", "build", "sentence"),
    [
        ("FROM {0}\nCOPY nope /x\n", {}, r"Dockerfile:2: COPY names /nope, which is not in"),
        ("FROM {0}\nFOO x\n", {}, r"the Dockerfile is wrong in line 2: unknown instruction: FOO"),
        ("FROM {0}\n", {"target": "prod"}, r"build.target names the stage prod"),
        ("FROM {0}\n", {"dockerfile": "prod/Dockerfile"}, r"there is no prod/Dockerfile in"),
        ("FROM {0}\nRUN kill -9 $PPID; exit 137\n", {}, r"killed, most likely for lack of memory"),
        ("FROM {0}\nRUN wget http://nothing.invalid\n", {}, r"could not reach the network"),
    ],
)
def test_sentences(preview: Preview, dockerfile: str, build: Any, sentence: str) -> None:
    assert re.search(sentence, str(preview.refused(dockerfile.format(BASE), build)))


def test_a_run_that_fails_shows_its_last_lines(preview: Preview) -> None:
    failed = preview.refused(
        f"FROM {BASE}\n\nRUN for i in $(seq 40); do echo line $i; done; exit 3\n"
    )
    assert str(failed) == (
        "Building web failed: Dockerfile:3: RUN for i in $(seq 40); do echo line $i; done; exit 3"
        " ended with exit code 3."
    )
    assert failed.log[-1] == "line 40"
    assert 5 < len(failed.log) <= 20


def test_all_that_fails_is_told(preview: Preview) -> None:
    preview.write({"Dockerfile": f"FROM {BASE}\nARG N\nRUN exit $N\n"})
    with pytest.raises(BuildFailed) as caught:
        preview.make(*(preview.service(f"s{n}", args={"N": str(n)}) for n in (0, 1, 2)))
    assert [line.split()[1] for line in str(caught.value).splitlines()] == ["s1", "s2"]


def test_without_an_engine(preview: Preview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    with pytest.raises(BuildFailed, match="no Docker engine answers"):
        preview.make()


def test_what_a_killed_run_left(preview: Preview) -> None:
    (preview.folder / ".build-dead").mkdir()
    (preview.folder / ".build-dead" / "config.json").write_text(PASSWORD)
    preview.build(f"FROM {BASE}\n")
    assert sorted(p.name for p in preview.folder.iterdir()) == [".buildx", "source"]
