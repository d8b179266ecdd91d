# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door of a preview in a cluster, through a real Traefik; what a whole `up` shows of it is in
test_up_kubernetes.py."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _identity,
    _ingress,
    _kubernetes,
    _kubernetes_ingress,
    _kubernetes_tls,
    _manifests,
    _settings,
)
from clusters import Account, Cluster, eventually
from packages import needed

BUSYBOX = "busybox:1.37"  # by the name that Docker Hub has it under
PORT = 8080
# A page that is worth compressing, and one that tells whether a password came through.
SERVE = f"""
mkdir -p /www/cgi-bin
yes 'It is worth it.' | head -n 1000 >/www/index.html
printf '#!/bin/sh\\necho; env\\n' >/www/cgi-bin/env
chmod 755 /www/cgi-bin/env
exec httpd -f -p {PORT} -h /www
"""


@dataclass
class Site:
    """A preview of one small pod, and its door."""

    cluster: Cluster
    account: Account
    name: str
    host: str = ""

    def rendered(self, **given: Any) -> tuple[_ingress.Shared, list[dict[str, Any]], Any]:
        facts = self.cluster.facts
        settings = _settings.resolve(
            {
                "preview_number": 1,
                "preview_target": "kubernetes",
                "preview_registry": facts["registry"],
                "preview_repository": "https://forge.example.org/acme/shop.git",
                "preview_domain": facts["domain"],
                "preview_ingress_class": facts["ingress_class"],
                "preview_ingress_namespace": facts["ingress_namespace"],
                "preview_gateway_http_port": facts["ingress_http"],
                "preview_gateway_https_port": facts["ingress_https"],
                "preview_secret_key": "k" * 32,
                **given,
            }
        )
        preview = _identity.identity(self.name.removesuffix("-pr-1"), settings, "r", "builder")
        exposed = {"port": PORT, "host": preview["host"], "url": preview["url"]}
        web = {"name": "web", "expose": exposed}
        preview.update(services=[web], hooks=[])
        assert preview["name"] == self.name
        self.host = preview["host"]
        make = _manifests._Renderer(preview, {}, settings, {}, {}).object
        shared = _ingress.shared(preview, settings, make)
        return shared, _ingress.ingress(preview, web, settings, make), preview

    def open(self, **given: Any) -> _ingress.Shared:
        """Put up the door that these settings make; the one before goes."""
        self.close()
        shared, objects, preview = self.rendered(**given)
        api = _kubernetes.Cluster(str(self.account.kubeconfig))
        for source in shared.copies:
            assert _kubernetes_tls.copy_secret(api, source, self.name, preview["labels"])
        self.cluster.apply(self.name, *shared.objects, *shared.secrets, *objects)
        return shared

    def close(self) -> None:
        kinds = "ingress,middleware,ingressroute,networkpolicy"
        self.cluster.kubectl("delete", "-n", self.name, kinds, "--all")
        secrets = ["secret", _ingress.AUTH, _ingress.TLS, "--ignore-not-found"]
        self.cluster.kubectl("delete", "-n", self.name, *secrets)
        if self.host:
            eventually(lambda: self.status() == 404)

    def status(self, path: str = "/", **more: Any) -> int:
        return self.cluster.request(self.host, path, **more)[0].status

    def served(self) -> bytes:
        """The certificate that is served for the host, whoever vouches for it."""
        context = ssl._create_unverified_context()
        dialled = self.cluster.dialled(tls=True)
        with context.wrap_socket(dialled, server_hostname=self.host) as connection:
            return connection.getpeercert(binary_form=True) or b""


@pytest.fixture(scope="module")
def site(
    cluster: Cluster, account: Account, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    name = f"t{uuid.uuid4().hex[:8]}-pr-1"
    image = cluster.push(BUSYBOX, f"tests/{name}:1", tmp_path_factory.mktemp("login"))
    labels = {"app": "web"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "labels": labels},
        "spec": {
            "containers": [{"name": "main", "image": image, "command": ["sh", "-c", SERVE]}],
            "imagePullSecrets": [{"name": "registry"}],
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": labels, "ports": [{"port": PORT}]},
    }
    cluster.kubectl("create", "namespace", name)
    try:
        cluster.apply(name, cluster.pull_secret("registry"), pod, service)
        ready = ["--for=condition=Ready", "-n", name, "pod/web", "--timeout=60s"]
        cluster.kubectl("wait", *ready)
        yield Site(cluster, account, name)
    finally:
        cluster.kubectl("delete", "namespace", name, "--timeout=60s")


def test_the_controller_is_known_by_its_class(account: Account) -> None:
    api = _kubernetes.Cluster(str(account.kubeconfig))
    wanted = {"preview_ingress_controller": "traefik", "preview_ingress_class": ""}
    _kubernetes_ingress.refuse_other(api, wanted)
    with pytest.raises(_kubernetes.ClusterError, match="there is no ingress class nginx"):
        _kubernetes_ingress.refuse_other(api, dict(wanted, preview_ingress_class="nginx"))
    other = dict(wanted, preview_ingress_controller="other", preview_ingress_class="nginx")
    _kubernetes_ingress.refuse_other(api, other)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_who_has_no_password_stays_outside_but_a_browser_may_ask(site: Site) -> None:
    site.open(preview_auth_users={"ann": "open sesame"})
    eventually(lambda: site.status() == 401)
    answer, dummy = site.cluster.request(site.host)
    assert answer.headers["WWW-Authenticate"] == f'Basic realm="{site.name}"'
    given = basic("ann", "open sesame")
    answer, dummy = site.cluster.request(site.host, Authorization=given)
    assert answer.status == 200 and "Strict-Transport-Security" not in answer.headers
    asking = {"Origin": "https://other.example.org", "Access_Control_Request_Method": "GET"}
    # What the app answers: it knows no such method.
    eventually(lambda: site.status(method="OPTIONS", **asking) == 501)
    assert site.status(method="OPTIONS") == 401
    assert site.status(**asking) == 401
    # What is locked is never open: without its users, nobody comes in.
    site.cluster.kubectl("delete", "secret", "-n", site.name, _ingress.AUTH)
    eventually(lambda: site.status(Authorization=given) == 404)
    assert site.status() == 404


def test_a_load_balancer_is_let_in_by_its_addresses_alone(site: Site) -> None:
    cluster = site.cluster
    # What asks comes from the controller's own pod, so it is let in by nothing but its address.
    other: dict[str, Any] = {"preview_ingress_namespace": "default"}
    dummy, objects, dummy = site.rendered(**other)
    (policy,) = [each for each in objects if each["kind"] == "NetworkPolicy"]
    labels = [f"{k}={v}" for k, v in policy["spec"]["podSelector"]["matchLabels"].items()]
    cluster.kubectl("label", "pod", "web", "-n", site.name, *labels)
    site.open(preview_ingress_networks=["192.0.2.0/24"], **other)

    def is_closed() -> bool:
        try:
            return site.status() == 504
        except TimeoutError:
            return True

    eventually(is_closed)
    which = ["-n", cluster.facts["ingress_namespace"], "-l", "app.kubernetes.io/name=traefik"]
    path = "jsonpath={.items[0].status.podIP}"
    address = cluster.kubectl("get", "pods", *which, "-o", path)
    site.open(preview_ingress_networks=[address], **other)
    eventually(lambda: site.status() == 200)


def test_http_leads_to_https_and_the_controllers_own_certificate(site: Site) -> None:
    site.open(preview_ingress_tls=True, preview_auth_users={"ann": "x"})
    eventually(lambda: site.status() == 301)
    answer, dummy = site.cluster.request(site.host, "/a?b=c")
    port = site.cluster.facts["ingress_https"]
    assert answer.headers["Location"] == f"https://{site.host}:{port}/a?b=c"
    assert site.status(method="POST") == 308
    with site.cluster.connected(site.host):
        pass  # its authority is the cluster's
    assert site.status(tls=True) == 401
    assert site.status(tls=True, Authorization=basic("ann", "x")) == 200
    asking = {"Origin": "https://other.example.org", "Access_Control_Request_Method": "GET"}
    assert site.status(tls=True, method="OPTIONS", **asking) == 501


def issued(folder: Path, host: str, *options: str) -> tuple[str, str]:
    """A certificate that vouches for itself, and its key.

    :param options: of `openssl req`.
    """
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    argv = [needed("openssl", "openssl"), "req", "-x509", "-nodes", "-newkey", "ec"]
    argv += ["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=given", "-days", "2"]
    argv += ["-addext", f"subjectAltName=DNS:{host}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*argv, *options], capture_output=True, check=True)
    return certificate.read_text(), key.read_text()


def secret(name: str, kind: str, **content: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": kind,
        "metadata": {"name": name},
        "stringData": content,
    }


def test_a_given_certificate_is_copied_and_served_instead(site: Site, tmp_path: Path) -> None:
    cluster = site.cluster
    site.open(preview_ingress_tls=True)
    eventually(lambda: site.status(tls=True) == 200)
    default = site.served()
    certificate, key = issued(tmp_path, site.host)
    with cluster.namespace() as platform:
        held = {"tls.crt": certificate, "tls.key": key, "ca.crt": "somebody's"}
        cluster.apply(platform, secret("wildcard", "kubernetes.io/tls", **held))
        source = f"{platform}/wildcard"
        site.open(preview_tls_secret=source)
        given = ssl.PEM_cert_to_DER_cert(certificate)
        assert given != default
        eventually(lambda: site.served() == given)
        with cluster.connected(site.host, certificate):
            pass
        api = _kubernetes.Cluster(str(site.account.kubeconfig))
        labels = {"ephemera.preview/name": site.name}
        shown = ["get", "secret", "-n", site.name, _ingress.TLS, "-o", "json"]
        copied = json.loads(cluster.kubectl(*shown))
        assert copied["type"] == "kubernetes.io/tls" and set(copied["data"]) == {
            "tls.crt",
            "tls.key",
        }
        assert labels.items() <= copied["metadata"]["labels"].items()
        full = copied["metadata"]["labels"]
        assert not _kubernetes_tls.copy_secret(api, source, site.name, full), "nothing has changed"
        renewed = issued(tmp_path, site.host)
        held = {"tls.crt": renewed[0], "tls.key": renewed[1]}
        cluster.apply(platform, secret("wildcard", "kubernetes.io/tls", **held))
        assert _kubernetes_tls.copy_secret(api, source, site.name, full)
        eventually(lambda: site.served() == ssl.PEM_cert_to_DER_cert(renewed[0]))


def test_what_is_no_certificate_is_not_copied_and_it_is_said_why(
    site: Site, tmp_path: Path
) -> None:
    cluster = site.cluster
    api = _kubernetes.Cluster(str(site.account.kubeconfig))

    def refusal(source: str, by: _kubernetes.Cluster = api) -> str:
        with pytest.raises(_kubernetes.ClusterError) as refused:
            _kubernetes_tls.copy_secret(by, source, site.name, {})
        return str(refused.value)

    with cluster.namespace() as platform:
        empty = {"tls.crt": "", "tls.key": ""}
        cluster.apply(platform, secret("other", "Opaque", password="x"))
        cluster.apply(platform, secret("empty", "kubernetes.io/tls", **empty))
        assert "does not exist" in refusal(f"{platform}/missing")
        assert "is of type Opaque" in refusal(f"{platform}/other")
        assert "holds no certificate yet" in refusal(f"{platform}/empty")
        account = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
        cluster.kubectl("create", "serviceaccount", "nobody", "-n", platform)
        token = cluster.kubectl("create", "token", "nobody", "-n", platform)
        account["users"][0]["user"] = {"token": token}
        file = tmp_path / "kubeconfig"
        file.touch(mode=0o600)
        file.write_text(json.dumps(account))
        said = refusal(f"{platform}/other", _kubernetes.Cluster(str(file)))
        assert "may not be read by the account" in said
