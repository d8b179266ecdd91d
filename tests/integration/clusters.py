"""The cluster of `tests/testbed/cluster` as tests use it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import accounts
import pytest
from packages import IN_CI

SCRIPT = Path(__file__).resolve().parents[1] / "testbed" / "cluster"
Objects = list[dict[str, Any]]
# What previews of the tests pull themselves.
PULLED = ("busybox:1.37", "redis:8", "postgres:17")


def cluster_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)


class Cluster:
    """What runs now: ports and logins are others after each start."""

    @cached_property
    def facts(self) -> dict[str, Any]:
        answer = cluster_script("facts")
        assert answer.returncode == 0, answer.stderr
        return dict(json.loads(answer.stdout))

    def kubectl(self, *arguments: str, check: bool = True, **options: Any) -> str:
        """What kubectl printed; with ``check`` off also what it complained of."""
        facts = self.facts
        done = subprocess.run(
            [facts["kubectl"], "--kubeconfig", facts["kubeconfig"], *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
            **options,
        )
        if check:
            assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
            return done.stdout.strip()
        return (done.stdout + done.stderr).strip()

    def apply(self, namespace: str, *objects: dict[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-n", namespace, "-f", "-", input=json.dumps(listed))

    @contextmanager
    def namespace(self, **labels: str) -> Iterator[str]:
        """A namespace that is gone afterwards, with all that is in it."""
        name = f"t{uuid.uuid4().hex[:8]}"
        metadata = {"name": name, "labels": labels}
        self.apply("default", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--timeout=120s")

    @contextmanager
    def knowing(self, definitions: Path) -> Iterator[None]:
        """While there are further kinds of objects: those of a file, or of all of a folder."""
        # Some are larger than what kubectl notes of what it applies by itself.
        self.kubectl("apply", "--server-side", "-f", str(definitions))
        try:
            self.kubectl("wait", "--for=condition=Established", "-f", str(definitions))
            yield
        finally:
            self.kubectl("delete", "-f", str(definitions))

    def push(self, image: str, name: str, folder: Path) -> str:
        """Push an image of the engine to the cluster's registry, as a user does; its name there."""
        facts = self.facts
        docker = ["docker", "--config", str(folder)]
        target = f"{facts['registry']}/{name}"
        login = ["login", "--username", facts["registry_username"], "--password-stdin"]
        for command, given in (
            ([*docker, *login, facts["registry"]], facts["registry_password"]),
            (["docker", "tag", image, target], None),
            ([*docker, "push", "--quiet", target], None),
            (["docker", "rmi", target], None),
        ):
            subprocess.run(command, input=given, capture_output=True, text=True, check=True)
        return target

    def pushed(self) -> set[str]:
        """Every image that the registry has, one line each."""
        # Not before pytest-ansible has put Ansible's own loader in.
        from ansible_collections.ephemera.preview.plugins.module_utils import _registry

        facts = self.facts
        login = {"registry": facts["registry"], "username": facts["registry_username"]}
        known = _registry.Registries([login | {"password": facts["registry_password"]}])
        token = _registry.basic(login | {"password": facts["registry_password"]})
        asked = urllib.request.Request(
            f"http://{facts['registry']}/v2/_catalog?n=1000",
            headers={"Authorization": f"Basic {token}"},
        )
        with urllib.request.urlopen(asked, timeout=10) as answer:
            names = json.load(answer)["repositories"]
        return {
            f"pushed {name}:{tag}"
            for name in names
            for tag in known.tags(f"{facts['registry']}/{name}")
        }

    def pull_secret(self, name: str) -> dict[str, Any]:
        facts = self.facts
        login = {"username": facts["registry_username"], "password": facts["registry_password"]}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/dockerconfigjson",
            "metadata": {"name": name},
            "stringData": {
                ".dockerconfigjson": json.dumps({"auths": {facts["registry"]: login}}),
            },
        }

    def get(self, host: str, path: str = "/", *, tls: bool = False) -> tuple[int, str]:
        """What the ingress answers to a host name: status and body."""
        answer, body = self.request(host, path, tls=tls)
        return answer.status, body.decode()

    def request(
        self,
        host: str,
        path: str = "/",
        *,
        tls: bool = False,
        authority: str = "",
        method: str = "GET",
        **headers: str,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """The same, with the headers of the answer; ``_`` in those of the request is ``-``."""
        connection = http.client.HTTPConnection(host, self.facts[port_of(tls)])
        connection.sock = self.connected(host, authority) if tls else self.dialled(tls)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=given)
        answer = connection.getresponse()
        return answer, answer.read()

    def connected(self, host: str, authority: str = "") -> ssl.SSLSocket:
        """A connection to a host over TLS, by a certificate of the cluster's or another authority.

        :param authority: the certificates to trust, as PEM.
        """
        trusted = {"cadata": authority} if authority else {"cafile": self.facts["ca"]}
        context = ssl.create_default_context(**trusted)
        return context.wrap_socket(self.dialled(tls=True), server_hostname=host)

    def dialled(self, tls: bool) -> socket.socket:
        # By address: not every resolver knows *.localhost, as browsers and curl do.
        return socket.create_connection(("127.0.0.1", self.facts[port_of(tls)]), timeout=10)


@dataclass(frozen=True)
class Account:
    """The account of examples/kubernetes/rbac.yaml, under a name of this session's own."""

    cluster: Cluster
    name: str
    kubeconfig: Path

    def example(self, file: str) -> str:
        """A file of examples/kubernetes, about this account."""
        return accounts.example(file, self.name)

    def kubectl(self, *arguments: str, **options: Any) -> str:
        """What kubectl printed or complained of, as this account."""
        command = [self.cluster.facts["kubectl"], "--kubeconfig", str(self.kubeconfig)]
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            **options,
        )
        return (done.stdout + done.stderr).strip()

    def namespace(self, name: str, *labels: str) -> str:
        """What the account is told that tries to make a namespace, which is not made."""
        metadata = {"name": name, "labels": dict(label.split("=") for label in labels)}
        body = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        return self.kubectl("create", "--dry-run=server", "-f", "-", input=body)

    @contextmanager
    def confined(self) -> Iterator[None]:
        """While admission.yaml is in force."""
        policy = self.example("admission.yaml")
        self.cluster.kubectl("apply", "-f", "-", input=policy)
        try:
            # The API server reads a policy a moment after it is written.
            eventually(lambda: "of previews only" in self.namespace(f"{self.name}-x"))
            yield
        finally:
            self.cluster.kubectl("delete", "-f", "-", input=policy)


@contextmanager
def an_account(cluster: Cluster, folder: Path) -> Iterator[Account]:
    """An account that may make previews and nothing else; it is gone afterwards."""
    account = Account(cluster, f"t{uuid.uuid4().hex[:8]}", folder / "kubeconfig")
    try:
        accounts.make(cluster.facts, account.kubeconfig, account.name)
        yield account
    finally:
        # By the last test of all the cluster is another, or none for a while.
        objects = account.example("rbac.yaml")
        delete = ("delete", "--ignore-not-found", "-f", "-")
        eventually(lambda: cluster.kubectl(*delete, input=objects) is not None, 240)


def port_of(tls: bool) -> str:
    return "ingress_https" if tls else "ingress_http"


def eventually(until: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds; the last word is its own, so that it can assert."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if until():
                return
        except (AssertionError, OSError):
            pass
        time.sleep(0.25)
    assert until()


@contextmanager
def a_cluster() -> Iterator[Cluster]:
    """The cluster that runs, else one for this session (KEEP_CLUSTER=1: it stays)."""
    possible = os.geteuid() == 0 or IN_CI or os.environ.get("KUBECONFIG") or shutil.which("kind")
    if not possible:
        pytest.skip("a cluster for the tests takes kind or root")
    ran = cluster_script("status").returncode == 0
    started = subprocess.run([SCRIPT, "up"], stdout=subprocess.DEVNULL, check=False)
    assert started.returncode == 0, "no cluster can be had; see above"
    pushed = cluster_script("push", *PULLED)
    assert pushed.returncode == 0, pushed.stderr
    try:
        yield Cluster()
    finally:
        if not ran and not os.environ.get("KEEP_CLUSTER"):
            subprocess.run([SCRIPT, "down"], check=True)
