# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""app_info from a checkout to its result, with Compose itself."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _arguments,
    _compose,
    _definition,
    _dockerfile,
    _names,
)
from ansible_collections.ephemera.preview.plugins.module_utils._checks import Images
from ansible_collections.ephemera.preview.plugins.module_utils._refusal import Refused
from ansible_collections.ephemera.preview.plugins.modules import app_info
from definitions import FIXTURES, PROJECT, compose_program, read, refused, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packages import needed

ROOT = Path(__file__).parents[2]
DOCKERFILE = "FROM python:3.12-slim\n"
WEB = 'services:\n  web:\n    image: nginx:1\n    ports: ["80"]\n'


def web(text: str) -> str:
    """A file whose service ``web`` says this too."""
    return WEB + "".join(f"    {line}\n" for line in text.splitlines())


# -- files as people write them -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "options", "expected", "notes"),
    [
        ("fastapi", {}, "backend", 11),
        ("django", {}, "django", 2),
        ("rails", {"profiles": ()}, "web", 5),
        ("node", {}, "web", 2),
    ],
)
def test_apps_from_the_wild(app: str, options: Any, expected: str, notes: int) -> None:
    found = read(FIXTURES / app, **options)
    assert found.x_preview["web"] == expected
    assert len(found.warnings) == notes, found.warnings
    assert all(re.match(r"(docker-)?compose\.ya?ml: |\.env:\d+: ", w) for w in found.warnings)


def test_the_example_app_needs_no_note_but_the_ports() -> None:
    found = read(ROOT / "examples" / "shop")
    assert [note.split(" is left out")[0] for note in found.warnings] == [
        "compose.yaml: ports.published"
    ]
    assert set(found.digests) == {"web", "worker", "scheduler"}
    assert len(set(found.digests.values())) == 1


def test_fastapi_in_full() -> None:
    found = read(FIXTURES / "fastapi", variables={"PREVIEW_URL": "https://x"})
    backend, worker = found.services["backend"], found.services["worker"]
    assert backend == {
        "build": {
            "context": "./backend",
            "dockerfile": "Dockerfile",
            "args": {"INSTALL_DEV": "false"},
        },
        "command": ["uvicorn", "app.main:app", "--host", "0.0.0.0", "--port", "8000"],
        "depends_on": {
            "db": {"condition": "service_healthy", "required": True},
            "redis": {"condition": "service_started", "required": True},
        },
        "environment": {
            "BACKEND_CORS_ORIGINS": '["http://localhost","http://localhost:5173"]',
            "COMPOSE_PROJECT_NAME": "myapp",
            "DATABASE_URL": "postgresql+asyncpg://app:changethis@db/app",
            "DEBUG": "true",
            "POSTGRES_PASSWORD": "changethis",
            "REDIS_URL": "redis://redis:6379/0",
        },
        "healthcheck": {
            "test": ["CMD", "curl", "-f", "http://localhost:8000/api/v1/utils/health-check/"]
        },
        "image": "myapp:latest",
        "ports": [{"target": 8000, "protocol": "tcp"}],
        "restart": "always",
    }
    # The worker runs the image that the backend builds.
    assert worker["build"] == backend["build"]
    assert found.digests["worker"] == found.digests["backend"]
    assert found.services["db"]["healthcheck"]["test"][1] == (
        "pg_isready -U $${POSTGRES_USER} -d $${POSTGRES_DB}"
    )
    assert found.volumes == {"app-db-data": {}}
    exposed = {name: w["expose"] for name, w in found.x_preview["services"].items()}
    assert exposed == {"backend": {"port": 8000}, "db": False, "redis": False, "worker": False}


def test_dotted_and_nested_env_files() -> None:
    found = read(FIXTURES / "django", variables={"PREVIEW_URL": "https://x", "PREVIEW_HOST": "h"})
    environment = found.services["django"]["environment"]
    assert environment == {
        "ALLOWED_HOSTS": "h",
        "CELERY_FLOWER_USER": "debug",
        "DJANGO_SETTINGS_MODULE": "config.settings.local",
        "IPYTHONDIR": "/app/.ipython",
        "REDIS_URL": "redis://redis:6379/0",
        "SECRET_KEY": "insecure-$$-key",
        "TRICKY": "$$not $${expanded}",
        "URL": "https://x",
        "USE_DOCKER": "yes",
    }
    assert {"type": "bind", "source": "./compose/nginx.conf", "read_only": True}.items() <= (
        found.services["nginx"]["volumes"][0].items()
    )


def test_rails_with_configs_secrets_and_limits() -> None:
    found = read(FIXTURES / "rails", profiles=())
    web_service = found.services["web"]
    assert "adminer" not in found.services
    assert web_service["build"]["args"] == {"RUBY_VERSION": "3.3"}
    assert web_service["user"] == "1000:1000" and web_service["read_only"] is True
    assert web_service["command"][:2] == ["bash", "-c"]
    assert web_service["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert found.services["migrate"]["restart"] == "no"
    assert found.services["sidekiq"]["deploy"]["resources"]["limits"]["pids"] == 100
    assert found.secrets == {"pw": {"file": "./db/pw.txt"}}
    assert found.configs == {"my": {"content": "[mysqld]\nmax_connections=50\n"}}


def test_a_service_that_needs_one_of_a_profile_that_is_off(tmp_path: Path) -> None:
    text = web("depends_on: [tool]") + "  tool: {image: nginx:1, profiles: [x]}\n"
    (only,) = refused(tmp_path, text, profiles=())
    assert "services.web.depends_on: tool is refused: it is of the profile x" in only
    optional = text.replace("[tool]", "{tool: {condition: service_started, required: false}}")
    assert set(read(tmp_path, optional, profiles=()).services) == {"web"}
    assert set(read(tmp_path, text, profiles=("x",)).services) == {"web", "tool"}


def test_a_compose_file_in_a_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "deploy/stack.yml": """\
services:
  web:
    build: {context: .., dockerfile: deploy/web.Dockerfile}
    ports: ["80"]
    env_file: app.env
    volumes: ["../conf:/conf:ro"]
    environment: [FROM_ENV, OTHER=$FROM_ENV]
""",
            "deploy/web.Dockerfile": DOCKERFILE,
            "deploy/app.env": "A=1\n",
            "deploy/.env": "FROM_ENV=x\n",
            "conf/a": "",
        },
    )
    found = read(tmp_path, file="deploy/stack.yml")
    assert found.file == "deploy/stack.yml"
    service = found.services["web"]
    assert service["build"] == {"context": ".", "dockerfile": "deploy/web.Dockerfile"}
    assert service["volumes"][0]["source"] == "./conf"
    assert service["environment"] == {"A": "1", "FROM_ENV": "x", "OTHER": "x"}


def test_no_file_is_said_with_what_was_looked_for(tmp_path: Path) -> None:
    (only,) = refused(tmp_path)
    assert "compose.yaml, compose.yml" in only and "preview_compose_file" in only
    (only,) = refused(tmp_path, file="../x.yaml")
    assert only == "../x.yaml: it leads out of the repository."
    (only,) = refused(tmp_path, file="x.yaml")
    assert only == "x.yaml: it does not exist in the repository."


# -- variables ----------------------------------------------------------------------------------


def test_a_grant_wins_over_env_files_and_both_over_defaults(tmp_path: Path) -> None:
    write(tmp_path, {".env": "A=env\nB=env\nC=env\n", ".env.preview": "A=preview\nB=preview\n"})
    found = read(
        tmp_path,
        web("environment: {A: '${A:-d}', B: '${B:-d}', C: '${C:-d}', D: '${D:-d}', P: '$$P'}"),
        variables={"A": "granted$1"},
    )
    assert found.services["web"]["environment"] == {
        "A": "granted$$1", "B": "preview", "C": "env", "D": "d", "P": "$$P",
    }  # fmt: skip


def test_the_url_of_every_service_is_granted_by_its_name(tmp_path: Path) -> None:
    names = _names.names("shop", 42, domain="preview.example.com", scheme="https")
    compose = """\
services:
  web:
    build: .
    ports: ["80"]
    environment: {API: "${PREVIEW_MAIN_API_URL}", ME: "${PREVIEW_WEB_URL}", WS: "${PREVIEW_WS_URL}"}
  main-api:
    image: nginx:1
    x-preview: {expose: 80}
  ws:
    image: nginx:1
    profiles: [chat]
"""
    write(tmp_path, {"Dockerfile": DOCKERFILE})
    found = read(tmp_path, compose, names=names, variables={"PREVIEW_WS_URL": "wss://other"})
    assert found.services["web"]["environment"] == {
        "API": "https://main-api--shop-pr-42.preview.example.com",
        "ME": "https://shop-pr-42.preview.example.com",
        "WS": "wss://other",
    }
    # The web service is known before the file is: by its word, and whatever else stands there.
    two = compose.replace("    image: nginx:1\n    x", '    build: .\n    ports: ["81"]\n    x')
    swapped = read(tmp_path, "x-preview: {web: main-api}\n" + two, names=names)
    assert swapped.services["web"]["environment"]["API"] == names.url
    assert swapped.services["web"]["environment"]["ME"].startswith("https://web--shop-pr-42.")
    for odd in ("x-preview: [1]\n", "x-preview: {web: [1]}\n"):
        assert refused(tmp_path, odd + two, names=names)


def test_every_variable_without_a_value_is_named_at_once(tmp_path: Path) -> None:
    write(tmp_path, {"a.env": "X=1\nY=${IN_FILE}\n", ".env": "LAZY=${NOBODY}\n"})
    found = refused(
        tmp_path,
        web(
            "environment: {A: '$MISSING_A', B: '${MISSING_B:?say so}', C: '$LAZY'}\n"
            "command: [x, '${HOME}', '${PATH}']\n"
            "env_file: a.env\n"
            "container_name: ${NEVER_NEEDED}\n"
            "x-preview: {migrate: 'm $MISSING_D'}"
        ),
    )
    assert (
        "compose.yaml:5: services.web.environment.A: $MISSING_A is refused: nobody grants "
        in (found[0])
    )
    assert "preview_environment" in found[0] and ".env.preview" in found[0]
    text = "\n".join(found)
    names = ("MISSING_A", "MISSING_B (the file says: say so)", "HOME", "PATH", "MISSING_D")
    assert all(f"nobody grants {name}" in text for name in names)
    assert "LAZY comes from .env:1, which needs NOBODY" in text
    assert "a.env:2: Y: nobody grants IN_FILE" in text
    assert "NEVER_NEEDED" not in text
    assert len(found) == 7


def test_the_runners_environment_is_never_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNNER_TOKEN", "hunter2")
    monkeypatch.setenv("COMPOSE_FILE", "/etc/passwd")
    monkeypatch.setenv("COMPOSE_PROFILES", "x")
    write(tmp_path, {"Dockerfile": DOCKERFILE})
    found = read(
        tmp_path,
        web(
            "environment: [RUNNER_TOKEN, HOME, 'A=${RUNNER_TOKEN:-none}']\n"
            "build: {context: ., args: [RUNNER_TOKEN, GRANTED]}"
        ),
        variables={"GRANTED": "yes"},
    )
    assert found.services["web"]["environment"] == {"A": "none"}
    assert found.services["web"]["build"]["args"] == {"GRANTED": "yes"}
    assert "hunter2" not in json.dumps(found._asdict())
    assert sum("RUNNER_TOKEN has no value" in note for note in found.warnings) == 2


def test_dotenv_never_becomes_the_environment_of_a_program(tmp_path: Path) -> None:
    """A name such as LD_PRELOAD would run code of the author's when Compose starts."""
    seen = tmp_path / "seen"
    program = tmp_path / "docker-compose"
    program.write_text(f'#!/bin/sh\nenv > {seen}\nexec {compose_program()} "$@"\n')
    program.chmod(0o755)
    app = tmp_path / "app"
    write(app, {".env": "LD_PRELOAD=./evil.so\nHTTP_PROXY=http://x\nCOMPOSE_FILE=/etc/passwd\n"})
    found = read(
        app,
        web("environment: ['A=$LD_PRELOAD', 'B=$GRANTED']"),
        variables={"GRANTED": "g"},
        compose=str(program),
    )
    assert found.services["web"]["environment"] == {"A": "./evil.so", "B": "g"}
    names = {line.split("=")[0] for line in seen.read_text().splitlines()}
    assert names <= {
        "COMPOSE_EXPERIMENTAL_GIT_REMOTE", "COMPOSE_EXPERIMENTAL_OCI_REMOTE", "DOCKER_CONFIG",
        "GOMAXPROCS", "HOME", "LC_ALL", "PATH", "PWD", "SHLVL", "_", "OLDPWD",
    }  # fmt: skip
    assert any("COMPOSE_FILE has no effect" in note for note in found.warnings)


# -- paths --------------------------------------------------------------------------------------


def hostile(folder: Path) -> dict[str, tuple[str, str]]:
    """Checkouts below a folder that reach outside: by name, the key path and what is said of it.

    Whatever they reach for lies in ``outside``, or is a file every machine has.
    """
    outside = write(
        folder / "outside", {"secret.env": "A=1\n", "Dockerfile": DOCKERFILE, "d/f": ""}
    )
    links = {
        "link.env": outside / "secret.env",
        "Dockerfile.link": outside / "Dockerfile",
        "d": outside / "d",
        "loop": "loop",
        "inner.env": "plain.env",
        "etc": "/etc",
    }
    cases = {
        "env_file": ("env_file: ../outside/secret.env", "leads out of the repository"),
        "env_file-absolute": (f"env_file: {outside}/secret.env", "outside the repository"),
        "env_file-link": ("env_file: link.env", "link.env is a symbolic link"),
        "env_file-inner-link": ("env_file: inner.env", "inner.env is a symbolic link"),
        "env_file-through-link": ("env_file: etc/hosts", "etc is a symbolic link"),
        "env_file-loop": ("env_file: loop", "loop is a symbolic link"),
        "env_file-fifo": ("env_file: fifo", "it is no regular file"),
        "env_file-zero": ("env_file: /dev/zero", "outside the repository"),
        "env_file-zero-link": ("env_file: [{path: zero}]", "zero is a symbolic link"),
        "env_file-folder": ("env_file: sub", "it is a folder, not a file"),
        "env_file-through-file": ("env_file: plain.env/x", "plain.env is no folder"),
        "env_file-missing": ("env_file: none.env", "required: false"),
        "env_file-big": ("env_file: big.env", "it is larger than 64 KiB"),
        "env_file-binary": ("env_file: binary.env", "it is not UTF-8 text"),
        "env_file-long": (f"env_file: {'x' * 5000}", "it can't be looked at"),
        "env_file-git": ("env_file: .git/config", "git's own folder"),
        "build": ("build: ../outside", "leads out of the repository"),
        "build-link": ("build: d", "d is a symbolic link"),
        "build.context": ("build: {context: sub/../../outside}", "leads out of the repository"),
        "build.context-file": ("build: {context: plain.env}", "it is a file, not a folder"),
        "build.dockerfile": (
            "build: {context: ., dockerfile: ../outside/Dockerfile}", "leads out of the repository"
        ),
        "build.dockerfile-link": (
            "build: {context: ., dockerfile: Dockerfile.link}", "Dockerfile.link is a symbolic link"
        ),
        "build.dockerfile-missing": ("build: sub", "it does not exist in the repository"),
        "build.dockerfile-ignore": (
            "build: {context: ignored}", "ignored/.dockerignore is a symbolic link"
        ),
        "build.additional_contexts": (
            "build: {context: ., additional_contexts: {x: ../outside}}", "leads out of"
        ),
        "volumes": ("volumes: ['../outside:/x:ro']", "leads out of the repository"),
        "volumes-link": ("volumes: ['./d:/x:ro']", "d is a symbolic link"),
        "volumes-through-link": ("volumes: ['./etc/passwd:/x:ro']", "etc is a symbolic link"),
        "volumes-missing": ("volumes: ['./none:/x:ro']", "it does not exist in the repository"),
        "volumes-fifo": ("volumes: ['./fifo:/x:ro']", "it is no regular file"),
        "volumes-socket": ("volumes: ['/var/run/docker.sock:/x']", "root on the host"),
        "include": ("tty: true\ninclude: [../outside/x.yaml]", "a preview reads one file"),
        "extends": ("extends: {file: ../outside/x.yaml, service: a}", "a preview reads one file"),
        "label_file": (f"label_file: {outside}/secret.env", "the platform's"),
        "configs": ("tty: true\nconfigs: {c: {file: ../outside/secret.env}}", "leads out of"),
        "configs-link": ("tty: true\nconfigs: {c: {file: link.env}}", "is a symbolic link"),
        "secrets": (f"tty: true\nsecrets: {{c: {{file: {outside}/d/f}}}}", "outside the repo"),
    }  # fmt: skip
    found = {}
    for name, (said, reason) in cases.items():
        own, _newline, top = said.partition("\n")
        at = folder / name
        write(
            at,
            {
                "compose.yaml": web(own) + top + "\n",
                "plain.env": "A=1\n",
                "binary.env": b"A=\xff\n",
                "big.env": "A=1\n" * 20000,
                "Dockerfile": DOCKERFILE,
                "sub/x": "",
                "ignored/Dockerfile": DOCKERFILE,
            },
        )
        (at / "ignored" / ".dockerignore").symlink_to(outside / "secret.env")
        for link, target in links.items():
            (at / link).symlink_to(target)
        (at / "zero").symlink_to("/dev/zero")
        os.mkfifo(at / "fifo")
        found[name] = (name.split("-")[0], reason)
    for name, target in (("dotenv", outside / "secret.env"), ("dotenv-zero", Path("/dev/zero"))):
        write(folder / name, {"compose.yaml": web("tty: true")})
        (folder / name / ".env").symlink_to(target)
        found[name] = (".env", "is a symbolic link")
    write(folder / "file-link", {"x": ""})
    (folder / "file-link" / "compose.yaml").symlink_to(outside / "secret.env")
    found["file-link"] = ("compose.yaml", "is a symbolic link")
    return found


def test_paths_that_lead_outside_are_refused(tmp_path: Path) -> None:
    for name, (key, reason) in hostile(tmp_path).items():
        started = time.monotonic()
        problems = refused(tmp_path / name)
        assert any(key in each and reason in each for each in problems), (name, problems)
        assert len(problems) == 1, problems
        assert time.monotonic() - started < 2


STRACE = """
import sys
sys.path[:0] = [{tests!r}, {unit!r}]
import conftest
from definitions import PROJECT
from ansible_collections.ephemera.preview.plugins.module_utils import _definition, _refusal
for folder in sys.argv[1:]:
    try:
        _definition.read(_definition.Request(path=folder, project=PROJECT, compose={compose!r}))
        print("taken")
    except _refusal.Refused as refusal:
        print(refusal)
"""


def opened(tmp_path: Path, folders: list[Path], compose: str = "/no/program") -> set[str]:
    """What the system is asked to open, run or connect to while these checkouts are refused."""
    tests = ROOT / "tests"
    script = STRACE.format(tests=str(tests), unit=str(tests / "unit"), compose=compose)
    log, scratch = tmp_path / "strace.log", tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    calls = "open,openat,openat2,execve,connect"
    argv = [needed("strace", "strace"), "-f", "-s", "9999", "-e", f"trace={calls}", "-o", str(log)]
    done = subprocess.run(
        [*argv, sys.executable, "-c", script, *map(str, folders)],
        env=os.environ | {"TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert len(done.stdout.splitlines()) >= len(folders), done.stdout
    found = set(re.findall(r'"((?:[^"\\]|\\.)*)"', log.read_text()))
    return {path for path in found if not path.startswith(str(scratch))}


def test_nothing_outside_the_checkout_is_opened_while_refusing(tmp_path: Path) -> None:
    benign = write(tmp_path / "benign", {"compose.yaml": "services: {}\n"})
    names = hostile(tmp_path)
    usual = opened(tmp_path, [benign])
    seen = opened(tmp_path, [tmp_path / name for name in names])
    inside = tuple(f"{tmp_path / name}/" for name in names)
    assert any(path.startswith(inside) for path in seen)
    assert [
        path for path in seen - usual if not path.startswith(inside) and not path.startswith("-")
        and path not in map(str, [tmp_path / name for name in names])
    ] == []  # fmt: skip
    assert not any(str(tmp_path / "outside") + "/" in path for path in seen - usual)


def test_compose_opens_nothing_outside_either(tmp_path: Path) -> None:
    """Where variables hide the way out, up to what only Compose's own reading shows."""
    program = compose_program()
    outside = write(tmp_path / "outside", {"secret.env": "TOKEN=x\n", "Dockerfile": DOCKERFILE})
    late = "user: '${X:-root;id}'"  # is seen after Compose alone
    cases = {
        "env_file": f"env_file: ['${{X:-{outside}/secret.env}}']",
        "volumes": f"volumes: ['${{X:-{outside}}}:/x:ro']",
        "build": f"build: '${{X:-{outside}}}'",
        "label_file": f"label_file: '${{X:-{outside}/secret.env}}'",
        "late": late,
        "late-env": f"{late}\nenvironment: {{A: '${{X:-{outside}/secret.env}}'}}",
        "late-command": f"{late}\ncommand: ['@{outside}/secret.env', 'file://{outside}/secret.env']",
    }
    folders = {
        name: write(tmp_path / name, {"compose.yaml": web(said)}) for name, said in cases.items()
    }
    # What Compose opens for a file that is taken it may open for any.
    taken = write(tmp_path / "taken", {"compose.yaml": WEB.replace("web:", "web:\n    tty: true")})
    refusal = write(tmp_path / "refusal", {"compose.yaml": web("tty: '${X:-perhaps}'")})

    def traced(*checkouts: Path) -> set[str]:
        paths = opened(tmp_path, list(checkouts), program)
        assert program in paths
        return paths

    usual, seen = traced(taken, refusal), traced(*folders.values())
    inside = tuple(str(folder) for folder in folders.values())
    assert [path for path in seen - usual if not path.startswith((*inside, "-"))] == []


# -- what only the normal form shows ------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("user: '${X:-root;id}'", "services.web.user"),
        ("mem_limit: ${X:-lots}", "services.web.mem_limit"),
        ("deploy: {replicas: '${X:-1000}'}", "services.web.deploy.replicas"),
        ("tmpfs: ['${X:-/x:bind}']", "services.web.tmpfs[0]"),
        ("shm_size: ${X:-64g}", "services.web.shm_size"),
        ("environment: ['${X:-A B}=c']", "services.web.environment.A B"),
        ("working_dir: ${X:-/a/../b}", "services.web.working_dir"),
        ("ulimits: {nofile: '${X:-99999999}'}", "services.web.ulimits"),
    ],
)
def test_what_variables_hide_from_the_first_screen(tmp_path: Path, said: str, key: str) -> None:
    problems = refused(tmp_path, web(said))
    assert any(f"{key}: " in each or "Compose does not take it" in each for each in problems)


@pytest.mark.parametrize("image", ["ephemera-preview/shop-pr-41/web", "deadbeef", "a b"])
def test_an_image_that_variables_hide(tmp_path: Path, image: str) -> None:
    text = f"services: {{web: {{image: '${{X:-{image}}}', ports: ['80']}}}}\n"
    (only,) = refused(tmp_path, text)
    assert "services.web.image" in only


def test_an_image_that_is_not_listed(tmp_path: Path) -> None:
    write(tmp_path, {"Dockerfile": "FROM python:3.12\nFROM evil:1\n"})
    text = web("build: .") + "  db: {image: 'postgres:17'}\n  x: {image: '${I:-redis}'}\n"
    assert refused(tmp_path, text, images=Images(("python:3.*", "postgres"))) == [
        "compose.yaml:7: services.x.image: redis is refused: the platform's preview_base_images "
        "does not list it.",
        "Dockerfile:2: image evil:1 is refused: the platform's preview_base_images does not list "
        "it.",
    ]


def test_what_compose_itself_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    (only,) = refused(tmp_path, web("depends_on: [dbb]"))
    assert only.startswith("compose.yaml: Compose does not take it: service ")
    assert 'depends on undefined service "dbb"' in only and "/tmp" not in only
    (only,) = refused(tmp_path, web("volumes: ['data:/data']"))
    assert "undefined volume data" in only


@pytest.mark.parametrize("source", ["environment: TOKEN", "file: ./not/committed"])
def test_secrets_of_builds_come_from_the_platform(tmp_path: Path, source: str) -> None:
    write(tmp_path, {"Dockerfile": "FROM a\n"})
    text = web("build: {context: ., secrets: [T]}") + f"secrets: {{T: {{{source}}}}}\n"
    found = read(tmp_path, text, build_secrets=frozenset({"T"}))
    assert found.services["web"]["build"]["secrets"] == [{"source": "T"}]
    assert found.secrets == {}
    assert any("preview_build_secrets" in problem for problem in refused(tmp_path, text))
    used = text.replace("secrets: [T]}", "secrets: [T]}\n    secrets: [T]")
    assert "secrets.T" in refused(tmp_path, used, build_secrets=frozenset({"T"}))[0]


def test_secrets_and_configs_out_of_variables(tmp_path: Path) -> None:
    text = web("secrets: [s]\nconfigs: [c]") + (
        "secrets: {s: {environment: GRANTED}}\nconfigs: {c: {environment: GRANTED}}\n"
    )
    found = read(tmp_path, text, variables={"GRANTED": "a$b"})
    assert found.secrets == {"s": {"content": "a$b"}}
    assert found.configs == {"c": {"content": "a$b"}}
    for each in refused(tmp_path, text.replace("GRANTED", "HOME")):
        assert ".environment: HOME is refused: nobody grants HOME" in each


def test_no_frontend_hides_in_json_that_is_nested_too_deep() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert _dockerfile.syntaxes('{"syntax": "evil/x:1", "y": ' + deep + "}")


def test_dockerfiles_are_looked_at(tmp_path: Path) -> None:
    inline = web("build:\n  context: .\n  dockerfile_inline: |\n    # syntax=evil/x\n    FROM a:1")
    (only,) = refused(tmp_path, inline)
    assert only.startswith("compose.yaml: services.web.build.dockerfile_inline: # syntax=evil/x")
    write(tmp_path, {"Dockerfile": "FROM a:1\nLABEL ephemera.preview/owner=x\n"})
    (only,) = refused(tmp_path, web("build: ."))
    assert only.startswith("Dockerfile:2: LABEL")
    write(tmp_path, {"Dockerfile": b"FROM a:1\n" + b"# x\n" * 100000})
    (only,) = refused(tmp_path, web("build: ."))
    assert only == "Dockerfile: it is larger than 256 KiB."


def test_everything_wrong_is_told_in_one_message(tmp_path: Path) -> None:
    problems = refused(
        tmp_path,
        web(
            "privileged: true\npid: host\nenv_file: none\nenvironment: {A: $NOBODY}\n"
            "x-preview: {helth: /x}"
        ),
    )
    assert len(problems) == 5


# -- bombs --------------------------------------------------------------------------------------


def laughs() -> str:
    text = "x-a: &a [x,x,x,x,x,x,x,x,x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"x-{name}: &{name} [{','.join(['*' + before] * 9)}]\n"
    return text + web("command: *i")


BOMBS = {
    "laughs": laughs,
    "merges": lambda: "x-0: &m0 {a: 1}\n"
    + "".join(f"x-{i}: &m{i} {{b: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 40))
    + web("<<: *m39"),
    "deep": lambda: web("command: " + "[" * 10000 + "]" * 10000),
    "deep-block": lambda: web("x-a:\n" + "".join(" " * i + "a:\n" for i in range(1, 700))),
    "deep-map": lambda: web("x-preview: " + "{a: " * 10000),
    "services": lambda: "services:\n" + "".join(f" s{i}: {{image: a}}\n" for i in range(10000)),
    "huge": lambda: "a" * (100 << 20),
    "keys": lambda: web("".join(f"key{i}: 1\n" for i in range(4000))),
    "ports": lambda: web("expose: ['1']") .replace('["80"]', "['1-65535', '1-65535/udp']"),
    "variables": lambda: web(
        "command: [" + ", ".join(["'" + "$BIG" * 20 + "'"] * 2000) + "]"
    ),
    "defaults": lambda: web("command: '" + "${A:-" * 20000 + "}" * 20000 + "'"),
    "text": lambda: web("x-a: &a " + "y" * 200000 + "\ncommand: [" + "*a, " * 3000 + "]"),
    "env_files": lambda: web("env_file: [" + ", ".join(["big.env"] * 3000) + "]"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_within_limits(tmp_path: Path, name: str) -> None:
    write(
        tmp_path,
        {
            "compose.yaml": BOMBS[name](),
            ".env": "BIG=" + "x" * 60000,
            "big.env": "A=${BIG}\n" * 6000,
        },
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    problems = refused(tmp_path)
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10
    assert 0 < len(problems) <= 200 and all(len(each) < 1500 for each in problems)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("sleep 60 & sleep 60", "not done with it within 1 seconds"),
        ("cat /dev/zero", "larger than 4 MiB"),
        ("head -c 100000000 /dev/zero >&2; exit 1", "Compose does not take it"),
        ("echo '{'; exit 0", "Compose does not take it"),
        ("echo '[]'; exit 0", "Compose does not take it"),
        ('echo \'{"services": {"web": {"privileged": true}}}\'', "services.web.privileged"),
        ("echo 'fatal error: out of memory' >&2; exit 2", "ran out of the memory"),
    ],
)
def test_a_compose_that_misbehaves_is_ended(tmp_path: Path, script: str, says: str) -> None:
    program = tmp_path / "compose"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    started = time.monotonic()
    problems = refused(tmp_path / "app", web("tty: true"), compose=str(program), timeout=1)
    assert says in problems[0] and time.monotonic() - started < 5


def test_compose_runs_with_little_memory(tmp_path: Path) -> None:
    text = web("command: [" + ", ".join(["x" * 90] * 2000) + "]")
    assert len(read(tmp_path, text).services["web"]["command"]) == 2000


def test_no_compose_is_said_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_compose, "FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(_compose.Unavailable, match="Install the plugin"):
        _compose.find()
    with pytest.raises(_compose.Unavailable, match="can't be run"):
        _compose.normal_form({}, PROJECT, "f", [str(tmp_path / "none")], 5)
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho 'unknown flag: --no-path-resolution' >&2\nexit 16\n")
    old.chmod(0o755)
    with pytest.raises(_compose.Unavailable, match="too old"):
        _compose.normal_form({}, PROJECT, "f", [str(old)], 5)


# -- digests ------------------------------------------------------------------------------------

BUILDS = """services:
  web:
    build: {context: ./app, args: {A: "${ARG:-1}"}}
    ports: ["80"]
  same:
    build: {context: app, args: {A: "${ARG:-1}"}}
  other:
    build: {context: app, dockerfile: ../Other}
  inline:
    build: {context: lib, dockerfile_inline: "FROM x:1"}
  pulled:
    image: postgres:17
"""


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    files = {"app/Dockerfile": DOCKERFILE, "app/a": "1", "Other": DOCKERFILE, "lib/b": "1"}
    return write(tmp_path / "app", {"compose.yaml": BUILDS, **files})


def git(folder: Path, *arguments: str) -> str:
    config = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *config, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("source", ["files", "git"])
def test_a_digest_is_all_that_a_build_is_made_of(builds: Path, source: str) -> None:
    where: dict[str, Any] = {}

    def digests(**options: Any) -> dict[str, str]:
        if source == "git":
            if not (builds / ".git").exists():
                git(builds, "init", "-q")
            git(builds, "add", "-A")
            git(builds, "commit", "-qm", "x", "--allow-empty")
            where.update(git_dir=str(builds / ".git"), commit=git(builds, "rev-parse", "HEAD"))
        return read(builds, **where, **options).digests

    first = digests()
    assert set(first) == {"web", "same", "other", "inline"}
    assert first["web"] == first["same"] and len(set(first.values())) == 3
    assert digests() == first
    write(builds, {"lib/b": "2"})
    second = digests()
    assert {name for name in first if first[name] != second[name]} == {"inline"}
    write(builds, {"Other": DOCKERFILE + "RUN true\n"})
    third = digests()
    assert {name for name in first if second[name] != third[name]} == {"other"}
    (builds / "app" / "a").chmod(0o755)
    fourth = digests()
    assert {name for name in first if third[name] != fourth[name]} == {"web", "same", "other"}
    fifth = digests(variables={"ARG": "2"})
    assert {name for name in first if fourth[name] != fifth[name]} == {"web", "same"}


def test_what_is_not_in_the_commit_is_no_part_of_a_build(builds: Path) -> None:
    git(builds, "init", "-q")
    git(builds, "add", "compose.yaml", "lib")
    git(builds, "commit", "-qm", "x")
    where = {"git_dir": str(builds / ".git"), "commit": git(builds, "rev-parse", "HEAD")}
    assert refused(builds, **where) == [
        "Other: is not part of the commit.",
        "app: is not part of the commit.",
        "app/Dockerfile: is not part of the commit.",
    ]


# -- the module ---------------------------------------------------------------------------------


def run_program(**arguments: Any) -> dict[str, Any]:
    """What the program returns of these options, validated as the action plugin does."""
    validated = ArgumentSpecValidator(_arguments.DEFINITION).validate(
        {"project": PROJECT, **arguments}
    )
    assert not validated.error_messages
    return dict(_definition.run(validated.validated_parameters, check=True))


def test_the_result(tmp_path: Path) -> None:
    compose_program()
    write(tmp_path, {"compose.yaml": web("environment: {A: $NUMBER, B: $TOKEN, C: $ON}")})
    found = run_program(
        path=str(tmp_path),
        variables={"NUMBER": 42, "ON": True},
        secrets={"TOKEN": "hunter2-8000"},
    )
    assert found["changed"] is False and "failed" not in found
    assert found["services"]["web"]["environment"] == {
        "A": "42", "B": "hunter2-8000", "C": "true",
    }  # fmt: skip
    assert found["x_preview"]["services"]["web"]["expose"] == {"port": 80}
    documented = yaml.safe_load(app_info.RETURN)
    assert set(documented) - {"problems"} == set(found) - {"changed"}


def test_a_refusal_is_one_message_without_secrets(tmp_path: Path) -> None:
    compose_program()
    write(tmp_path, {"compose.yaml": web("user: 'a ${TOKEN}'\nworking_dir: $TOKEN")})
    found = run_program(path=str(tmp_path), secrets={"TOKEN": "hunter2-8000"})
    assert found["failed"] is True and "hunter2" not in json.dumps(found)
    assert found["msg"].splitlines() == found["problems"] and len(found["problems"]) == 2
    assert "exception" not in found


@pytest.mark.parametrize(("module", "library"), [("_yaml", "PyYAML"), ("_xpreview", "jsonschema")])
def test_a_missing_library_is_named(
    module: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = getattr(_definition, module)
    name = next(name for name in vars(holder) if name.endswith("IMPORT_ERROR"))
    monkeypatch.setattr(holder, name, "Traceback")
    found = run_program(path=str(tmp_path))
    assert library in found["msg"]


# -- any file at all ----------------------------------------------------------------------------

fragments = st.sampled_from(
    [
        *WEB.splitlines(), "    build: .", "    env_file: .env", "    volumes: ['./a:/a:ro', b:/b]",
        "    environment: {A: $A, B: '${B:-c}'}", "    x-preview: {health: /x}", "volumes: {b: }",
        "    ports: ['80:80']", "  db: {image: 'redis:7'}", "    <<: *a", "x-a: &a {tty: true}",
        "    command: a 'b", "    deploy: {replicas: 2}", "networks: {n: }", "    networks: [n]",
        "x-preview: {web: db}", "    depends_on: [db]", "    healthcheck: {test: x}", "---", "- a",
        "    secrets: [s]", "secrets: {s: {file: a}}", "    profiles: [p]", "    cpus: '0.5'",
    ]
)  # fmt: skip


@given(st.lists(fragments, max_size=12).map("\n".join), st.lists(fragments, max_size=3))
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_file_does_anything_but_load_or_be_refused(
    tmp_path: Path, text: str, env: list[str]
) -> None:
    files = {"Dockerfile": DOCKERFILE, "a": "", ".env": "\n".join(env), "compose.yaml": WEB + text}
    write(tmp_path, files)
    try:
        json.dumps(read(tmp_path)._asdict())
    except Refused as refusal:
        assert refusal.problems and all(isinstance(each, str) for each in refusal.problems)
