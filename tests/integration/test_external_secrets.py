# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets that an operator brings into a cluster; here the tests are that operator."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from clusters import Cluster
from conftest import InCluster
from gomodules import folder
from packages import had

MODULE = "github.com/external-secrets/external-secrets@v1.3.2"
DEFINITION = "config/crds/bases/external-secrets.io_externalsecrets.yaml"
VALUE = "a-value-of-the-store"
FILES: dict[str, str | bytes | None] = {
    "Dockerfile": "FROM busybox:1.37\nCOPY www /www\n"
    'CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]\n',
    "compose.yaml": """\
services:
  web:
    build: .
    ports: ["8080:8080"]
    environment:
      API_TOKEN: ${TOKEN}
    secrets: [token]
    x-preview:
      health: /health
      migrate: [sh, -c, 'test "$$API_TOKEN" = "$$(cat /run/secrets/token)"']
secrets:
  token: {environment: TOKEN}
""",
}
TELLS = str(FILES["compose.yaml"]).replace("test ", "echo has $$API_TOKEN; false ")


@pytest.fixture
def crd(cluster: Cluster) -> Iterator[None]:
    """The operator's own kind of objects."""
    with cluster.knowing(had(lambda: folder(MODULE)) / DEFINITION):
        yield


@contextmanager
def operator(in_cluster: InCluster, failure: str = "") -> Iterator[None]:
    """Does what the operator does: brings Secrets, or says what keeps it from that."""
    over: list[bool] = []

    def work() -> None:
        while not over:
            seen = in_cluster.kubectl(1, "get", "externalsecrets", "-o", "json", check=False)
            for each in json.loads(seen)["items"] if seen.startswith("{") else []:
                bring(in_cluster, each, failure)
            time.sleep(0.5)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        try:
            yield
        finally:
            over.append(True)
            done.result()


def bring(in_cluster: InCluster, wanted: dict[str, Any], failure: str) -> None:
    name, uid = wanted["metadata"]["name"], wanted["metadata"]["uid"]
    ready = {"type": "Ready", "status": "False", "message": failure, "reason": "SecretSyncedError"}
    if not failure:
        ready = {"type": "Ready", "status": "True", "reason": "SecretSynced"}
        owner = {"apiVersion": wanted["apiVersion"], "kind": wanted["kind"]}
        made = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": wanted["spec"]["target"]["name"],
                "labels": wanted["metadata"]["labels"],
                "ownerReferences": [owner | {"name": name, "uid": uid}],
            },
            "data": {
                each["secretKey"]: base64.b64encode(VALUE.encode()).decode()
                for each in wanted["spec"]["data"]
            },
        }
        in_cluster.kubectl(1, "apply", "-f", "-", input=json.dumps(made))
    patch = json.dumps({"status": {"conditions": [ready]}})
    patched = ["patch", "externalsecret", name, "--subresource=status", "--type=merge"]
    in_cluster.kubectl(1, *patched, "--patch", patch)


def settings(in_cluster: InCluster) -> None:
    store = {"kind": "ClusterSecretStore", "name": "vault"}
    data = {"TOKEN": {"key": "shop/previews", "property": "token"}}
    in_cluster.settings["preview_external_secrets"] = {"store": store, "data": data}


def test_a_cluster_without_the_operator_is_told_at_once(in_cluster: InCluster) -> None:
    settings(in_cluster)
    commit = in_cluster.repository.pull_request(1, "Secrets", files=FILES)
    refused = in_cluster.up(1, commit).refused()
    assert "knows no ExternalSecret of external-secrets.io/v1" in refused.sentence
    assert "deployment" not in in_cluster.kubectl(1, "get", "deployments", "-o", "name")


@pytest.mark.usefixtures("crd")
def test_what_the_operator_brings_is_used_and_never_shown(in_cluster: InCluster) -> None:
    settings(in_cluster)
    commit = in_cluster.repository.pull_request(1, "Secrets", files=FILES)
    with operator(in_cluster, "could not get secret data from provider: permission denied"):
        refused = in_cluster.up(1, commit).refused()
    assert "vault does not give what is asked for: could not get secret data from provider" in (
        refused.sentence
    )
    assert "deployment" not in in_cluster.kubectl(1, "get", "deployments", "-o", "name")

    with operator(in_cluster):
        in_cluster.up(1, commit).ok()
        token = in_cluster.kubectl(1, "exec", "deploy/web", "--", "sh", "-c", "echo $API_TOKEN")
        assert token == VALUE
        command = {"preview_service": "web", "preview_command": ["sh", "-c", "echo is $API_TOKEN"]}
        ran = in_cluster.play("run", preview_number=1, **command).ok()
        assert "is ********" in ran.out and VALUE not in ran.out
        again = in_cluster.up(1, commit).ok()
        assert again.changed == 0, again.out

        commit = in_cluster.repository.pull_request(1, "Secrets", files={"compose.yaml": TELLS})
        told = in_cluster.up(1, commit).refused()
    assert "saying: has ********" in told.sentence
    assert VALUE not in told.out and VALUE not in json.dumps(told.result)
