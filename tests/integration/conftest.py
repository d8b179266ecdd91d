"""Real playbooks against a real engine: one gateway a session, a repository and an app a test."""

from __future__ import annotations

import base64
import copy
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
from clusters import Account, Cluster, a_cluster, an_account
from packages import needed
from repositories import Repository
from tiny import TINY

ROOT = Path(__file__).resolve().parents[2]
# How the names of apps begin whose previews live in a cluster.
IN_CLUSTER = "k8s-"


def docker(*arguments: str, check: bool = True) -> str:
    """What a docker command printed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


def command_lines() -> list[str]:
    """The command line of every process of this machine."""
    argv = [needed("ps", "procps"), "-eo", "args"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


@contextmanager
def watched() -> Iterator[set[str]]:
    """The command lines of all that runs on this machine meanwhile, as far as it is seen."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            seen.update(command_lines())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def failing_at_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, said: str, times: int
) -> Path:
    """Have the engine's first calls that begin like this fail with what it says where a race is
    lost that nobody can make happen.

    :returns: what has a line of each of them.
    """
    programs, failures = folder / "bin", folder / "failures"
    programs.mkdir()
    (programs / "docker").write_text(
        f'#!/bin/sh\ncase "$*" in "{call} "*) [ $(grep -c . {failures}) = {times} ] ||'
        f' {{ echo "{said}" | tee -a {failures} >&2; exit 1; }} ;; esac\n'
        f'exec {shutil.which("docker")} "$@"\n'
    )
    (programs / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    failures.touch()
    return failures


@dataclass(frozen=True)
class Played:
    """One run of a playbook."""

    rc: int
    out: str
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        return sum(int(n) for n in re.findall(r"\bchanged=(\d+)", self.out))

    @property
    def tasks(self) -> int:
        return len(re.findall(r"^TASK \[", self.out, re.MULTILINE))

    def ok(self) -> Played:
        assert self.rc == 0, self.out
        return self

    def refused(self) -> Played:
        assert self.rc != 0, self.out
        assert "Traceback" not in self.out, self.out
        return self

    @property
    def sentence(self) -> str:
        """Why it failed, as announced or as the failed task says it."""
        if self.result.get("failure"):
            return str(self.result["failure"]["sentence"])
        messages = re.findall(r'"msg": "((?:[^"\\]|\\.)*)"', self.out)
        return str(json.loads(f'"{messages[-1]}"')) if messages else ""


@dataclass(frozen=True)
class Running:
    """A playbook that runs, and may be killed. ``ended`` waits for its end."""

    process: subprocess.Popen[bytes]
    output: Path
    folder: Path

    def kill(self, *, group: bool) -> None:
        """End it without warning: the whole process group, or only ansible-playbook itself."""
        if group:
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        self.process.wait()

    def ended(self) -> Played:
        self.process.wait(timeout=240)
        file = self.folder / "result.json"
        result = json.loads(file.read_text()) if file.exists() else {}
        return Played(self.process.returncode, self.output.read_text(), result)


def wait(until: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


@dataclass
class Platform:
    """A platform engineer's side: an inventory with one app, and playbooks to run."""

    target: ClassVar[str] = "docker"
    folder: Path
    state: Path
    port: int
    app: str = "app"
    repository: Repository | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    """Of the environment that playbooks are run in."""
    groups: dict[str, Any] = field(default_factory=dict)
    """Further groups of the inventory."""
    elsewhere: Callable[[list[str]], list[str]] = list
    """Of a command the one that runs it where playbooks run."""

    def beside(self, folder: str) -> Self:
        """The same platform in a folder of its own, for what runs at the same time."""
        mine = copy.copy(self)
        mine.folder = self.folder.with_name(folder)
        return mine

    def command(self, name: str, arguments: list[str], settings: dict[str, Any]) -> list[str]:
        wanted = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "preview_state_dir": str(self.state),
            "preview_gateway_http_port": self.port,
            "preview_gateway_address": "127.0.0.1",
            "preview_isolation": False,
            "preview_result_dir": str(self.folder / "result"),
            "preview_verify_timeout": 30,
        }
        if self.repository:
            wanted["preview_repository"] = str(self.repository.path)
        apps = {"hosts": {self.app: wanted | self.settings}}
        inventory = {"preview_apps": apps} | self.groups
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "inventory.json").write_text(json.dumps(inventory))
        variables = self.folder / f"{uuid.uuid4().hex}.json"
        variables.write_text(json.dumps(settings))
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            name if "/" in name else f"ephemera.preview.{name}",
            "-i",
            str(self.folder / "inventory.json"),
            "-e",
            f"@{variables}",
            *arguments,
        ]
        return self.elsewhere(command)

    def environment(self) -> dict[str, str]:
        (self.folder / "tmp").mkdir(exist_ok=True)
        own = {
            "TMPDIR": str(self.folder / "tmp"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        return os.environ | own | self.variables

    def play(self, name: str, *arguments: str, **settings: Any) -> Played:
        shutil.rmtree(self.folder / "result", ignore_errors=True)
        done = subprocess.run(
            self.command(name, list(arguments), settings),
            capture_output=True,
            text=True,
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            timeout=600,
            check=False,
        )
        file = self.folder / "result" / "result.json"
        result = json.loads(file.read_text()) if file.exists() else {}
        return Played(done.returncode, done.stdout + done.stderr, result)

    def begin(self, name: str, *arguments: str, **settings: Any) -> Running:
        """Start a playbook in a process group of its own; see ``Running``."""
        settings["preview_result_dir"] = str(self.folder / f"result-{uuid.uuid4().hex}")
        output = self.folder / f"{uuid.uuid4().hex}.log"
        command = self.command(name, list(arguments), settings)
        with output.open("w") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
                cwd=self.folder,
                start_new_session=True,
            )
        return Running(process, output, Path(settings["preview_result_dir"]))

    def recorded(self, number: int) -> dict[str, Any]:
        """What the host has written down of a preview."""
        file = self.state / "previews" / self.name(number) / "preview.json"
        try:
            return dict(json.loads(file.read_text()))
        except FileNotFoundError:
            return {}

    def wait_for(self, number: int, stage: str, running: Running) -> None:
        """Wait until a run is in a stage."""
        wait(
            lambda: (
                self.recorded(number).get("stage") == stage or running.process.poll() is not None
            )
        )
        assert running.process.poll() is None, running.output.read_text()

    def traces(self) -> set[str]:
        """All that the engine, the gateway and the state folder hold, one line each."""
        attached = docker(
            "container",
            "inspect",
            "--format",
            "{{range $name, $n := .NetworkSettings.Networks}}{{$name}} {{end}}",
            "ephemera-preview-gateway",
            check=False,
        )
        paths = {str(path) for path in self.state.rglob("*")}
        # Made by the first run on a host, for all that follow.
        paths -= {str(self.state / shared) for shared in ("leases", "leases/.lock", "previews")}
        return (
            holdings()
            | {f"attached {network}" for network in attached.split()}
            | {f"path {path}" for path in paths}
        )

    def up(self, number: int, commit: str, *arguments: str, **settings: Any) -> Played:
        return self.play("up", *arguments, preview_number=number, preview_commit=commit, **settings)

    def down(self, number: int, *arguments: str, **settings: Any) -> Played:
        return self.play("down", *arguments, preview_number=number, **settings)

    def name(self, number: int) -> str:
        return f"{self.app}-pr-{number}"

    def get(self, number: int, path: str = "/", host: str = "") -> tuple[int, str]:
        """What a reviewer's browser gets: status and body, through the gateway."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        host = host or f"{self.name(number)}.localhost"
        connection.request("GET", path, headers={"Host": f"{host}:{self.port}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def exec(self, number: int, service: str, *command: str) -> str:
        return docker("exec", f"{self.name(number)}-{service}-1", *command)

    def runs_one_off(self, number: int, hook: str = "migrate") -> Callable[[], bool]:
        """Whether a hook of the web service is at work now."""
        name = f"{self.name(number)}-{hook}-web"
        return lambda: name in docker("ps", "--format", "{{.Names}}").split()

    def images(self, number: int) -> list[str]:
        """Of each container that runs its service and its very image."""
        form = '{{index .Config.Labels "com.docker.compose.service"}} {{.Image}}'
        listed = docker("ps", "--quiet", "--filter", f"name=^{self.name(number)}-").split()
        return docker("inspect", "--format", form, *listed).splitlines() if listed else []

    def services(self, number: int) -> list[str]:
        """Those that have a container, whether it runs or not."""
        form = '{{.Label "com.docker.compose.service"}}'
        own = f"name=^{self.name(number)}-"
        return sorted(docker("ps", "--all", "--filter", own, "--format", form).split())

    def following(self, number: int, service: str) -> str:
        """What a person is told to type to follow a service's logs."""
        return f"docker compose --project-name {self.name(number)} logs --follow {service}"

    @contextmanager
    def over_https(self) -> Iterator[dict[str, Any]]:
        """While previews may be served over https; the settings by which they are."""
        gateway = self.beside("gateway")
        gateway.repository = None
        port = free_port()
        settings = {"preview_gateway_tls": "selfsigned", "preview_gateway_https_port": port}
        try:
            gateway.play("gateway", **settings).ok()
            yield settings
        finally:
            gateway.play("gateway").ok()

    def running(self, number: int, service: str) -> str:
        """Which container it is that runs a service, and since when."""
        form = "{{.Id}} {{.State.StartedAt}}"
        return docker("inspect", "--format", form, f"{self.name(number)}-{service}-1")

    def address(self, number: int, service: str) -> str:
        """Where a container of a service may be reached by its neighbours."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        name = f"{self.name(number)}-{service}-1"
        return docker("inspect", "--format", form, name).split()[0]

    def restart(self, number: int, service: str) -> None:
        docker("restart", "--time", "0", f"{self.name(number)}-{service}-1")

    def end(self, number: int) -> None:
        """Remove by hand what runs of a preview."""
        for service in ("web", "cache"):
            docker("rm", "--force", f"{self.name(number)}-{service}-1")

    def forget(self, number: int) -> None:
        """Lose what is recorded of a preview."""
        shutil.rmtree(self.state / "previews" / self.name(number))

    def is_led_to(self, number: int) -> bool:
        """Whether anything leads to a preview, and nobody has begun to remove it."""
        return (self.state / "gateway" / "routes" / f"{self.name(number)}.yaml").exists()

    def removed(self, number: int) -> str:
        """A line of what is said to go with a preview of the tiny app."""
        return f"container {self.name(number)}-web-1"

    def shown(self, number: int) -> str:
        """What whoever may look at a preview sees of it without asking for its secrets."""
        listed = docker("ps", "--quiet", "--filter", f"name=^{self.name(number)}-").split()
        return docker("inspect", "--format", "{{json .Config.Labels}}{{json .Args}}", *listed)

    @contextmanager
    def imitated(self, number: int) -> Iterator[Callable[[], object]]:
        """While something runs elsewhere that bears the labels of a preview. Whether it does."""
        name = f"{self.app}-imitation"
        web = f"{self.name(number)}-web-1"
        labels = json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", web))
        text = "FROM busybox:1.37\n" + "".join(
            f"LABEL {json.dumps(key)}={json.dumps(value)}\n" for key, value in labels.items()
        )
        build = ["docker", "build", "--quiet", "--tag", name, "-"]
        subprocess.run(build, input=text.encode(), check=True, capture_output=True)
        try:
            docker("run", "--detach", "--name", name, name, "sleep", "600")
            yield lambda: docker("inspect", "--format", "{{.State.Status}}", name) == "running"
        finally:
            docker("rm", "--force", name, check=False)
            docker("image", "rm", "--force", name, check=False)

    @contextmanager
    def taken(self, number: int) -> Iterator[tuple[int, list[str]]]:
        """While things of somebody else's have names of a preview, and the number of that one: on a
        host, beside the preview that is there."""
        name = self.name(number)
        things = [f"container {name}-web-2", f"network {name}_x", f"volume {name}_x"]
        rest = {"container": ["rm", "--force", "--volumes"], "network": ["rm"], "volume": ["rm"]}
        try:
            docker("run", "--detach", "--name", f"{name}-web-2", "busybox:1.37", "sleep", "600")
            docker("network", "create", f"{name}_x")
            docker("volume", "create", f"{name}_x")
            yield number, things
        finally:
            for kind, thing in (each.split() for each in things):
                docker(kind, *rest[kind], thing, check=False)

    def is_there(self, thing: str) -> bool:
        """Whether there is a thing, named by its kind and name."""
        kind, name = thing.split()
        return bool(docker(kind, "inspect", name, check=False).strip("[]\n"))

    @contextmanager
    def own_storage(self) -> Iterator[dict[str, Any]]:
        """While a cluster has storage of another class; the settings by which volumes are of it."""
        yield {}

    def observed(self, number: int) -> dict[str, Any]:
        """What the collection's observer sees of a preview."""
        # Not before pytest-ansible has put Ansible's own loader in.
        from ansible_collections.ephemera.preview.plugins.module_utils import _docker

        def run(argv: Sequence[str]) -> _docker.Ran:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            return _docker.Ran(done.returncode, done.stdout, done.stderr)

        name = self.name(number)
        return dict(_docker.observe(run, str(self.state), name)["previews"][name])

    def lend(self, number: int, line: str) -> None:
        """Have another run hold a preview; "" for none."""
        lease = self.state / "leases" / self.name(number)
        lease.parent.mkdir(parents=True, exist_ok=True)
        if line:
            lease.write_text(line + "\n")
        else:
            lease.unlink(missing_ok=True)


class InCluster(Platform):
    """A platform whose previews live in a cluster."""

    target = "kubernetes"
    cluster: Cluster

    @classmethod
    def of(cls, account: Account, folder: Path, app: str, repository: Repository) -> InCluster:
        facts = account.cluster.facts
        login = {"username": facts["registry_username"], "password": facts["registry_password"]}
        mine = cls(folder / "platform", folder / "state", facts["ingress_http"], app, repository)
        mine.cluster = account.cluster
        mine.settings = {
            "preview_target": "kubernetes",
            "preview_kubeconfig": str(account.kubeconfig),
            "preview_registry": facts["registry"],
            "preview_registries": [{"registry": facts["registry"], **login}],
            "preview_ingress_class": facts["ingress_class"],
            "preview_ingress_namespace": facts["ingress_namespace"],
            # Also where the machine does much else.
            "preview_verify_timeout": 60,
        }
        return mine

    def kubectl(self, number: int, *arguments: str, **options: Any) -> str:
        return self.cluster.kubectl("-n", self.name(number), *arguments, **options)

    def namespace(self, number: int) -> dict[str, Any]:
        """A preview's namespace, empty where there is none."""
        listed = ["get", "namespaces", "-o", "json", "--ignore-not-found", self.name(number)]
        text = self.cluster.kubectl(*listed)
        return dict(json.loads(text)) if text else {}

    def recorded(self, number: int) -> dict[str, Any]:
        noted = self.namespace(number).get("metadata", {}).get("annotations", {})
        return dict(json.loads(noted.get("ephemera.preview/state", "{}")))

    def wait_for(self, number: int, stage: str, running: Running) -> None:
        # A plan changes nothing, and is not noted in a cluster.
        super().wait_for(number, "source" if stage == "plan" else stage, running)

    def pods(self, number: int, label: str) -> list[dict[str, Any]]:
        text = self.kubectl(number, "get", "pods", "-l", label, "-o", "json")
        pods = json.loads(text)["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def exec(self, number: int, service: str, *command: str) -> str:
        pod = self.pods(number, f"ephemera.preview/service={service}")[0]["metadata"]["name"]
        return self.kubectl(number, "exec", pod, "--", *command)

    def runs_one_off(self, number: int, hook: str = "migrate") -> Callable[[], bool]:
        label = f"ephemera.preview/hook={hook}-web"
        return lambda: any(pod["status"]["phase"] == "Running" for pod in self.pods(number, label))

    def images(self, number: int) -> list[str]:
        return [
            f"{pod['metadata']['labels']['ephemera.preview/service']} {each['imageID']}"
            for pod in self.pods(number, "ephemera.preview/service")
            for each in pod["status"].get("containerStatuses", ())
            if "running" in each["state"]
        ]

    def services(self, number: int) -> list[str]:
        label = "ephemera.preview/service"
        return sorted(pod["metadata"]["labels"][label] for pod in self.pods(number, label))

    def following(self, number: int, service: str) -> str:
        return f"--namespace {self.name(number)} --selector ephemera.preview/service={service} "

    @contextmanager
    def over_https(self) -> Iterator[dict[str, Any]]:
        facts = self.cluster.facts
        yield {
            "preview_ingress_tls": True,
            "preview_gateway_https_port": facts["ingress_https"],
            # What the controller's own certificate is for, and who has signed it.
            "preview_domain": facts["domain"],
            "preview_ca_file": facts["ca"],
        }

    def running(self, number: int, service: str) -> str:
        (pod,) = self.pods(number, f"ephemera.preview/service={service}")
        (main,) = pod["status"]["containerStatuses"]
        return f"{main['containerID']} {main['state']}"

    def address(self, number: int, service: str) -> str:
        (pod,) = self.pods(number, f"ephemera.preview/service={service}")
        return str(pod["status"]["podIP"])

    def restart(self, number: int, service: str) -> None:
        self.kubectl(number, "delete", "pods", "-l", f"ephemera.preview/service={service}")
        wait(lambda: any(each.startswith(service + " ") for each in self.images(number)))

    def end(self, number: int) -> None:
        self.kubectl(number, "delete", "deployments,statefulsets", "--all")

    def forget(self, number: int) -> None:
        space = self.name(number)
        self.cluster.kubectl("annotate", "namespace", space, "ephemera.preview/state-")

    def is_led_to(self, number: int) -> bool:
        space = self.namespace(number)
        return bool(space) and "deletionTimestamp" not in space["metadata"]

    def removed(self, number: int) -> str:
        return f"namespace {self.name(number)}"

    # All that may stand in a preview's namespace but Secrets.
    KINDS: ClassVar[str] = (
        "resourcequotas,limitranges,configmaps,services,deployments,statefulsets,replicasets,"
        "controllerrevisions,pods,jobs,horizontalpodautoscalers,networkpolicies,ingresses,"
        "persistentvolumeclaims,middlewares.traefik.io,ingressroutes.traefik.io"
    )

    def made(self, number: int) -> set[str]:
        """What a preview is made of, each as kind and name, but what controllers make of that."""
        ours = ["-l", f"ephemera.preview/name={self.name(number)}", "-o", "json"]
        listed = json.loads(self.kubectl(number, "get", f"{self.KINDS},secrets", *ours))["items"]
        return {
            f"{each['kind']}/{each['metadata']['name']}"
            for each in listed
            if "ownerReferences" not in each["metadata"]
        }

    def shown(self, number: int) -> str:
        listed = self.kubectl(number, "get", f"{self.KINDS},events", "-o", "json")
        held = "".join(
            base64.b64decode(value).decode()
            for each in json.loads(listed)["items"]
            for value in each.get("binaryData", {}).values()
        )
        secrets = self.kubectl(number, "get", "secrets", "-o", "jsonpath={.items[*].metadata}")
        return listed + held + secrets + json.dumps(self.namespace(number))

    @contextmanager
    def imitated(self, number: int) -> Iterator[Callable[[], object]]:
        (web,) = self.pods(number, "ephemera.preview/service=web")
        labels = web["metadata"]["labels"]
        main = {"name": "main", "image": "busybox:1.37", "command": ["sleep", "600"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-0", "labels": labels}}
        spec = {"containers": [main], "terminationGracePeriodSeconds": 0}
        look = ["get", "pod", "web-0", "-o", "jsonpath={.status.phase}"]
        with self.cluster.namespace(**self.namespace(number)["metadata"]["labels"]) as elsewhere:
            self.cluster.apply(elsewhere, pod | {"spec": spec})

            def runs() -> bool:
                return self.cluster.kubectl("-n", elsewhere, *look) == "Running"

            wait(runs)
            yield runs

    @contextmanager
    def taken(self, number: int) -> Iterator[tuple[int, list[str]]]:
        """In a cluster all of a namespace is of who it is of, so it is the next preview's."""
        name = self.name(number + 1)
        self.cluster.kubectl("create", "namespace", name)
        try:
            yield number + 1, [f"namespace {name}"]
        finally:
            self.cluster.kubectl("delete", "namespace", name)

    def is_there(self, thing: str) -> bool:
        return bool(self.cluster.kubectl("get", *thing.split(), "--ignore-not-found"))

    @contextmanager
    def own_storage(self) -> Iterator[dict[str, Any]]:
        (usual,) = json.loads(self.cluster.kubectl("get", "storageclasses", "-o", "json"))["items"]
        name = f"{self.app}-storage"
        self.cluster.apply("default", usual | {"metadata": {"name": name}})
        try:
            yield {"preview_storage_class": name, "preview_volume_size": "32Mi"}
        finally:
            self.cluster.kubectl("delete", "storageclass", name)

    def observed(self, number: int) -> dict[str, Any]:
        from ansible_collections.ephemera.preview.plugins.module_utils import _kubernetes

        cluster, name = _kubernetes.Cluster(self.settings["preview_kubeconfig"]), self.name(number)
        return dict(_kubernetes.observe(cluster, name)["previews"][name])

    @contextmanager
    def events(self, number: int, label: str) -> Iterator[list[tuple[str, dict[str, Any]]]]:
        """What becomes of the pods with a label meanwhile, each time its kind and the pod; known
        afterwards."""
        seen: list[tuple[str, dict[str, Any]]] = []
        facts, log = self.cluster.facts, self.folder / f"{uuid.uuid4().hex}.json"
        watch = ["get", "pods", "-l", label, "--watch", "--output-watch-events", "-o", "json"]
        kubectl = [facts["kubectl"], "--kubeconfig", facts["kubeconfig"], "-n", self.name(number)]
        with (
            log.open("w") as output,
            subprocess.Popen([*kubectl, *watch], stdout=output) as process,
        ):
            try:
                wait(lambda: log.stat().st_size)
                yield seen
            finally:
                process.terminate()
        text = log.read_text()
        while text.strip():
            event, end = json.JSONDecoder().raw_decode(text)
            seen.append((event["type"], event["object"]))
            text = text[end:].lstrip()

    def lend(self, number: int, line: str) -> None:
        if not self.namespace(number):
            self.cluster.kubectl("create", "namespace", self.name(number))
        name, owner = self.name(number), self.owner()
        labels = [f"ephemera.preview/name={name}", f"ephemera.preview/owner={owner}"]
        self.cluster.kubectl("label", "--overwrite", "namespace", name, *labels)
        noted = f"ephemera.preview/lease={line}" if line else "ephemera.preview/lease-"
        self.cluster.kubectl("annotate", "--overwrite", "namespace", name, noted)

    def owner(self) -> str:
        # Not before pytest-ansible has put Ansible's own loader in.
        from ansible_collections.ephemera.preview.plugins.module_utils import _names

        assert self.repository
        return _names.owner_id("", str(self.repository.path).strip("/").removesuffix(".git"))

    def volumes(self) -> list[list[str]]:
        """Of each of the cluster's volumes in whose namespace its claim is, and its phase."""
        shown = '{range .items[*]}{.spec.claimRef.namespace} {.status.phase}{"\\n"}{end}'
        told = self.cluster.kubectl("get", "persistentvolumes", "-o", f"jsonpath={shown}")
        return [line.split() for line in told.splitlines()]

    def traces(self) -> set[str]:
        """All that the cluster, its registry, the engine and the builder's folder hold of it."""
        spaces = self.cluster.kubectl("get", "namespaces", "-o", "name").split()
        # That a claim is gone gets to the provisioner in its own time: the platform waits for it.
        claimed = [f"volume {each[0]}" for each in self.volumes() if each[-1] != "Released"]
        paths = {f"path {path}" for path in self.state.rglob("*")}
        pushed = self.cluster.pushed()
        shared = {f"path {self.state / name}" for name in ("leases", "leases/.lock", "previews")}
        built = holdings(of_clusters=True)
        return {line for line in (*spaces, *claimed, *pushed, *built) if self.app in line} | (
            paths - shared
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


IPV6 = Path("/proc/net/if_inet6").exists()


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_dummy: Any) -> None:
        pass


class OfBoth(ThreadingHTTPServer):
    address_family = socket.AF_INET6 if IPV6 else socket.AF_INET


@contextmanager
def a_port(host: str = "") -> Iterator[int]:
    """A port of this machine that answers meanwhile, on one IPv4 address or on all there are."""
    with (ThreadingHTTPServer if host else OfBoth)((host, 0), Hello) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def holdings(*, of_clusters: bool = False) -> set[str]:
    """Everything the engine holds, one line each; of its build cache what a build can write to.

    :param of_clusters: also what builds for a cluster leave, which may run beside this test.
    """
    cached = docker("buildx", "du", "--verbose", "--builder", "default")
    held = set(
        docker("ps", "--all", "--format", "container {{.Names}}").splitlines()
        + docker("network", "ls", "--format", "network {{.Name}}").splitlines()
        + docker("volume", "ls", "--format", "volume {{.Name}}").splitlines()
        + re.findall(r"^Description: +(cached mount .*)", cached, re.MULTILINE)
    )
    # What is built or removed beside this test has no name for a moment.
    before = _images()
    nameless = {line for line in before if line.startswith("image <none>")}
    held |= before - (nameless and nameless - _images())
    elsewhere = re.compile(rf"image localhost:|.*\b{IN_CLUSTER}[0-9a-f]{{6}}\b")
    return held if of_clusters else {line for line in held if not elsewhere.match(line)}


def _images() -> set[str]:
    listed = docker("image", "ls", "--format", "image {{.Repository}}:{{.Tag}} {{.ID}}")
    return set(listed.splitlines())


BESIDE_NOTHING = {
    "test_demo.py",
    "test_execution_environment.py",
    "test_gateway.py",
    "test_containers_of_docker_work_beside_it",
}
"""Files and tests: of the cluster, and yet among those of the Docker host, one after another."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes the cluster may run beside what takes the Docker host, each one after another.

    The demo is one of the latter: it has one folder for both targets, and it comes first, as it
    brings a gateway of its own and an engine has one. So is the execution environment, whose image
    is made once for both, and the firewall, of which a machine has one; and what makes containers
    by names of its own, which the others look for. At the very end comes what starts the cluster
    anew, with which accounts and images are gone.
    """

    def turn(item: pytest.Item) -> tuple[bool, bool, bool]:
        fixtures = set(getattr(item, "fixturenames", ()))
        file = item.path.name
        in_cluster = "kubernetes" in item.nodeid or not fixtures.isdisjoint(("cluster", "account"))
        in_cluster = in_cluster and BESIDE_NOTHING.isdisjoint((file, item.name))
        return (
            in_cluster,
            in_cluster and file == "test_cluster.py",
            file != "test_demo.py",
        )

    items.sort(key=turn)
    for item in items:
        item.add_marker(pytest.mark.xdist_group("cluster" if turn(item)[0] else "engine"))


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A gateway on loopback, and the state folder that all tests of the session share."""
    folder = tmp_path_factory.mktemp("platform")
    platform = Platform(folder, folder / "state", free_port())
    platform.play("gateway").ok()
    yield platform
    platform.play("gateway", preview_gateway_state="absent").ok()


@contextmanager
def an_app(gateway: Platform, folder: Path) -> Iterator[Platform]:
    """An app of its own with the tiny app on `main`; its previews go with it."""
    repository = Repository.create(folder / "app.git")
    repository.commit("refs/heads/main", "The tiny app", files=TINY)
    app = f"t{uuid.uuid4().hex[:6]}"
    mine = Platform(folder / "platform", gateway.state, gateway.port, app, repository)
    before = holdings()
    try:
        yield mine
    finally:
        for preview in sorted((mine.state / "previews").glob(f"{app}-pr-*")):
            mine.down(int(preview.name.rsplit("-", 1)[1])).ok()
    left = {line for line in holdings() - before if app in line}
    assert not left, f"left behind by this test: {sorted(left)}"


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pytest's own bears the test's name, and the path of a socket that Ansible has in it may have
    107 characters."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture
def platform(gateway: Platform, tmp_path: Path) -> Iterator[Platform]:
    """An app of its own for this test."""
    with an_app(gateway, tmp_path) as mine:
        yield mine


@contextmanager
def an_app_in_cluster(account: Account, folder: Path) -> Iterator[InCluster]:
    """The same in a cluster."""
    repository = Repository.create(folder / "app.git")
    repository.commit("refs/heads/main", "The tiny app", files=TINY)
    mine = InCluster.of(account, folder, IN_CLUSTER + uuid.uuid4().hex[:6], repository)
    (folder / "state").mkdir()
    try:
        yield mine
    finally:
        for name in mine.cluster.kubectl("get", "namespaces", "-o", "name").split():
            if name.startswith(f"namespace/{mine.app}-pr-"):
                mine.down(int(name.rsplit("-", 1)[1])).ok()
    wait(lambda: not mine.traces())
    wait(lambda: mine.app not in str(mine.volumes()))


@pytest.fixture
def in_cluster(account: Account, tmp_path: Path) -> Iterator[InCluster]:
    """An app of its own for this test, in a cluster."""
    with an_app_in_cluster(account, tmp_path) as mine:
        yield mine


TARGETS = ["docker", "kubernetes"]


@pytest.fixture(params=TARGETS)
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Platform]:
    """An app of its own for this test, on each target."""
    with somewhere(request, request.param, tmp_path) as mine:
        yield mine


def somewhere(
    request: pytest.FixtureRequest, target: str, folder: Path
) -> AbstractContextManager[Platform]:
    """An app of its own on a target."""
    if target == "docker":
        return an_app(request.getfixturevalue("gateway"), folder)
    return an_app_in_cluster(request.getfixturevalue("account"), folder)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Kubernetes cluster, with a registry and an ingress controller."""
    with a_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def account(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """The account that previews are made as, never the cluster's administrator."""
    with an_account(cluster, tmp_path_factory.mktemp("account")) as made:
        yield made


@pytest.fixture(scope="module")
def confined(account: Account) -> Iterator[Account]:
    """The same account, confined to the namespaces of previews."""
    with account.confined():
        yield account
