# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates that cert-manager issues for previews: its own controllers, and an authority whose
key they have."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cert_manager
import pytest
from clusters import Cluster
from conftest import InCluster
from packages import had
from test_ingress import issued, secret

SIGNS = ("-addext", "keyUsage=critical,keyCertSign")


@dataclass(frozen=True)
class Authority:
    """A ClusterIssuer, and the Secret that has its key once it is provided."""

    cluster: Cluster
    folder: Path
    name: str
    certificate: str
    key: str

    def provide(self) -> None:
        held = {"tls.crt": self.certificate, "tls.key": self.key}
        self.cluster.apply(self.name, secret("authority", "kubernetes.io/tls", **held))

    def withdraw(self) -> None:
        self.cluster.kubectl("delete", "secret", "-n", self.name, "authority", "--ignore-not-found")

    def settings(self) -> dict[str, Any]:
        return {
            "preview_tls_issuer": f"ClusterIssuer/{self.name}",
            "preview_gateway_https_port": self.cluster.facts["ingress_https"],
            "preview_ca_file": str(self.folder / "certificate.pem"),
        }


@contextmanager
def issuing(cluster: Cluster, namespace: str, log: Path) -> Iterator[None]:
    """While cert-manager runs, as an administrator."""
    command = [had(cert_manager.controller), "-kubeconfig", cluster.facts["kubeconfig"]]
    command += ["-cluster-resource-namespace", namespace]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def authority(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    folder = tmp_path_factory.mktemp("authority")
    certificate, key = issued(folder, "authority.example.org", *SIGNS)
    with cluster.knowing(had(cert_manager.definitions)), cluster.namespace() as name:
        issuer = {
            "apiVersion": "cert-manager.io/v1",
            "kind": "ClusterIssuer",
            "metadata": {"name": name},
            "spec": {"ca": {"secretName": "authority"}},
        }
        cluster.apply(name, issuer)
        with issuing(cluster, name, folder / "log"):
            yield Authority(cluster, folder, name, certificate, key)


def test_a_cluster_without_cert_manager_is_told_at_once(in_cluster: InCluster) -> None:
    in_cluster.settings["preview_tls_issuer"] = "ClusterIssuer/any"
    commit = in_cluster.repository.pull_request(1, "Over https")
    refused = in_cluster.up(1, commit).refused()
    assert "knows no Certificate of cert-manager.io/v1" in refused.sentence
    assert in_cluster.kubectl(1, "get", "deployments,ingresses", "-o", "name") == ""


def test_a_host_is_served_with_a_certificate_of_its_own(
    authority: Authority, in_cluster: InCluster
) -> None:
    authority.provide()
    in_cluster.settings |= authority.settings()
    cluster, name = in_cluster.cluster, in_cluster.name(1)
    host, port = f"{name}.localhost", cluster.facts["ingress_https"]
    commit = in_cluster.repository.pull_request(1, "Over https")
    up = in_cluster.up(1, commit).ok()
    assert up.result["url"] == f"https://{host}:{port}"
    notes = " ".join(up.result["notes"])
    assert f"ClusterIssuer/{authority.name} issues a certificate for each host" in notes
    with cluster.connected(host, authority.certificate) as connection:
        served = connection.getpeercert()
    assert served and served["subjectAltName"] == (("DNS", host),)
    assert cluster.request(host, tls=True, authority=authority.certificate)[0].status == 200

    ready = ["wait", "--for=condition=Ready", "certificate/web-tls", "--timeout=10s"]
    in_cluster.kubectl(1, *ready)
    again = in_cluster.up(1, commit).ok()
    assert (again.result["outcome"], again.changed) == ("unchanged", 0)

    in_cluster.down(1).ok()
    kinds = "certificates,certificaterequests,secrets,ingresses"
    assert name not in cluster.kubectl("get", kinds, "--all-namespaces")


def test_who_issues_nothing_is_told_and_who_is_slow_is_waited_for(
    authority: Authority, in_cluster: InCluster
) -> None:
    authority.withdraw()
    in_cluster.settings |= authority.settings()
    host = f"{in_cluster.name(1)}.localhost"
    commit = in_cluster.repository.pull_request(1, "Over https")
    nobody = in_cluster.up(1, commit, preview_tls_issuer="ClusterIssuer/nobody").refused()
    assert nobody.sentence == (
        "web answers, but cert-manager finds no ClusterIssuer/nobody to issue the certificate of "
        f"{host}. Make it, or correct preview_tls_issuer."
    )
    slow = in_cluster.up(1, commit, preview_verify_timeout=15).refused()
    assert slow.sentence == (
        f"web answers, but ClusterIssuer/{authority.name} has issued no certificate for {host} "
        "yet, saying: Referenced issuer does not have a Ready status condition. Look at kubectl "
        f"describe certificate --namespace {in_cluster.name(1)} web-tls; where it only needs more "
        "time, raise preview_verify_timeout."
    )
    authority.provide()
    in_cluster.up(1, commit).ok()
