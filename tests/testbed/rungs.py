"""What the rungs of the ladder of `cluster` share: what each gives a cluster, and how it is asked.

A rung is a module (kind.py, node.py) with a folder STATE for all that it keeps, and
    obstacles()    why it cannot be had here, a sentence each
    build()        get ready what `start` takes
    start()        have an API server; its registry's login, and the ports of the host's loopback
    addons()       what the cluster is then given
    host_address() where pods find this host
    runs()         whether what `start` has made runs
    inside(words)  run a command inside the node that pods run on
    remove()       remove all that `start` makes, however far it came; whether there was anything
"""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import bcrypt
import yaml

SOURCES = Path(__file__).resolve().parent / "kubernetes"
DOMAIN = "preview.localhost"
INGRESS_PORTS = {"http": 30080, "https": 30443}  # of the node, as in addons.yaml
# Those that Traefik watches; it wants them all to exist.
TRAEFIK_KINDS = ["IngressRoute", "IngressRouteTCP", "IngressRouteUDP", "Middleware"]
TRAEFIK_KINDS += ["MiddlewareTCP", "ServersTransport", "ServersTransportTCP", "TLSOption"]
TRAEFIK_KINDS += ["TLSStore", "TraefikService"]
BEGAN = time.monotonic()


class Missing(Exception):
    """What a cluster cannot be had without."""


def say(line: str) -> None:
    sys.stderr.write(f"cluster: {time.monotonic() - BEGAN:5.1f} s  {line}\n")


def run(*command: str | Path, **options: Any) -> str:
    """What a command printed."""
    options = {"capture_output": True, "text": True} | options
    done = subprocess.run([str(word) for word in command], check=False, **options)
    if done.returncode:
        said = (done.stderr or "").strip()[-2000:]
        raise Missing(f"{' '.join(map(str, command[:6]))} failed:\n{said}")
    return str(done.stdout or "")


def version() -> str:
    """Of the Kubernetes that a node of ours runs."""
    found = re.search(r"k8s.io/kubernetes (v\S+)", (SOURCES / "go.mod").read_text())
    assert found
    return found[1]


# --- asking ----------------------------------------------------------------------------


def kubectl(state: Path, *arguments: str | Path, **options: Any) -> str:
    program = [state / "programs" / "kubectl", "--kubeconfig", state / "kubeconfig"]
    return run(*program, *arguments, **options)


def answers(state: Path) -> bool:
    """Whether the API server says that it is ready."""
    try:
        kubectl(state, "get", "--raw", "/readyz", "--request-timeout=5s")
    except (Missing, OSError):
        return False
    return True


def push(registry: str, login: dict[str, Any], images: Iterable[str]) -> None:
    """Push images of the engine to where the cluster finds Docker Hub's."""
    with tempfile.TemporaryDirectory() as configuration:
        docker = ["docker", "--config", configuration]
        who = ["--username", login["registry_username"], "--password-stdin", registry]
        run(*docker, "login", *who, input=login["registry_password"])
        for image in images:
            target = f"{registry}/{image if '/' in image else f'library/{image}'}"
            run("docker", "tag", image, target)
            try:
                run(*docker, "push", "--quiet", target)
            finally:
                run("docker", "rmi", target)
            say(f"{image} is pushed")


# --- giving ----------------------------------------------------------------------------


def new_login() -> dict[str, str]:
    """For a registry."""
    return {"registry_username": "preview", "registry_password": secrets.token_urlsafe(16)}


def htpasswd(login: dict[str, str]) -> str:
    """The file by which a registry knows a login. The password is random: few rounds do."""
    known = bcrypt.hashpw(login["registry_password"].encode(), bcrypt.gensalt(4))
    return f"{login['registry_username']}:{known.decode()}\n"


def write_host(folder: Path, name: str, address: str, login: dict[str, str] | None = None) -> None:
    """Let containerd ask a registry at an address of its own, with a login where one is given."""
    lines = [
        f'server = "http://{address}"',
        f'[host."http://{address}"]',
        'capabilities = ["pull", "resolve"]',
    ]
    if login:
        words = f"{login['registry_username']}:{login['registry_password']}"
        lines.append(f'[host."http://{address}".header]')
        lines.append(f'Authorization = "Basic {b64encode(words.encode()).decode()}"')
    (folder / name).mkdir(parents=True)
    (folder / name / "hosts.toml").write_text("\n".join(lines) + "\n")


def sign(pki: Path, name: str, subject: str, names: str) -> None:
    """A certificate by the cluster's own authority."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    signer = ["-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-days", "365"]
    made = ["-keyout", pki / f"{name}.key", "-out", pki / f"{name}.crt"]
    extensions = ["-addext", f"subjectAltName={names}"]
    extensions += ["-addext", "basicConstraints=critical,CA:FALSE"]
    run("openssl", "req", "-x509", *key, *signer, *made, "-subj", subject, *extensions)


def read_addons() -> list[dict[str, Any]]:
    return list(yaml.safe_load((SOURCES / "addons.yaml").read_text())["items"])


def install(state: Path, objects: list[dict[str, Any]]) -> None:
    """The addons, with what they need of this cluster; and wait for all but the first metrics."""
    pki = state / "pki"
    sign(pki, "wildcard", f"/CN={DOMAIN}", f"DNS:{DOMAIN},DNS:*.{DOMAIN}")
    wildcard = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": "wildcard", "namespace": "traefik"},
        "stringData": {
            "tls.crt": (pki / "wildcard.crt").read_text(),
            "tls.key": (pki / "wildcard.key").read_text(),
        },
    }
    items = [*objects, wildcard, *map(definition, TRAEFIK_KINDS)]
    listed = {"apiVersion": "v1", "kind": "List", "items": items}
    kubectl(state, "apply", "--server-side", "--filename", "-", input=json.dumps(listed))
    wait = partial(kubectl, state, "wait", "--timeout=90s")
    wait("--for=condition=Ready", "nodes", "--all")
    say("its nodes are ready")
    for namespace, name in (
        ("kube-system", "coredns"),
        ("traefik", "traefik"),
        ("local-path-storage", "local-path-provisioner"),
    ):
        wait("--for=condition=Available", "--namespace", namespace, f"deployment/{name}")
        say(f"{name} is available")


def definition(kind: str) -> dict[str, Any]:
    """One kind of Traefik's, of any form: Traefik itself says what it does not understand."""
    plural = kind.lower() + "s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    served = {"name": "v1alpha1", "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.traefik.io"},
        "spec": {
            "group": "traefik.io",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "scope": "Namespaced",
            "versions": [served | {"schema": {"openAPIV3Schema": schema}}],
        },
    }


def tell(rung: ModuleType, login: dict[str, str], ports: dict[str, int]) -> None:
    """Write down how the cluster is reached: from now on it is there."""
    ways = {
        "rung": rung.__name__,
        "kubeconfig": str(rung.STATE / "kubeconfig"),
        "kubectl": str(rung.STATE / "programs" / "kubectl"),
        "registry": f"localhost:{ports['registry']}",
        **login,
        "ingress_http": ports["http"],
        "ingress_https": ports["https"],
        "ingress_class": "traefik",
        "ingress_namespace": "traefik",
        "domain": DOMAIN,
        "ca": str(rung.STATE / "pki" / "ca.crt"),
        "host_address": rung.host_address(),
    }
    facts = rung.STATE / "facts.json"
    facts.touch(mode=0o600)
    facts.write_text(json.dumps(ways, indent=2))
    say("the cluster is ready")
