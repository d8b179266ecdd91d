# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands between the collection and an API server, at a real one."""

from __future__ import annotations

import base64
import functools
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _diagnose,
    _docker,
    _kubeconfig,
    _kubernetes,
    _kubernetes_apply,
    _kubernetes_lease,
    _kubernetes_pods,
    _kubernetes_teardown,
    _lease,
)
from ansible_collections.ephemera.preview.plugins.module_utils._names import HOOK, PREFIX
from clusters import Account, Cluster, eventually


@pytest.fixture(scope="module")
def api(account: Account) -> _kubernetes.Cluster:
    return _kubernetes.Cluster(str(account.kubeconfig))


@pytest.fixture
def name(cluster: Cluster) -> Iterator[str]:
    """A preview's name, whose namespace is gone afterwards."""
    mine = f"t{uuid.uuid4().hex[:8]}-pr-1"
    yield mine
    cluster.kubectl("delete", "namespace", mine, "--ignore-not-found", "--timeout=60s")


def writer(name: str, run: str, kind: str = "up", **more: Any) -> _kubernetes_lease.Writer:
    labels = {PREFIX + "name": name, PREFIX + "owner": more.pop("owner", "mine")}
    return _kubernetes_lease.Writer(name, labels, run, kind, "h/1 1 1", **more)


def seen(api: _kubernetes.Cluster, name: str) -> dict[str, Any]:
    return dict(_kubernetes.observe(api, name)["previews"][name])


def test_of_what_does_not_exist_the_shape_is_that_of_a_docker_host(
    api: _kubernetes.Cluster, name: str
) -> None:
    nothing = seen(api, name)
    assert nothing.pop("ending") is False
    assert nothing == _docker.empty(name)


def test_who_takes_the_lease_makes_the_namespace_and_another_waits(
    api: _kubernetes.Cluster, name: str
) -> None:
    assert (
        _kubernetes_lease.hold(api, writer(name, "a"), "take", 60, '{"status": "building"}') == ""
    )
    found = seen(api, name)
    assert found["folder"] and found["state"] == {"status": "building"}
    lease = _lease.parse(found["lease"])
    assert lease and (lease.owner, lease.kind) == ("a", "up")
    now = _kubernetes.observe(api, name)["now"]
    assert 50 < lease.until - now <= 60
    with pytest.raises(_kubernetes_lease.Held) as held:
        _kubernetes_lease.hold(api, writer(name, "b"), "take", 60)
    assert held.value.line == found["lease"]
    assert _kubernetes_lease.hold(api, writer(name, "a"), "keep", 60, '{"status": "ready"}') == ""
    _kubernetes_lease.drop(api, writer(name, "b"))
    assert seen(api, name)["lease"], "it is not b's to drop"
    _kubernetes_lease.drop(api, writer(name, "a"))
    assert seen(api, name)["lease"] == "" and seen(api, name)["state"] == {"status": "ready"}


def test_a_lease_is_taken_over_where_its_run_is_gone_or_goes_down(
    api: _kubernetes.Cluster, name: str
) -> None:
    _kubernetes_lease.hold(api, writer(name, "a"), "take", 600)
    assert _kubernetes_lease.hold(api, writer(name, "b", dead="a"), "take", -1) == "a"
    assert _kubernetes_lease.hold(api, writer(name, "c"), "take", 600) == "b", "it has run out"
    assert _kubernetes_lease.hold(api, writer(name, "d", "down"), "take", 600) == "c"
    for late in ("take", "keep"):
        with pytest.raises(_kubernetes_lease.Held):
            _kubernetes_lease.hold(api, writer(name, "c"), late, 60)


def test_of_many_at_once_one_gets_it(api: _kubernetes.Cluster, name: str) -> None:
    def attempt(run: str) -> str:
        try:
            _kubernetes_lease.hold(api, writer(name, run), "take", 600)
        except _kubernetes_lease.Held:
            return ""
        return run

    with ThreadPoolExecutor(8) as pool:
        got = [run for run in pool.map(attempt, [f"run{n}" for n in range(16)]) if run]
    lease = _lease.parse(seen(api, name)["lease"])
    assert lease and got == [lease.owner]


def test_a_namespace_of_somebody_else_is_left_alone(
    api: _kubernetes.Cluster, cluster: Cluster, name: str
) -> None:
    cluster.kubectl("create", "namespace", name)
    (foreign,) = seen(api, name)["foreign"]
    assert foreign == {"kind": "namespace", "name": name, "labels": {}}
    for kind in ("up", "down"):
        with pytest.raises(_kubernetes.ClusterError, match=f"namespace {name} is somebody else's"):
            _kubernetes_lease.hold(api, writer(name, "a", kind), "take", 60)
    cluster.kubectl("label", "namespace", name, f"{PREFIX}name={name}", f"{PREFIX}owner=theirs")
    with pytest.raises(_kubernetes.ClusterError, match="'theirs', and would be 'mine'"):
        _kubernetes_lease.hold(api, writer(name, "a"), "take", 60)


def test_what_is_being_removed_is_nobodys(
    api: _kubernetes.Cluster, cluster: Cluster, name: str
) -> None:
    _kubernetes_lease.hold(api, writer(name, "a"), "take", 600)
    metadata = {"name": "held", "finalizers": ["example.com/hold"]}
    cluster.apply(name, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    eventually(lambda: seen(api, name)["ending"])
    for action in ("take", "keep"):
        with pytest.raises(_kubernetes_lease.Held):
            _kubernetes_lease.hold(api, writer(name, "a"), action, 60)
    free = '[{"op": "remove", "path": "/metadata/finalizers"}]'
    cluster.kubectl("patch", "configmap", "held", "-n", name, "--type=json", "-p", free)
    eventually(lambda: not seen(api, name)["folder"])
    assert _kubernetes_lease.hold(api, writer(name, "b", "down"), "take", 60) == ""
    with pytest.raises(_kubernetes_lease.Held):
        _kubernetes_lease.hold(api, writer(name, "b"), "keep", 60)


def test_a_preview_goes_with_all_it_holds_and_without_waiting_for_its_pods(
    api: _kubernetes.Cluster, cluster: Cluster, name: str
) -> None:
    assert _kubernetes_teardown.teardown(api, name, "mine", 5) == ([], [], [], [])
    _kubernetes_lease.hold(api, writer(name, "a"), "take", 600)
    labels = writer(name, "a").labels
    slow = {"name": "main", "image": "busybox:1.37", "command": ["sleep", "600"]}
    metadata = {"name": "slow", "labels": dict(labels, **{PREFIX + "service": "web"})}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
    cluster.apply(
        name, pod | {"spec": {"containers": [slow], "terminationGracePeriodSeconds": 300}}
    )
    eventually(lambda: [c["state"] for c in seen(api, name)["containers"]] == ["running"])
    there = [f"namespace {name}", "pod slow"]
    checked = _kubernetes_teardown.teardown(api, name, "mine", 5, check=True)
    assert checked == (there, there, [], []) and seen(api, name)["folder"]
    others = _kubernetes_teardown.teardown(api, name, "theirs", 5)
    assert others == ([], [], [], [f"namespace {name}"]) and seen(api, name)["folder"]
    assert _kubernetes_teardown.teardown(api, name, "mine", 30) == (there, [], [], [])
    assert not seen(api, name)["folder"]


def test_what_holds_a_preview_that_goes_is_named(
    api: _kubernetes.Cluster, cluster: Cluster, name: str
) -> None:
    _kubernetes_lease.hold(api, writer(name, "a"), "take", 600)
    metadata = {"name": "held", "finalizers": ["example.com/hold"]}
    cluster.apply(name, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})
    # The namespace controller looks at what is left after some seconds.
    torn = _kubernetes_teardown.teardown(api, name, "mine", 25)
    assert torn.left == [f"namespace {name}"]
    assert any("example.com/hold in 1 resource instances" in line for line in torn.held), torn
    free = '[{"op": "remove", "path": "/metadata/finalizers"}]'
    cluster.kubectl("patch", "configmap", "held", "-n", name, "--type=json", "-p", free)
    assert _kubernetes_teardown.teardown(api, name, "mine", 30).left == []


WEB = {PREFIX + "service": "web"}
POD = {"spec": {"containers": [{"name": "main", "image": "busybox:1.37"}]}}
PODS = {
    "replicas": 0,
    "selector": {"matchLabels": WEB},
    "template": POD | {"metadata": {"labels": WEB}},
}
NOWHERE = {"podSelector": {"matchLabels": {"of": "nobody"}}}
BACKEND = {"service": {"name": "web", "port": {"number": 80}}}
PATH = {"path": "/", "pathType": "Prefix", "backend": BACKEND}
RULE = {"host": "web.test", "http": {"paths": [PATH]}}
# Of each kind an object as it is applied, and what somebody else makes of it.
CHANGED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ResourceQuota": ("v1", {"spec": {"hard": {"pods": "1"}}}, {"spec": {"hard": {"pods": "2"}}}),
    "LimitRange": (
        "v1",
        {"spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}},
        {"spec": {"limits": []}},
    ),
    "Secret": ("v1", {"data": {"KEY": "b25l"}}, {"data": {"KEY": "dHdv"}}),
    "ConfigMap": ("v1", {"data": {"key": "one"}}, {"data": {"key": "two"}}),
    "Service": (
        "v1",
        {"spec": {"selector": WEB, "clusterIP": "None"}},
        {"spec": {"selector": {"app": "theirs"}}},
    ),
    "Deployment": ("apps/v1", {"spec": PODS}, {"spec": {"replicas": 1}}),
    "StatefulSet": (
        "apps/v1",
        {"spec": PODS | {"serviceName": "web"}},
        {"metadata": {"labels": {PREFIX + "owner": "theirs"}}},
    ),
    "HorizontalPodAutoscaler": (
        "autoscaling/v2",
        {
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                "maxReplicas": 2,
            }
        },
        {"spec": {"maxReplicas": 9}},
    ),
    "NetworkPolicy": (
        "networking.k8s.io/v1",
        {"spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [NOWHERE]}]}},
        {"spec": {"egress": [{}]}},
    ),
    "Ingress": (
        "networking.k8s.io/v1",
        {
            "metadata": {"annotations": {"example.com/password": "asked"}},
            "spec": {"rules": [RULE]},
        },
        {"metadata": {"annotations": {"example.com/password": None}}},
    ),
    "Middleware": (
        "traefik.io/v1alpha1",
        {"spec": {"basicAuth": {"secret": "auth"}}},
        {"spec": {"basicAuth": {"secret": "theirs"}}},
    ),
    "IngressRoute": (
        "traefik.io/v1alpha1",
        {"spec": {"routes": [{"kind": "Rule", "match": "Host(`a.test`)"}]}},
        {"spec": {"routes": [{"kind": "Rule", "match": "Host(`b.test`)"}]}},
    ),
}


def test_what_somebody_else_changes_of_what_was_applied_is_seen(
    api: _kubernetes.Cluster, cluster: Cluster, name: str
) -> None:
    _kubernetes_lease.hold(api, writer(name, "a"), "take", 600)
    metadata = {"name": "web", "namespace": name, "labels": dict(writer(name, "a").labels)}
    level = {"pod-security.kubernetes.io/enforce": "baseline"}
    space = {"name": name, "labels": metadata["labels"] | level}
    objects = [
        {"apiVersion": version, "kind": kind}
        | wanted
        | {"metadata": metadata | wanted.get("metadata", {})}
        for kind, (version, wanted, _theirs) in CHANGED.items()
    ]
    objects.append({"apiVersion": "v1", "kind": "Namespace", "metadata": space})
    assert _kubernetes_apply.apply(api, objects)
    applied = seen(api, name)["applied"]
    names = {f"{each['kind']}/{each['metadata']['name']}" for each in objects}
    assert set(applied) == names
    # Our own lease is not in the way, nor is what controllers and others add.
    _kubernetes_lease.hold(api, writer(name, "a"), "keep", 600, '{"status": "ready"}')
    cluster.kubectl("annotate", "ingress,service,deployment", "web", "-n", name, "theirs=added")
    assert not _kubernetes_apply.apply(api, objects) and seen(api, name)["applied"] == applied

    for kind, (_version, _wanted, theirs) in CHANGED.items():
        patch = ["--type=merge", "-p", json.dumps(theirs)]
        cluster.kubectl("patch", kind, "web", "-n", name, *patch)
    cluster.kubectl("label", "namespace", name, *(f"{each}-" for each in level))
    now = seen(api, name)["applied"]
    assert {each for each in names if now.get(each) == applied[each]} == set()
    assert _kubernetes_apply.apply(api, objects) and seen(api, name)["applied"] == applied

    cluster.kubectl("delete", ",".join(CHANGED), "web", "-n", name)
    assert set(seen(api, name)["applied"]) == {f"Namespace/{name}"}
    _kubernetes_apply.apply(api, objects)
    assert seen(api, name)["applied"] == applied


def test_what_is_refused_takes_nothing_away(api: _kubernetes.Cluster, name: str) -> None:
    mine = writer(name, "a")
    _kubernetes_lease.hold(api, mine, "take", 600)

    def apply(**more: Any) -> str:
        labels = {PREFIX + "service": "web"}
        pod = {"containers": [{"name": "main", "image": "busybox:1.37"}], **more}
        spec = {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        }
        metadata = {"name": "web", "namespace": name, "labels": dict(mine.labels)}
        thing = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata}
        if "serviceName" in more:
            spec["serviceName"] = pod.pop("serviceName")
        _kubernetes_apply.apply(api, [thing | {"spec": spec}])
        return str(api.ask("GET", _kubernetes.place(thing)).body["metadata"]["uid"])

    first = apply()
    aliases = [{"ip": "10.0.0.1", "hostnames": ["my_host"]}]
    with pytest.raises(_kubernetes.ClusterError, match="my_host"):
        apply(hostAliases=aliases)
    assert apply() == first
    # What no change leads to is made anew.
    assert apply(serviceName="web") != first


MIGRATE = {HOOK: "migrate"}


def running(command: str) -> dict[str, Any]:
    main = {"name": "main", "image": "busybox:1.37", "command": ["sh", "-c", command]}
    # What has to be killed is, without a wait.
    return {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [main]}


def a_job(name: str, command: str) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "migrate",
            "namespace": name,
            "labels": dict(writer(name, "a").labels),
        },
        "spec": {
            "backoffLimit": 0,
            "template": {"metadata": {"labels": MIGRATE}, "spec": running(command)},
        },
    }


def test_a_one_off_is_not_judged_by_a_pod_of_the_run_before(
    api: _kubernetes.Cluster, cluster: Cluster, name: str
) -> None:
    _kubernetes_lease.hold(api, writer(name, "a"), "take", 600)
    before = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": MIGRATE}}
    cluster.apply(name, before | {"spec": running("exit 0")})
    ended = _kubernetes_apply.run_job(api, [a_job(name, "exit 7")], 60, ())
    assert ended and ended.code == 7


def test_the_time_of_a_one_off_counts_from_its_start(
    api: _kubernetes.Cluster, cluster: Cluster, name: str
) -> None:
    _kubernetes_lease.hold(api, writer(name, "a"), "take", 600)
    job = a_job(name, "echo begun; sleep 1; exit 7")
    # Without it the pod cannot start.
    late = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}}
    spec = job["spec"]["template"]["spec"]
    spec["volumes"] = [{"name": "late", "configMap": {"name": "late"}}]
    spec["containers"][0]["volumeMounts"] = [{"name": "late", "mountPath": "/late"}]
    with ThreadPoolExecutor(1) as pool:
        running_to_end = pool.submit(_kubernetes_apply.run_job, api, [job], 4, ())
        time.sleep(5)
        cluster.apply(name, late)
        ended = running_to_end.result(60)
    assert ended and (ended.code, ended.log, ended.late) == (7, ["begun"], False)
    ended = _kubernetes_apply.run_job(api, [a_job(name, "echo begun; sleep 60")], 3, ())
    assert ended and (ended.log, ended.late) == (["begun"], True)


def test_a_one_off_that_another_has_ended_is_not_waited_for(
    api: _kubernetes.Cluster, cluster: Cluster, name: str
) -> None:
    _kubernetes_lease.hold(api, writer(name, "a"), "take", 600)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(_kubernetes_apply.run_job, api, [a_job(name, "sleep 600")], 600, ())
        asked = ["get", "pods", "-n", name, "-o", "jsonpath={.items[*].status.phase}"]
        eventually(lambda: cluster.kubectl(*asked) == "Running")
        # Of the pod, too, nothing is left to be seen.
        cluster.kubectl("delete", "pods", "-n", name, "--all", "--force", "--wait=false")
        cluster.kubectl("delete", "job", "migrate", "-n", name)
        cluster.apply(name, a_job(name, "sleep 600"))
        ended = first.result(30)
    assert ended and ended.code is None
    assert not cluster.kubectl(
        "get", "job", "migrate", "-n", name, "-o", "jsonpath={.metadata.deletionTimestamp}"
    ), "that of who has taken over"


DATA = {"name": "data", "mountPath": "/data"}
# What the volumes of these services are to be of. One of them is nobody's.
CLASSES: dict[str, dict[str, Any]] = {
    "classless": {},
    "unmade": {"provisioner": "example.com/nobody"},
    "failing": {"provisioner": "rancher.io/local-path", "parameters": {"nodePath": "/nowhere"}},
}
SICK: dict[str, tuple[dict[str, Any], str, str]] = {
    "denied": ({"image": "$REGISTRY/never/pushed:1"}, "pull_denied", "knows no such image"),
    "missing": ({"image": "busybox:0.0.1"}, "pull_missing", "has no such tag"),
    "exits": (
        {"command": ["sh", "-c", "echo KeyError: \\'COLOUR\\'; exit 3"]},
        "exits",
        "exits at start with code 3",
    ),
    "absent": ({"command": ["/no/such/program"]}, "cannot_start", "is not in its image"),
    "greedy": (
        {"command": ["sh", "-c", "tail /dev/zero"], "resources": {"limits": {"memory": "16Mi"}}},
        "no_memory",
        "more memory than its limit of 16 MiB",
    ),
    "huge": ({"resources": {"requests": {"cpu": "400"}}}, "no_room", "Insufficient cpu"),
    "over": ({"resources": {"limits": {"memory": "2Ti"}}}, "quota", "exceeded quota"),
    "classless": ({"volumeMounts": [DATA]}, "no_volume", '-classless" not found'),
    "unmade": ({"volumeMounts": [DATA]}, "no_volume", "provisioner 'example.com/nobody'"),
    "failing": ({"volumeMounts": [DATA]}, "no_volume", "failed to provision volume"),
}


@pytest.fixture
def claims(cluster: Cluster, name: str) -> Iterator[list[dict[str, Any]]]:
    """A claim for each of ``CLASSES``, which are there meanwhile."""
    classes = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": f"{name}-{service}"},
            "volumeBindingMode": "WaitForFirstConsumer",
            **made,
        }
        for service, made in CLASSES.items()
        if made
    ]
    cluster.apply("default", *classes)
    asks = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    yield [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": service},
            "spec": {**asks, "storageClassName": f"{name}-{service}"},
        }
        for service in CLASSES
    ]
    cluster.kubectl("delete", "storageclass", *(each["metadata"]["name"] for each in classes))


def test_the_same_causes_are_told_in_the_sentences_of_a_docker_host(
    api: _kubernetes.Cluster, cluster: Cluster, name: str, claims: list[dict[str, Any]]
) -> None:
    _kubernetes_lease.hold(api, writer(name, "a"), "take", 600)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "preview"}}
    limit = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "preview"}}
    default = {"type": "Container", "default": {"memory": "64Mi"}}
    cluster.apply(
        name,
        quota | {"spec": {"hard": {"limits.memory": "1Ti"}}},
        limit | {"spec": {"limits": [default]}},
        *claims,
    )
    services = []
    for service, (container, *_told) in SICK.items():
        labels = {PREFIX + "service": service}
        image = container.get("image", "busybox:1.37")
        image = image.replace("$REGISTRY", cluster.facts["registry"])
        main = {"name": "main", "command": ["sleep", "600"], **container, "image": image}
        pod = {"metadata": {"labels": labels}, "spec": {"containers": [main]}}
        pod["spec"]["terminationGracePeriodSeconds"] = 0  # type: ignore[assignment]
        if service in CLASSES:
            volume = {"name": DATA["name"], "persistentVolumeClaim": {"claimName": service}}
            pod["spec"]["volumes"] = [volume]
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}
        metadata = {"name": service, "labels": labels}
        kind = {"apiVersion": "apps/v1", "kind": "Deployment"}
        cluster.apply(name, kind | {"metadata": metadata, "spec": spec})
        services.append(
            {
                "name": service,
                "image": image,
                "data": False,
                "completes": False,
                "expose": None,
                "replicas": 1,
                "source": "pull",
                "resources": {"memory": 16 << 20},
            }
        )

    def found() -> dict[str, _diagnose.Finding]:
        scene = _diagnose.Scene(services, _kubernetes_pods.look(api, name))
        return {finding.service: finding for finding in _diagnose.judge(scene)}

    def is_told(service: str, code: str, words: str) -> bool:
        finding = found().get(service)
        assert finding and finding.code == code and words in finding.sentence, (service, finding)
        return True

    for service, (_container, code, words) in SICK.items():
        eventually(functools.partial(is_told, service, code, words))
    # What waiting does not mend is not waited for.
    patience = {finding.code: finding.patience for finding in found().values()}
    assert patience["pull_denied"] == 0 and patience["no_room"] == 20


def by_a_program(known: dict[str, Any]) -> dict[str, Any]:
    """The same login, given by a program as clouds have it."""
    credential = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": known["users"][0]["user"]["token"]},
    }
    run = {"apiVersion": credential["apiVersion"], "interactiveMode": "Never", "command": "echo"}
    return {"exec": run | {"args": [json.dumps(credential)]}}


def test_a_kubeconfig_is_read_here_or_by_the_library_with_one_result(
    account: Account, tmp_path: Path
) -> None:
    known = json.loads(account.kubeconfig.read_text())
    by_name = yaml.safe_load(Path(account.cluster.facts["kubeconfig"]).read_text())
    admin, authority = by_name["users"][0]["user"], known["clusters"][0]["cluster"]
    for key in ("client-certificate", "client-key"):
        (tmp_path / key).write_bytes(base64.b64decode(admin[f"{key}-data"]))
    for user, plain, who in (
        (known["users"][0]["user"], True, "previews"),
        (admin, True, "admin"),
        ({key: key for key in ("client-certificate", "client-key")}, True, "admin"),
        (by_a_program(known), False, "previews"),
    ):
        known["users"][0]["user"] = user
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(known))
        assert (_kubeconfig._read(str(path), "") is not None) == plain
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        cluster = _kubernetes.Cluster(str(path))
        said = cluster.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", asked)
        assert who in json.dumps(said.body["status"]["userInfo"])
    # Another authority's certificate is not taken, whoever reads.
    authority["certificate-authority-data"] = base64.b64encode(
        Path(account.cluster.facts["ca"]).with_name("front-proxy-ca.crt").read_bytes()
    ).decode()
    path.write_text(json.dumps(known))
    with pytest.raises(_kubernetes.ClusterError, match=r"does not answer: .*certificate"):
        _kubernetes.Cluster(str(path)).ask("GET", "/version")


def test_who_cannot_get_to_a_cluster_is_told_why(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(_kubernetes.ClusterError, match="/nowhere does not lead to a cluster"):
        _kubernetes.Cluster("/nowhere")
    text = Path(cluster.facts["kubeconfig"]).read_text()
    closed = tmp_path / "kubeconfig"
    port = cluster.facts["registry"].rpartition(":")[2]
    server = next(line for line in text.splitlines() if "server:" in line)
    closed.write_text(text.replace(server, f"    server: https://127.0.0.1:{port}"))
    with pytest.raises(_kubernetes.ClusterError, match=f"127.0.0.1:{port} does not answer"):
        _kubernetes.observe(_kubernetes.Cluster(str(closed)), "shop-pr-1")
