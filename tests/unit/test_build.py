"""Build, its pure parts: what a build may read, its frontend, what docker's words mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _build,
    _build_log,
    _docker,
    _run,
)
from ansible_collections.ephemera.preview.plugins.module_utils._checks import Images


def may_read(
    source: str, base_images: tuple[str, ...] = (), registries: tuple[str, ...] = (), **policy: Any
) -> str:
    """What BuildKit makes of a policy: the source it reads in the end, "" for none."""
    policy["images"] = Images(base_images, registries)
    for _attempt in range(10):
        allowed, converted = True, ""
        for rule in _build.source_policy(**policy)["rules"]:
            found = re.fullmatch(rule["selector"]["identifier"].strip("^$"), source)
            if not found:
                continue
            if rule["action"] == "CONVERT":
                converted = rule["updates"]["identifier"].replace("${1}", found.group(1))
                break
            allowed = rule["action"] == "ALLOW"
        if not converted:
            return source if allowed else ""
        source = converted
    raise AssertionError("converted without end")


IMAGE = "docker-image://"


@pytest.mark.parametrize("source", ["local://context", IMAGE + "docker.io/library/python:3.13"])
def test_a_build_may_read_its_context_and_its_base(source: str) -> None:
    assert may_read(source) == source


@pytest.mark.parametrize(
    "source",
    [
        "https://example.org/x.tar.gz",
        "http://169.254.169.254/latest/meta-data",
        "git://example.org/a.git",
        "oci-layout://x@sha256:0",
        "something-new://x",
        IMAGE + "docker.io/ephemera-preview/shop-pr-41/web:0123456789ab",
        IMAGE + "registry.example.org/acme/ephemera-preview/shop-pr-41/web:1",
        IMAGE + "localhost/a:1",
        IMAGE + "LOCALHOST:5000/a:1",
        IMAGE + "127.0.0.1:5000/acme/base:1",
        IMAGE + "127.1:5000/acme/base:1",
        IMAGE + "[::1]:5000/acme/base:1",
        IMAGE + "10.0.0.7/acme/base:1",
        IMAGE + "0x7f000001:5000/acme/base:1",
        IMAGE + "2130706433:5000/acme/base:1",
        IMAGE + "localhost.:5000/acme/base:1",
        IMAGE + "registry:5000/acme/base:1",
    ],
)
def test_a_build_may_not_read(source: str) -> None:
    assert may_read(source) == ""
    everything = may_read(source, base_images=("*", "*/*", "*/*/*"))
    if "ephemera-preview" in source or not source.startswith(IMAGE):
        assert everything == "", "not even where every image is listed"


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("python:3.*", ["docker.io/library/python:3.13-slim"], ["docker.io/library/python:2",
         "docker.io/acme/python:3.1", "docker.io/library/python3:3.1"]),
        ("python", ["docker.io/library/python:3", "docker.io/library/python@sha256:00"],
         ["docker.io/library/pythons:3"]),
        ("ghcr.io/acme/*", ["ghcr.io/acme/a:1", "ghcr.io/acme/a/b:1@sha256:00"],
         ["ghcr.io/acme:1", "xghcr.io/acme/a:1", "docker.io/ghcr.io/acme/a:1", "ghcrxio/acme/a"]),
        ("python:3", ["docker.io/library/python:3@sha256:00"], ["docker.io/library/python:31"]),
    ],
)  # fmt: skip
def test_patterns_of_base_images(pattern: str, good: list[str], bad: list[str]) -> None:
    for image in good:
        assert may_read(IMAGE + image, base_images=(pattern,)), image
    for image in bad:
        assert not may_read(IMAGE + image, base_images=(pattern,)), image


def test_frontends_are_read_beside_a_list_of_bases() -> None:
    policy = {"base_images": ("python:*",), "frontends": ("docker/dockerfile:1-labs",)}
    assert may_read(IMAGE + "docker.io/docker/dockerfile:1-labs", **policy)
    assert not may_read(IMAGE + "docker.io/docker/dockerfile:1", **policy)


@pytest.mark.parametrize("base_images", [(), ("python:*",)])
def test_docker_hub_by_a_mirror(base_images: tuple[str, ...]) -> None:
    policy = {"base_images": base_images, "mirror": "https://mirror.example.org:5000/"}
    wanted = may_read(IMAGE + "docker.io/library/python:3", **policy)
    assert wanted == IMAGE + "mirror.example.org:5000/library/python:3"
    assert not may_read(IMAGE + "docker.io/ephemera-preview/a/b:1", **policy)
    other = may_read(IMAGE + "docker.io/library/redis:8", **policy)
    assert bool(other) == (not base_images)


def test_a_registry_of_this_machine_that_is_logged_in_to() -> None:
    image = IMAGE + "127.0.0.1:5000/acme/base:1"
    assert may_read(image, registries=("127.0.0.1:5000",)) == image
    assert not may_read(image.replace("5000", "5001"), registries=("127.0.0.1:5000",))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# syntax=docker/dockerfile:1\nFROM a\n", "#\nFROM a\n"),
        ("#syntax = x\n# escape=`\nFROM a", "# escape=`\n#\nFROM a"),
        ("# escape=`\n# Syntax=x\n\nFROM a", "# escape=`\n#\n\nFROM a"),
        ("# a comment\n# syntax=x\nFROM a", "# a comment\n# syntax=x\nFROM a"),
        ("FROM a\n# syntax=x\n", "FROM a\n# syntax=x\n"),
        ("", ""),
    ],
)
def test_without_frontend(before: str, after: str) -> None:
    assert _build.without_frontend(before) == after


@pytest.mark.parametrize(
    ("step", "mounts"),
    [
        ("RUN --mount=type=cache,target=/c true", True),
        ("RUN --MOUNT=target=/c,type=Cache true", True),
        ("RUN \\\n  --mount=id=a,\\\ntype=cache,target=/c true", True),
        ("RUN --mount=type=secret,id=a true", False),
        ("RUN apt-get install cache", False),
        ("RUN --mount " * 20000, False),
    ],
    ids=range(6),
)
def test_where_a_cache_mount_may_be(step: str, mounts: bool) -> None:
    assert _build.mounts_cache(f"FROM a\n{step}\n") is mounts


def test_prune_is_of_one_preview() -> None:
    command = _docker.cache_prune("shop-pr-1")
    expression = re.findall(r'~="(.*)"', command[-1])[0]
    told = 'cached mount /c from exec /bin/sh -c x with id "{0}/pip"'
    assert re.search(expression, told.format("shop-pr-1"))
    assert not re.search(expression, told.format("shop-pr-12"))
    assert not re.search(expression, told.format("my-shop-pr-1"))


def test_an_answer_that_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = _build.Ended(0, b'"}]', "", False)
    monkeypatch.setattr(_build._Maker, "_run", lambda *arguments, **options: ended)
    with pytest.raises(_build.BuildFailed, match="postgres:17 is longer than 16 MiB"):
        _build._Maker.__new__(_build._Maker)._inspect(["postgres:17"])


def test_limits_need_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with _build.confined("shop", True, 1 << 30, 100) as group:
        assert group == ""


SOLVE = "ERROR: failed to build: failed to solve: "
METADATA = SOLVE + "a.example/b:1: failed to resolve source metadata for a.example/b:1: "


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (METADATA + "unexpected status from HEAD request to https://a.example/v2/b/manifests/1:"
         " 401 Unauthorized", "answers 401 for a.example/b:1"),
        (METADATA + "pull access denied, repository does not exist or may require authorization:"
         " authorization failed: no basic auth credentials", "answers 401 for a.example/b:1"),
        (METADATA + "pull access denied, repository does not exist or may require authorization:"
         " server message: insufficient_scope: authorization failed", "answers 401 for a.example"),
        (METADATA + "unexpected status from HEAD request to https://a.example/v2/b: 403 Forbidden",
         "answers 403 for a.example/b:1"),
        (METADATA + "unexpected status from HEAD request to https://a.example/v2/b/manifests/1:"
         " 429 Too Many Requests", "answers 429"),
        (METADATA + "a.example/b:1: not found", "no image a.example/b:1"),
        (METADATA + 'failed to do request: Head "https://a.example/v2/": dial tcp: lookup a.example'
         " on 10.0.0.1:53: no such host", "can't be reached (a.example)"),
        (METADATA + 'failed to do request: Head "https://a.example/v2/": dial tcp 10.0.0.9:443:'
         " connect: connection refused", "can't be reached (dial tcp 10.0.0.9:443"),
        (METADATA + 'failed to do request: Head "https://a.example/v2/": net/http: TLS handshake'
         " timeout", "the registry a.example did not answer in time"),
        ('Error response from daemon: Get "http://a.example:5000/v2/": net/http: request canceled'
         " (Client.Timeout exceeded while awaiting headers)",
         "the registry a.example:5000 did not answer in time"),
        (METADATA + 'failed to do request: Head "https://a.example/v2/": tls: failed to verify'
         " certificate: x509: certificate signed by unknown authority", "/etc/docker/certs.d"),
        (SOLVE + "failed to prepare x: mkdir /var/lib/docker/overlay2: no space left on device",
         "disk is full"),
        (SOLVE + "failed to load LLB: network.host is not allowed", "network.host is refused"),
        ("Error response from daemon: toomanyrequests: You have reached your pull rate limit."
         " You may increase the limit by authenticating", "answers 429"),
        ("Error response from daemon: pull access denied for acme/shop, repository does not exist"
         " or may require 'docker login': denied: requested access to the resource is denied",
         "answers 403 for acme/shop"),
        ('Error response from daemon: Head "https://a.example/v2/b/manifests/1": unauthorized:'
         " incorrect username or password", "answers 401"),
        ("ERROR: Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
         "no Docker engine answers"),
        (SOLVE + "something new", "something new."),
    ],
)  # fmt: skip
def test_sentences(said: str, sentence: str) -> None:
    assert sentence in _build_log.explain(["#1 [internal] load", "#1 DONE 0.0s", said])[0]


DAEMON = "Error response from daemon: "


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("denied: requested access to the resource is denied", "may not push there"),
        ("unauthorized: authentication required", "wants a login for this"),
        ("no basic auth credentials", "password of preview_registry in preview_registries"),
        ("error parsing HTTP 413 response body: invalid character '<'", "layer that large (413)"),
        ("name unknown: The repository with name 'previews/ephemera-preview/shop-pr-1/web' does not"
         " exist in the registry with id '123456789012'", "ECR: a repository creation template"),
        ('Get "http://a.example/v2/": dial tcp: lookup a.example on 10.0.0.1:53: no such host',
         "can't be reached from the builder (a.example)"),
        (DAEMON + 'Get "https://a.example/v2/": dial tcp 10.0.0.9:443: connect: connection refused',
         "Check preview_registry"),
        (DAEMON + 'Get "https://a.example/v2/": http: server gave HTTP response to HTTPS client',
         "speaks no TLS"),
        (DAEMON + 'Get "https://a.example/v2/": tls: failed to verify certificate: x509: signed by'
         " unknown authority", "/etc/docker/certs.d"),
        (SOLVE + "failed to push a.example/b: unexpected status from POST request to"
         " https://a.example/v2/b/blobs/uploads/: 403 Forbidden", "may not push there"),
        (SOLVE + "failed to push a.example/b: unexpected status from PUT request: 413 Request"
         " Entity Too Large", "client_max_body_size"),
    ],
)  # fmt: skip
def test_sentences_of_a_push(said: str, sentence: str) -> None:
    assert sentence in _build_log.explain([said], push=not said.startswith(SOLVE))[0]


def test_what_took_too_long() -> None:
    said = [
        "#1 [internal] load build definition from Dockerfile",
        "#2 [internal] load metadata for docker.io/library/a:1",
        "#3 [internal] load metadata for b.example/b:1",
        "#2 DONE 0.1s",
    ]
    sentence = _build_log.too_late([*said, "#3 CANCELED"], "preview_build_timeout", 60)
    assert "the registry of b.example/b:1 did not answer within 60 seconds" in sentence
    sentence = _build_log.too_late([*said, "#3 DONE 0.2s"], "preview_build_timeout", 60)
    assert sentence.startswith("it was not done within 60 seconds")
    assert "preview_build_timeout" in sentence


def summary(error: str, *log: str) -> list[str]:
    """What BuildKit prints last for a RUN that failed."""
    step = "RUN pip install ."
    return [
        "#9 401 Unauthorized: what a step prints is no answer of ours",
        "------",
        f" > [web 4/7] {step}:",
        *(f"1.2{n} {line}" for n, line in enumerate(log)),
        "------",
        "Dockerfile:9",
        "--------------------",
        f"   9 | >>> {step}",
        "--------------------",
        f'{SOLVE}process "/bin/sh -c pip install ." did not complete successfully: {error}',
    ]


@pytest.mark.parametrize(
    ("error", "log", "hint"),
    [
        ("exit code: 1", ["oh no"], ""),
        ("exit code: 137", [], "It was killed, most likely for lack of memory"),
        ("exit code: 1", ["x", "Killed"], "It needed more memory"),
        ("exit code: 1", ["OSError: [Errno 28] No space left on device"], "disk is full"),
        ("exit code: 6", ["curl: (6) Could not resolve host: a.example"], "reach the network"),
        ("exit code: 1", ["SSLError: CERTIFICATE_VERIFY_FAILED"], "secret preview_ca"),
    ],
)
def test_a_run_that_fails(error: str, log: list[str], hint: str) -> None:
    sentence, last = _build_log.explain(summary(error, *log))
    code = error.split(": ")[1]
    assert sentence.startswith(f"Dockerfile:9: RUN pip install . ended with exit code {code}.")
    assert hint in sentence
    assert last == log


def test_output_that_came_too_late_for_the_summary() -> None:
    lines = ["#8 1.0 another's", "#9 1.2 mine", "#9 ERROR: process", *summary("exit code: 1")]
    assert _build_log.explain(lines)[1] == ["mine"]


def test_a_secret_is_hidden_as_go_quotes_it(tmp_path: Path) -> None:
    request = _build.Request("shop-pr-1", "", "", (), secrets={"TOKEN": 'a"b\nc'})
    ended = _run.Ended(1, b"", "ERROR: failed to solve: it said 'a\\\"b\\nc'", False)
    failed = _build._Maker(request, str(tmp_path))._failed("Building web", ended)
    assert "********" in str(failed) and 'a\\"b' not in str(failed)
