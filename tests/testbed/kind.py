"""The rung for a machine with kind and a Docker engine that can pull: a cluster by kind.

Its pods run on a node apart from the API server: kind's network policies hold between nodes and
between pods, but not from a pod to what listens on its own node. Beside the nodes there is a
registry, on a network of their own. The network bears in a label whose cluster it is; it comes
first and goes last.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gomodules import CACHE
from pulling import docker, pull
from rungs import (
    INGRESS_PORTS,
    Missing,
    htpasswd,
    new_login,
    push,
    read_addons,
    run,
    say,
    write_host,
)

STATE = CACHE / "kind"
# Of the newest 1.34 that a release of kind names.
NODE_IMAGE = os.environ.get("KIND_NODE_IMAGE") or "kindest/node:v1.34.3"
REGISTRY_IMAGE = "registry:3"
# Of Docker Hub all of them, so that one way serves: the engine's copy is pushed.
ADDONS = {"traefik": "traefik:v3.7", "metrics-server": "rancher/mirrored-metrics-server:v0.8.0"}
NAME = "ephemera-preview"  # of the cluster, and of the network
CONTROL_PLANE, NODE, REGISTRY = (
    f"{NAME}-{part}" for part in ("control-plane", "worker", "registry")
)
LABEL = "ephemera-preview.state"


def obstacles() -> list[str]:
    """What is missing of the images is pulled."""
    trouble = obstacle()
    return [f"Not by kind: {trouble}."] if trouble else []


def obstacle() -> str:
    if not shutil.which("kind"):
        return "it is not on PATH"
    if not shutil.which("docker") or docker("version").returncode:
        return "no Docker engine answers"
    if owner() not in ("", str(STATE)):
        return f"the engine has a cluster {NAME} already, whose user keeps it in {owner()}"
    for image in (NODE_IMAGE, REGISTRY_IMAGE, *ADDONS.values()):
        if docker("image", "inspect", image).returncode:
            say(f"pulling {image} …")
            trouble = pull(image)
            if trouble:
                return f"{image} cannot be pulled ({trouble.splitlines()[-1]})"
    return ""


def build() -> None:
    """Nothing: who had no obstacles has the images."""


# --- up --------------------------------------------------------------------------------


def start() -> tuple[dict[str, str], dict[str, int]]:
    login = new_login()
    (STATE / "programs").mkdir(parents=True, mode=0o700)
    STATE.chmod(0o700)
    (STATE / "htpasswd").write_text(htpasswd(login))
    run("docker", "network", "create", "--label", f"{LABEL}={STATE}", NAME)
    registry = f"localhost:{start_registry()}"
    # Inside the node the registry has another name, but images are called by the one on the host.
    inside_node = f"{REGISTRY}:5000"
    write_host(STATE / "registries", registry, inside_node)
    write_host(STATE / "registries", "docker.io", inside_node, login)
    say("starting the nodes …")
    with ThreadPoolExecutor() as pool:
        nodes = pool.submit(start_nodes)
        push(registry, login, ADDONS.values())
        nodes.result()
    run("docker", "cp", f"{CONTROL_PLANE}:/etc/kubernetes/pki", STATE / "pki")
    take_kubectl()
    ports = {name: published(NODE, port) for name, port in INGRESS_PORTS.items()}
    return login, ports | {"registry": published(REGISTRY, 5000)}


def start_registry() -> int:
    """Its port on the host's loopback."""
    settings = {
        "REGISTRY_AUTH": "htpasswd",
        "REGISTRY_AUTH_HTPASSWD_REALM": "cluster",
        "REGISTRY_AUTH_HTPASSWD_PATH": "/htpasswd",
        "REGISTRY_STORAGE_DELETE_ENABLED": "true",
        "OTEL_TRACES_EXPORTER": "none",
    }
    options = [f"--env={name}={value}" for name, value in settings.items()]
    options += ["--volume", f"{STATE}/htpasswd:/htpasswd:ro", "--publish", "127.0.0.1::5000"]
    named = ["--detach", "--name", REGISTRY, "--network", NAME]
    run("docker", "run", *named, *options, REGISTRY_IMAGE)
    return published(REGISTRY, 5000)


def start_nodes() -> None:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    mounted = {"hostPath": str(STATE / "registries"), "containerPath": "/etc/containerd/certs.d"}
    configuration = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "containerdConfigPatches": [f'[{cri}.registry]\nconfig_path = "/etc/containerd/certs.d"'],
        "nodes": [
            {"role": "control-plane", "image": NODE_IMAGE},
            {
                "role": "worker",
                "image": NODE_IMAGE,
                "extraMounts": [mounted | {"readOnly": True}],
                "extraPortMappings": [
                    {"containerPort": port, "listenAddress": "127.0.0.1"}
                    for port in INGRESS_PORTS.values()
                ],
            },
        ],
    }
    run(
        *("kind", "create", "cluster", "--name", NAME),
        *("--kubeconfig", STATE / "kubeconfig", "--config", "-"),
        input=json.dumps(configuration),  # JSON is YAML
        env=os.environ
        | {"KIND_EXPERIMENTAL_PROVIDER": "docker", "KIND_EXPERIMENTAL_DOCKER_NETWORK": NAME},
        close_fds=False,  # it holds the lock, too: who comes after a killed `up` waits for it
    )
    say("the API server answers")


def take_kubectl() -> None:
    """The node's where it runs here, so that both are of one version."""
    kubectl = STATE / "programs" / "kubectl"
    if sys.platform == "linux":
        run("docker", "cp", "--follow-link", f"{NODE}:/usr/bin/kubectl", kubectl)
    else:
        found = shutil.which("kubectl")
        if not found:
            raise Missing("kubectl is missing. Install it.")
        kubectl.symlink_to(found)


def published(container: str, port: int) -> int:
    """The port of the host's loopback that leads to a container's."""
    return int(run("docker", "port", container, f"{port}/tcp").rpartition(":")[2])


def addons() -> list[dict[str, Any]]:
    """As addons.yaml has them, but each program from an image of its own."""
    objects = read_addons()
    for pod in (one["spec"]["template"]["spec"] for one in objects if one["kind"] == "Deployment"):
        (container,) = pod["containers"]
        container["image"] = ADDONS[container["name"]]
        del container["command"], container["imagePullPolicy"]
        for place, key in ((pod, "volumes"), (container, "volumeMounts")):
            place[key] = [one for one in place[key] if one["name"] != "programs"]
        # A kubelet of kind signs its own certificate.
        container["args"] = [
            "--kubelet-insecure-tls" if "--kubelet-certificate-authority" in word else word
            for word in container["args"]
        ]
    return objects


def host_address() -> str:
    gateway = "{{(index .IPAM.Config 0).Gateway}}"
    return run("docker", "network", "inspect", "--format", gateway, NAME).strip()


# --- what runs -------------------------------------------------------------------------


def runs() -> bool:
    if not STATE.exists() or not shutil.which("docker"):
        return False
    return docker("inspect", "--format", "{{.State.Running}}", NODE).stdout.strip() == "true"


def inside(command: list[str]) -> subprocess.CompletedProcess[str]:
    return docker("exec", NODE, *command)


def owner() -> str:
    """The folder that the engine's cluster of this name is kept in, if it has one."""
    named = ["--filter", f"name=^{NAME}$", "--format", f'{{{{.Label "{LABEL}"}}}}']
    return run("docker", "network", "ls", *named).strip()


def remove() -> bool:
    there = STATE.exists()
    if not there and not (shutil.which("docker") and docker("version").returncode == 0):
        return False
    if owner() == str(STATE):
        there = True
        run("docker", "rm", "--force", "--volumes", CONTROL_PLANE, NODE, REGISTRY)
        run("docker", "network", "rm", NAME)
    if STATE.exists():
        shutil.rmtree(STATE)
    return there
