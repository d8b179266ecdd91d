"""The cluster that the tests stand on: real, whole, beside Docker, and gone without a trace."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kind
import node
import pytest
from clusters import SCRIPT, Cluster, cluster_script, eventually
from conftest import docker, free_port
from packages import needed
from rungs import version

BUSYBOX = "busybox:1.37"  # by the name that Docker Hub has it under
SERVE = "mkdir /www && echo hello >/www/index.html && exec httpd -f -p 8080 -h /www"


def pod(name: str, command: str, image: str = BUSYBOX, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": image, "command": ["sh", "-c", command]}
    container |= spec.pop("container", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
        }
        | spec,
    }


def service(name: str, app: str) -> dict[str, Any]:
    ports = [{"port": 80, "targetPort": 8080}]
    spec = {"selector": {"app": app}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def policy(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": {}} | spec,
    }


def ready(cluster: Cluster, namespace: str, *pods: dict[str, Any]) -> list[str]:
    """Start pods, and wait until they serve; their addresses."""
    cluster.apply(namespace, *pods)
    names = [f"pod/{one['metadata']['name']}" for one in pods]
    within = ["-n", namespace, *names]
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=60s", *within)
    listed = json.loads(cluster.kubectl("get", "-o", "json", *within))
    return [one["status"]["podIP"] for one in listed.get("items", [listed])]


@pytest.fixture(scope="module")
def busybox(cluster: Cluster) -> None:
    pushed = cluster_script("push", BUSYBOX)
    assert pushed.returncode == 0, pushed.stderr


def test_the_node_is_ready_and_nobody_is_let_in_without_a_certificate(cluster: Cluster) -> None:
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    conditions = [
        {one["type"]: one["status"] for one in each["status"]["conditions"]} for each in nodes
    ]
    assert nodes and all(each["Ready"] == "True" for each in conditions)
    (storage,) = json.loads(cluster.kubectl("get", "storageclasses", "-o", "json"))["items"]
    assert "storageclass.kubernetes.io/is-default-class" in storage["metadata"]["annotations"]
    port = int(re.findall(r"server: https://127.0.0.1:(\d+)", kubeconfig(cluster))[0])
    context = ssl.create_default_context(cafile=cluster.facts["ca"])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        connection.sendall(b"GET /api HTTP/1.0\r\n\r\n")
        # An API server of kind knows anonymous users, and forbids them this.
        refused = b" 403 " if cluster.facts.get("rung") == "kind" else b" 401 "
        assert refused in connection.recv(100)


def kubeconfig(cluster: Cluster) -> str:
    return Path(cluster.facts["kubeconfig"]).read_text()


def test_a_pushed_image_runs_by_login_only_finds_names_and_is_reached_by_its_host_name(
    cluster: Cluster, tmp_path: Path
) -> None:
    image = cluster.push(BUSYBOX, f"tests/{uuid.uuid4().hex[:8]}:1", tmp_path)
    with cluster.namespace() as namespace:
        host = f"{namespace}.{cluster.facts['domain']}"
        backend = {"service": {"name": "site", "port": {"number": 80}}}
        path = {"path": "/", "pathType": "Prefix", "backend": backend}
        ingress = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "web"},
            "spec": {
                "ingressClassName": cluster.facts["ingress_class"],
                "rules": [{"host": host, "http": {"paths": [path]}}],
                "tls": [{"hosts": [host]}],
            },
        }
        stranger = pod("stranger", SERVE, image)
        web = pod("web", SERVE, image, imagePullSecrets=[{"name": "registry"}])
        secret = cluster.pull_secret("registry")
        cluster.apply(namespace, stranger)
        waiting = "{.status.containerStatuses[0].state.waiting.reason}"
        asked = ["get", "-n", namespace, "pod", "stranger", "-o", f"jsonpath={waiting}"]
        eventually(lambda: cluster.kubectl(*asked) in ("ErrImagePull", "ImagePullBackOff"))
        cluster.apply(namespace, secret, service("site", "web"), ingress)
        ready(cluster, namespace, web)
        fetch = ["exec", "-n", namespace, "web", "--", "wget", "-q", "-T", "5", "-O", "-"]
        for name in ("site", f"site.{namespace}.svc.cluster.local"):
            # That a pod is ready gets to kube-proxy a moment later.
            eventually(lambda name=name: cluster.kubectl(*fetch, f"http://{name}/") == "hello")
        eventually(lambda: cluster.get(host) == (200, "hello\n"))
        assert cluster.get(host, tls=True) == (200, "hello\n")
        assert cluster.get(f"other-{host}")[0] == 404


def test_a_volume_is_made_for_a_claim_and_outlives_its_pod(cluster: Cluster, busybox: None) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    mounted = {"container": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}}
    once: dict[str, Any] = {"volumes": [volume], "restartPolicy": "Never"} | mounted
    with cluster.namespace() as namespace:
        cluster.apply(namespace, claim, pod("writer", "echo kept >/data/file", **once))
        done = "--for=jsonpath={.status.phase}=Succeeded"
        cluster.kubectl("wait", "-n", namespace, done, "pod/writer", "--timeout=60s")
        cluster.apply(namespace, pod("reader", "cat /data/file", **once))
        cluster.kubectl("wait", "-n", namespace, done, "pod/reader", "--timeout=60s")
        assert cluster.kubectl("logs", "-n", namespace, "reader") == "kept"


def test_metrics_are_served(cluster: Cluster) -> None:
    node = cluster.kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    eventually(lambda: node in cluster.kubectl("top", "nodes", "--no-headers"))
    eventually(lambda: "coredns" in cluster.kubectl("top", "pods", "-n", "kube-system"))


def reaches(cluster: Cluster, namespace: str, name: str, address: str) -> bool:
    fetch = ["wget", "-q", "-T", "2", "-O", "-", f"http://{address}:8080/"]
    said = cluster.kubectl("exec", "-n", namespace, name, "--", *fetch, check=False)
    assert said == "hello" or "timed out" in said, said
    return said == "hello"


def test_a_default_deny_holds_from_a_pods_first_packet_and_an_allowed_flow_passes(
    cluster: Cluster, busybox: None
) -> None:
    with cluster.namespace() as namespace, cluster.namespace() as elsewhere:
        pods = [pod(name, SERVE) for name in ("server", "friend", "stranger")]
        server, friend, stranger = ready(cluster, namespace, *pods)
        ready(cluster, elsewhere, pod("friend", SERVE))

        def who_reaches() -> list[bool]:
            every = [(namespace, "friend"), (namespace, "stranger"), (elsewhere, "friend")]
            return [reaches(cluster, *one, server) for one in every]

        assert who_reaches() == [True, True, True]

        cluster.apply(namespace, policy("deny", policyTypes=["Ingress", "Egress"]))
        eventually(lambda: not reaches(cluster, namespace, "friend", server), 10)
        assert who_reaches() == [False, False, False]

        # A pod that sends with its first instruction is not faster than its policies.
        hasty = f"wget -q -T 3 -O - http://{friend}:8080/ || echo refused"
        cluster.apply(namespace, pod("hasty", hasty, restartPolicy="Never"))
        done = "--for=jsonpath={.status.phase}=Succeeded"
        cluster.kubectl("wait", "-n", namespace, done, "pod/hasty", "--timeout=60s")
        said = cluster.kubectl("logs", "-n", namespace, "hasty").splitlines()
        assert "refused" in said and "hello" not in said

        friends = [{"podSelector": {"matchLabels": {"app": "friend"}}}]
        servers = [{"podSelector": {"matchLabels": {"app": "server"}}}]
        ports = [{"port": 8080}]
        cluster.apply(
            namespace,
            policy("in", ingress=[{"from": friends, "ports": ports}], policyTypes=["Ingress"]),
            policy("out", egress=[{"to": servers, "ports": ports}], policyTypes=["Egress"]),
        )
        eventually(lambda: reaches(cluster, namespace, "friend", server), 10)
        assert who_reaches() == [True, False, False]
        assert not reaches(cluster, namespace, "friend", stranger)


def test_policies_know_namespaces_address_ranges_and_the_names_of_ports(
    cluster: Cluster, busybox: None
) -> None:
    with cluster.namespace() as namespace, cluster.namespace() as elsewhere:
        serving = {"ports": [{"name": "web", "containerPort": 8080}]}
        pods = [pod("server", SERVE, container=serving), pod("other", SERVE), pod("client", SERVE)]
        server, other = ready(cluster, namespace, *pods)[:2]
        ready(cluster, elsewhere, pod("client", SERVE))
        theirs = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": elsewhere}}}
        block = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [f"{other}/32"]}}
        cluster.apply(
            namespace,
            policy(
                "in",
                podSelector={"matchLabels": {"app": "server"}},
                ingress=[{"from": [theirs], "ports": [{"port": "web"}]}],
                policyTypes=["Ingress"],
            ),
            policy(
                "out",
                podSelector={"matchLabels": {"app": "client"}},
                egress=[{"to": [block]}],
                policyTypes=["Egress"],
            ),
        )
        eventually(lambda: not reaches(cluster, namespace, "client", server), 10)
        assert reaches(cluster, elsewhere, "client", server)
        assert reaches(cluster, elsewhere, "client", other)
        assert not reaches(cluster, namespace, "client", other)  # excepted
        assert reaches(cluster, namespace, "server", other)  # no policy for what it sends


def test_pod_security_refuses_what_a_namespace_does_not_allow(cluster: Cluster) -> None:
    level = {"pod-security.kubernetes.io/enforce": "baseline"}
    with cluster.namespace(**level) as namespace:
        listed = json.dumps(pod("host", "true", hostNetwork=True))
        said = cluster.kubectl("apply", "-n", namespace, "-f", "-", input=listed, check=False)
        assert 'violates PodSecurity "baseline' in said


def test_containers_of_docker_work_beside_it(cluster: Cluster) -> None:
    name, port = f"beside-{uuid.uuid4().hex[:8]}", free_port()
    docker("network", "create", name)
    try:
        published = f"127.0.0.1:{port}:8080"
        run = ["run", "--detach", "--name", name, "--network", name, "--publish", published]
        docker(*run, BUSYBOX, "sh", "-c", SERVE)
        asked = ["run", "--rm", "--network", name, BUSYBOX, "wget", "-q", "-T", "5", "-O", "-"]
        eventually(lambda: docker(*asked, f"http://{name}:8080/") == "hello", 20)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
            assert page.read() == b"hello\n"
    finally:
        docker("rm", "--force", name, check=False)
        docker("network", "rm", name, check=False)


def traces() -> Iterator[str]:
    """What a node of ours could leave on this host, one line each."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().replace("\0", " ")
            words += (process / "cgroup").read_text()
            start = (process / "stat").read_text().rpartition(")")[2].split()[19]
        except (FileNotFoundError, ProcessLookupError):
            continue
        ours = r"kube|etcd |network-policies |docker-registry |.*/run/(node|containerd-programs)\b"
        if "ephemera-preview-cluster" in words or re.match(ours, words):
            yield f"process {process.name} {start} {words}"
    for line in Path("/proc/mounts").read_text().splitlines():
        if not re.search(r"docker|overlay2|buildkit|\bnsfs\b", line):
            yield f"mount {line}"
    for interface in Path("/sys/class/net").iterdir():
        if interface.name.startswith(("ephemera-node", "pods", "kube", "cni")):
            yield f"interface {interface.name}"
    filters = subprocess.run(
        [needed("nft", "nftables"), "list", "ruleset"], capture_output=True, text=True, check=True
    )
    for line in filters.stdout.splitlines():
        if re.search(r"kube|KUBE|CNI|network-policies|10\.21[789]\.", line):
            yield f"rule {line.strip()}"
    for root in Path("/sys/fs/cgroup").glob("**/ephemera-preview-cluster"):
        yield f"cgroup {root}"
    for name in ("lib/ephemera-preview-cluster", "lib/kubelet", "lib/cni", "log/pods"):
        if Path("/var", name).exists():
            yield f"path {name}"
    for setting in ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"):
        yield f"setting {setting} {(Path('/proc/sys') / setting).read_text().strip()}"


def made_by(rung: str, cluster: Cluster) -> None:
    """A test that removes the cluster is of one rung only."""
    if os.environ.get("KUBECONFIG") or cluster.facts["rung"] != rung:
        pytest.skip(f"this cluster is not one of {rung}.py")


def down() -> set[str]:
    """Remove the cluster; what can be seen then."""
    removed = cluster_script("down")
    assert removed.returncode == 0, removed.stderr
    return set(traces())


def test_down_removes_all_however_far_the_cluster_came_and_whatever_was_killed(
    cluster: Cluster,
) -> None:
    made_by("node", cluster)
    state = Path("/var/lib/ephemera-preview-cluster")
    before = down()
    assert not [line for line in before if not line.startswith(("mount", "setting"))]

    starting = subprocess.Popen([SCRIPT, "up"], stderr=subprocess.DEVNULL)
    eventually((state / "logs" / "kubelet.log").exists)
    starting.send_signal(signal.SIGKILL)
    starting.wait()
    time.sleep(1)  # the kubelet is busy now
    assert set(traces()) - before
    assert down() == before

    assert cluster_script("up").returncode == 0
    assert any("kube-apiserver" in line for line in traces())
    holder = int((state / "pid").read_text())
    lines = [line.split() for line in traces() if line.startswith("process")]
    programs = {words[3]: int(words[1]) for words in lines}
    for name in ("containerd", "kube-apiserver"):
        os.kill(programs[name], signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{holder}").exists(), 20)
    left = set(traces()) - before
    assert not [line for line in left if line.startswith(("process", "mount", "rule"))]
    assert cluster_script("up").returncode == 0  # on what the killed one left
    assert "Ready" in Cluster().kubectl("get", "nodes")
    assert down() == before
    began = time.monotonic()
    assert cluster_script("up").returncode == 0  # for the tests that follow
    # Under 20 s where nothing else is at work, and tests of the other target may be.
    assert time.monotonic() - began < 60


def of_kind() -> set[str]:
    """What there is of a cluster by kind, volumes included."""
    named = ["--quiet", "--filter"]
    containers = f"name=^({kind.CONTROL_PLANE}|{kind.NODE}|{kind.REGISTRY})$"
    found = docker("ps", "--all", *named, containers).split()
    mounts = ["inspect", "--format", "{{range .Mounts}}{{.Name}} {{end}}", *found]
    volumes = docker(*mounts).split() if found else []
    networks = docker("network", "ls", *named, f"name=^{kind.NAME}$").split()
    return {*found, *volumes, *networks, *filter(os.path.exists, [str(kind.STATE)])}


def test_down_removes_all_of_a_cluster_by_kind_however_far_it_came(cluster: Cluster) -> None:
    made_by("kind", cluster)
    there = of_kind()
    assert len(there) >= 8  # three containers, each with a volume; the network, the folder

    def removed() -> None:
        answer = cluster_script("down")
        assert answer.returncode == 0, answer.stderr
        assert not of_kind()
        assert not there & set(docker("volume", "ls", "--quiet").split())

    removed()
    starting = subprocess.Popen([SCRIPT, "up"], stderr=subprocess.DEVNULL)
    eventually(lambda: docker("ps", "--quiet", "--filter", f"name=^{kind.NODE}$"))
    starting.send_signal(signal.SIGKILL)
    starting.wait()
    there = of_kind()
    removed()
    assert cluster_script("up").returncode == 0  # for the tests that follow


def test_a_kind_that_cannot_pull_its_image_leads_to_the_next_rung(
    cluster: Cluster, tmp_path: Path
) -> None:
    made_by("node", cluster)  # so its programs are built
    if not shutil.which("kind"):
        install = [str(node.go()), "install", "sigs.k8s.io/kind@v0.31.0"]
        subprocess.run(install, env=os.environ | {"GOBIN": str(tmp_path)}, check=True)
    image = "ephemera-preview.invalid/node:1"
    known = {"PATH": f"{os.environ['PATH']}:{tmp_path}", "KIND_NODE_IMAGE": image}
    done = subprocess.run(
        [SCRIPT, "build"], env=os.environ | known, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert f"Not by kind: {image} cannot be pulled (" in done.stderr
    assert "nothing is built" not in done.stderr


def test_a_node_by_kind_is_of_the_version_that_ours_is_of() -> None:
    assert kind.NODE_IMAGE.rpartition(".")[0].endswith(version().rpartition(".")[0])
