"""What only a cluster has to hold: enforced policies, hosts of its own, rights that are few."""

from __future__ import annotations

import base64
import gzip
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from clusters import Account, Cluster, eventually
from conftest import InCluster, a_port, an_app_in_cluster, wait
from test_canary import open_to_all
from test_ingress import BUSYBOX, PORT, SERVE, basic, issued, secret


@pytest.fixture
def platform(confined: Account, tmp_path: Path) -> Iterator[InCluster]:
    """An app of its own for this test; its account may touch nothing but previews, and the password
    of its registry is told by a program, as clouds have it."""
    with an_app_in_cluster(confined, tmp_path) as mine:
        (login,) = mine.settings["preview_registries"]
        told = tmp_path / "password"
        told.write_text(login.pop("password"))
        login["password_command"] = ["cat", str(told)]
        yield mine


def test_nobody_vouches_for_it_so_it_runs_where_network_policies_hold(platform: InCluster) -> None:
    name, untrusted = platform.name(2), {"preview_trusted": False}
    commit = platform.repository.pull_request(2, "First", files={"www/index.html": "first\n"})
    platform.up(2, commit, **untrusted).ok()
    assert platform.get(2) == (200, "first\n")
    held = platform.kubectl(2, "get", "secret", "registries", "-o", "jsonpath={.data.*}")
    ((registry, login),) = json.loads(base64.b64decode(held))["auths"].items()
    facts = platform.cluster.facts
    assert (registry, login["password"]) == (facts["registry"], facts["registry_password"])
    platform.cluster.apply(name, open_to_all(name))
    later = platform.repository.pull_request(2, "Second", files={"www/index.html": "second\n"})
    refused = platform.up(2, later, **untrusted).refused()
    assert "does not enforce network policies" in refused.sentence
    makers = "deployments,statefulsets,jobs,horizontalpodautoscalers"
    assert platform.kubectl(2, "get", makers, "-o", "name") == ""
    eventually(lambda: not platform.kubectl(2, "get", "pods", "-o", "name"))


def test_a_host_that_somebody_elses_ingress_has_is_not_taken(platform: InCluster) -> None:
    commit = platform.repository.pull_request(3, "First", files={"www/index.html": "first\n"})
    backend = {"service": {"name": "theirs", "port": {"number": 80}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    rule = {"host": f"{platform.name(3)}.localhost", "http": {"paths": [path]}}
    theirs = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "theirs"},
        "spec": {"rules": [rule]},
    }
    with platform.cluster.namespace() as other:
        platform.cluster.apply(other, theirs)
        said = platform.up(3, commit).refused().sentence
        assert f"the Ingress theirs in the namespace {other} has that host" in said
        assert platform.kubectl(3, "get", "ingresses,pods", "-o", "name") == ""


# -- one preview with all that is granted --------------------------------------------------------


@dataclass(frozen=True)
class Granted:
    """A preview behind a password, a rate limit and a certificate of the platform's."""

    platform: InCluster
    commit: str
    host: str
    certificate: str
    said: str


@pytest.fixture(scope="module")
def granted(confined: Account, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Granted]:
    """It is number 1 of its app."""
    folder = tmp_path_factory.mktemp("granted")
    cluster = confined.cluster
    web = {"image": BUSYBOX, "command": ["sh", "-c", SERVE], "ports": [str(PORT)]}
    services = {"web": web | {"stop_grace_period": "1s"}, "cache": {"image": "redis:8"}}
    mark = {
        "apiVersion": "traefik.io/v1alpha1",
        "kind": "Middleware",
        "metadata": {"name": "mark"},
        "spec": {"headers": {"customResponseHeaders": {"X-Platform": "ours"}}},
    }
    with an_app_in_cluster(confined, folder) as app, cluster.namespace() as platforms:
        host = f"{app.name(1)}.{cluster.facts['domain']}"
        certificate, key = issued(folder, host)
        held = {"tls.crt": certificate, "tls.key": key}
        cluster.apply(platforms, secret("wildcard", "kubernetes.io/tls", **held), mark)
        authority = folder / "authority.pem"
        authority.write_text(certificate)
        router = "traefik.ingress.kubernetes.io/router."
        app.settings |= {
            "preview_domain": cluster.facts["domain"],
            "preview_gateway_https_port": cluster.facts["ingress_https"],
            "preview_tls_secret": f"{platforms}/wildcard",
            "preview_ca_file": str(authority),
            "preview_auth_users": {"ann": "open sesame"},
            "preview_rate_limit": 3,
            "preview_ingress_annotations": {
                router + "middlewares": f"{platforms}-mark@kubernetescrd"
            },
        }
        definition = {"compose.yaml": json.dumps({"services": services})}
        commit = app.repository.pull_request(1, "Serves", files=definition)
        up = app.up(1, commit).ok()
        assert up.result["url"] == f"https://{host}:{cluster.facts['ingress_https']}"
        yield Granted(app, commit, host, certificate, up.out)


def test_a_door_with_all_that_is_granted(granted: Granted) -> None:
    cluster, host = granted.platform.cluster, granted.host
    assert "sesame" not in granted.said
    with cluster.connected(host, granted.certificate) as connection:
        served = connection.getpeercert(binary_form=True)
    assert served == ssl.PEM_cert_to_DER_cert(granted.certificate)

    def get(path: str = "/", **headers: str) -> tuple[int, dict[str, str], bytes]:
        answer, body = cluster.request(
            host, path, tls=True, authority=granted.certificate, **headers
        )
        return answer.status, dict(answer.headers), body

    given = basic("ann", "open sesame")
    assert cluster.request(host)[0].headers["Location"] == (
        f"https://{host}:{cluster.facts['ingress_https']}/"
    )
    assert get()[0] == get(Authorization=basic("ann", "wrong"))[0] == 401
    status, headers, page = get(Authorization=given)
    assert status == 200
    wanted = {
        "X-Robots-Tag": "noindex, nofollow",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "strict-origin-when-cross-origin",
        "Strict-Transport-Security": "max-age=86400",
        "X-Platform": "ours",
    }
    assert wanted.items() <= headers.items() and "Content-Encoding" not in headers
    dummy, headers, packed = get(Authorization=given, Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == page and len(packed) < len(page) / 10
    dummy, dummy, seen = get("/cgi-bin/env", Authorization=given, X_Other="1")
    assert b"HTTP_X_FORWARDED_PROTO=https\n" in seen
    assert b"HTTP_X_OTHER=1\n" in seen
    assert b"AUTHORIZATION" not in seen, "the app sees what reviewers type"
    assert {get(Authorization=given)[0] for dummy in range(100)} == {200, 429}

    again = granted.platform.up(1, granted.commit).ok()
    assert (again.result["outcome"], again.changed) == ("unchanged", 0)


# Addresses of the node beside its own, each of a kind that previews must not reach, and one of the
# internet's.
ADDRESSES = {
    "link-local": "169.254.77.77",
    "private": "192.168.254.2",
    "carrier": "100.64.77.77",
    "public": "203.0.113.77",
}
NODE = f"""
for address in {" ".join(ADDRESSES.values())}; do ip address add $address/32 dev lo; done
trap 'for address in {" ".join(ADDRESSES.values())}; do ip address del $address/32 dev lo; done
exit' TERM
httpd -f -p 28080 &
wait
"""


@contextmanager
def a_node_of_many_addresses(cluster: Cluster) -> Iterator[dict[str, str]]:
    """Where a node can be asked: on ``ADDRESSES``, and at its kubelet."""
    main = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", NODE]}
    main["securityContext"] = {"privileged": True}  # type: ignore[assignment]
    spec = {"hostNetwork": True, "containers": [main], "terminationGracePeriodSeconds": 5}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}, "spec": spec}
    with cluster.namespace() as name:
        cluster.apply(name, pod)
        cluster.kubectl("wait", "-n", name, "--for=condition=Ready", "pod/node", "--timeout=60s")
        where = ["get", "pod", "node", "-n", name, "-o", "jsonpath={.status.hostIP}"]
        kubelet = {"kubelet": f"{cluster.kubectl(*where)} 10250"}
        yield kubelet | {kind: f"{address} 28080" for kind, address in ADDRESSES.items()}


# Prints of its arguments, which are names with an address and a port each, the names of those that
# a connection is got to.
REACH = """
while [ $# -gt 0 ]; do
    (nc -w 2 $2 $3 </dev/null >/dev/null 2>&1 && echo $1) &
    shift 3
done
wait
"""


def test_the_walls_of_a_namespace(granted: Granted) -> None:
    app, cluster = granted.platform, granted.platform.cluster
    if cluster.facts.get("rung") == "kind":
        pytest.skip("kind's policies leave out what listens on a pod's own node")
    host = cluster.facts["host_address"]
    with (
        a_port(host) as port,
        a_port(host) as other,
        a_node_of_many_addresses(cluster) as node,
    ):
        here = {"host": f"{host} {port}", "other": f"{host} {other}"}
        everything = {"cache": "cache 6379"} | here | node
        words = [word for name, at in everything.items() for word in (name, *at.split())]

        def reached() -> set[str]:
            return set(app.exec(1, "web", "sh", "-c", REACH, "sh", *words).split())

        assert reached() == {"cache", "public"}
        allowed = {"preview_egress_allow": [f"{host}/32:{port}"]}
        assert app.up(1, granted.commit, **allowed).ok().changed
        wait(lambda: reached() == {"cache", "public", "host"}, 20)
        assert app.up(1, granted.commit).ok().changed
        wait(lambda: reached() == {"cache", "public"}, 20)
        # All of them are there: where somebody lets everything through, everything is reached.
        cluster.apply(app.name(1), open_to_all(app.name(1)))
        wait(lambda: reached() == set(everything), 20)
        app.kubectl(1, "delete", "networkpolicy", "open")
