"""An execution environment, built as a user builds one, and previews brought up from inside it."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from bindep.depends import Depends
from conftest import ROOT, InCluster, Platform, an_app, docker, holdings
from repositories import Repository
from sshd import Server, an_sshd
from tiny import TINY

PAGE = ROOT / "docs" / "execution-environment.md"

# The page wants a base image with Docker's repository. This one has the same package, with the
# Compose of this machine in it.
REPOSITORY = [
    "COPY _build/docker /docker",
    "WORKDIR /docker",
    "RUN dpkg-deb --build plugin plugin.deb && rm -r plugin",
    "RUN { dpkg-deb --field plugin.deb; echo 'Filename: ./plugin.deb';"
    ' echo "Size: $(stat --format %s plugin.deb)";'
    ' echo "SHA256: $(sha256sum plugin.deb | cut -c 1-64)"; } >Packages',
    "RUN echo 'deb [trusted=yes] file:/docker ./' >/etc/apt/sources.list.d/docker.list",
    "WORKDIR /",
]
HEALTH = {"health": "/hosts"}
CONTROL = """\
Package: docker-compose-plugin
Version: {version}
Architecture: all
Maintainer: none <none@localhost>
Description: the Compose of the machine that runs the tests
"""


def run(*command: str | Path, **options: Any) -> str:
    """What a command printed; a Python program of that name is this environment's."""
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def collections(folder: Path) -> list[dict[str, str]]:
    """What Galaxy would give: ours as it is uploaded there, and all that it depends on."""
    run("ansible-galaxy", "collection", "build", "--output-path", folder, cwd=ROOT)
    found = {"ephemera.preview": (next(folder.iterdir()).name, "file")}
    wanted = list(yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"])
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        installed = Path(importlib.import_module(f"ansible_collections.{name}").__path__[0])
        shutil.copytree(installed, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        about = json.loads((installed / "MANIFEST.json").read_text())["collection_info"]
        (folder / name / "galaxy.yml").write_text(json.dumps(about))
        found[name] = (name, "dir")
        wanted += about["dependencies"]
    return [{"name": f"/build/collections/{name}", "type": kind} for name, kind in found.values()]


def compose_package(folder: Path) -> None:
    """What Debian's tools make Docker's package out of."""
    plugins = json.loads(docker("info", "--format", "{{json .ClientInfo.Plugins}}"))
    compose = next(plugin for plugin in plugins if plugin["Name"] == "compose")
    (folder / "DEBIAN").mkdir(parents=True)
    (folder / "DEBIAN/control").write_text(CONTROL.format(version=compose["Version"].lstrip("v")))
    to = folder / "usr/libexec/docker/cli-plugins/docker-compose"
    to.parent.mkdir(parents=True)
    shutil.copy(compose["Path"], to)


@pytest.mark.parametrize(
    ("distribution", "ssh", "compose"),
    [
        ("debian dpkg", "openssh-client", "docker-compose-plugin"),
        ("ubuntu dpkg", "openssh-client", "docker-compose-v2"),
        ("fedora redhat rpm", "openssh-clients", "docker-compose"),
        ("rhel redhat rpm", "openssh-clients", "docker-compose-plugin"),
        ("centos redhat rpm", "openssh-clients", "docker-compose-plugin"),
        ("almalinux redhat rpm", "openssh-clients", "docker-compose-plugin"),
        ("rocky redhat rpm", "openssh-clients", "docker-compose-plugin"),
    ],
)
def test_the_packages_are_asked_for_by_name(distribution: str, ssh: str, compose: str) -> None:
    """As bindep, which ansible-builder runs in the image, calls each distribution."""
    listed = Depends((ROOT / "meta/bindep.txt").read_text())
    rules = listed.active_rules([f"platform:{name}" for name in distribution.split()])
    assert {rule[0] for rule in rules} == {"git", ssh, compose}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image of the page's definition."""
    folder = tmp_path_factory.mktemp("environment")
    found = re.search(r"(?s)```yaml\n(version:.*?)```", PAGE.read_text(encoding="utf-8"))
    assert found
    definition = yaml.safe_load(found[1])
    assert definition["dependencies"]["galaxy"]["collections"] == ["ephemera.preview"]
    (folder / "collections").mkdir()
    definition["dependencies"]["galaxy"]["collections"] = collections(folder / "collections")
    compose_package(folder / "docker/plugin")
    definition["additional_build_files"] = [
        {"src": str(folder / each), "dest": each} for each in ("collections", "docker")
    ]
    definition["build_arg_defaults"] = {"ANSIBLE_GALAXY_CLI_COLLECTION_OPTS": "--offline"}
    definition["additional_build_steps"]["prepend_base"][:0] = REPOSITORY
    (folder / "execution-environment.yml").write_text(json.dumps(definition))
    name = f"preview-environment:{uuid.uuid4().hex[:8]}"
    proxies = [f"--build-arg={key}" for key in os.environ if key.lower().endswith("_proxy")]
    build = ["ansible-builder", "build", "--container-runtime", "docker", "-v3", *proxies]
    run(*build, "--tag", name, cwd=folder)
    yield name
    docker("image", "rm", name)


def started(image: str, *command: str, folders: list[Path]) -> list[str]:
    """A docker command that starts a command in the image, as a user it need not know."""
    argv = ["docker", "run", "--rm", "--network=host", f"--user={os.getuid()}:0"]
    return [*argv, *(f"--volume={folder}:{folder}" for folder in folders), image, *command]


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[Server]:
    with an_sshd(tmp_path / "ssh") as server:
        yield server


def controlled(app: Platform, image: str, *folders: Path) -> None:
    """Have playbooks run in the image, which has these folders of this machine."""

    def elsewhere(command: list[str]) -> list[str]:
        words = ["ansible-playbook", *command[1:]]
        return started(image, *words, folders=[app.folder, *folders])

    app.elsewhere = elsewhere


@pytest.fixture
def controller(image: str, gateway: Platform, ssh: Server, tmp_path: Path) -> Iterator[Platform]:
    """An app on a host that is reached by ssh, and nothing else of it is."""
    with an_app(gateway, tmp_path) as app:
        app.settings |= ssh.connection
        controlled(app, image, ssh.folder)
        yield app


def test_the_image_fetches_and_reads_an_app_by_itself(
    image: str, ssh: Server, tmp_path: Path
) -> None:
    """What is in it for that: git, ssh, Compose and the libraries."""
    repository = Repository.create(tmp_path / "app.git")
    commit = repository.commit("refs/heads/main", "The tiny app", files=TINY)
    source = {
        "url": f"ssh://{ssh.user}@127.0.0.1:{ssh.port}{repository.path}",
        "key_file": str(ssh.folder / "user"),
        "host_keys": ssh.known,
        "ref": "refs/heads/main",
        "commit": commit,
        "dest": "/runner/app",
    }
    tasks: list[dict[str, Any]] = [
        {"ephemera.preview.source": source, "register": "source"},
        {"ephemera.preview.app_info": {"path": "{{ source.path }}", "project": "tiny-pr-1"}},
    ]
    play = {"hosts": "localhost", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.json").write_text(json.dumps([play]))
    command = ["ansible-playbook", "-v", str(tmp_path / "play.json")]
    out = run(*started(image, *command, folders=[ssh.folder, tmp_path / "play.json"]))
    read = json.loads(re.findall(r"(?m)^ok: \[localhost\] => (.*)", out)[-1])
    assert set(read["services"]) == {"web", "cache"}


def test_previews_come_and_go_by_ssh(controller: Platform) -> None:
    assert controller.repository
    page = {"www/index.html": "one\n"}
    commit = controller.repository.pull_request(1, "A change", files=page)
    before = holdings()

    # Of a host that is reached by ssh the names of localhost are no good to reviewers.
    doctor = controller.play("doctor").refused()
    assert "Previews lie under localhost" in doctor.sentence
    assert "1 problem, no warnings" in doctor.out, doctor.out
    up = controller.up(1, commit).ok()
    assert up.result["outcome"] == "ready"
    assert controller.get(1) == (200, "one\n")
    assert controller.exec(1, "web", "cat", "/data/log") == "migrated\nseeded"
    assert controller.name(1) in controller.play("list").ok().out
    again = controller.up(1, commit).ok()
    assert (again.changed, again.result["outcome"]) == (0, "unchanged")

    controller.down(1).ok()
    assert holdings() == before
    assert not (controller.state / "previews" / controller.name(1)).exists()


def test_previews_come_and_go_in_a_cluster(
    image: str, in_cluster: InCluster, tmp_path: Path
) -> None:
    """From a runner that has no engine: images are of CI."""
    base = in_cluster.cluster.push("busybox:1.37", "base/busybox:1.37", tmp_path / "docker")
    in_cluster.settings["preview_images"] = {"web": base}
    kubeconfig = Path(in_cluster.settings["preview_kubeconfig"])
    repository = in_cluster.repository.path
    controlled(in_cluster, image, in_cluster.state, kubeconfig.parent, repository)
    web = {"image": "web", "build": ".", "command": ["httpd", "-f", "-p", "8080", "-h", "/etc"]}
    compose = {"services": {"web": web | {"ports": ["8080:8080"], "x-preview": HEALTH}}}
    commit = in_cluster.repository.pull_request(
        1, "A change", files={"compose.yaml": json.dumps(compose)}
    )
    up = in_cluster.up(1, commit).ok()
    assert up.result["outcome"] == "ready"
    assert in_cluster.get(1, "/hosts")[0] == 200
    again = in_cluster.up(1, commit).ok()
    assert (again.changed, again.result["outcome"]) == (0, "unchanged")
    ran = in_cluster.play("run", preview_number=1, preview_command=["cat", "/etc/hostname"]).ok()
    assert "web-" in ran.out
    in_cluster.down(1).ok()
    assert in_cluster.traces() == set()
