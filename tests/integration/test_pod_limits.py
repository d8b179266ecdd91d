# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cluster does not let a preview do: run as root, and fill a node's disk."""

from __future__ import annotations

import json

import repositories
from conftest import InCluster
from test_verify import at_once, service, told
from tiny import TINY

RESTRICTED = {"preview_pod_security": "restricted"}


def test_the_example_app_runs_where_pod_security_is_restricted(in_cluster: InCluster) -> None:
    dummy, commits = repositories.shop(in_cluster.repository.path)
    in_cluster.settings |= RESTRICTED
    in_cluster.up(41, commits[41], preview_verify_timeout=120).ok()
    status, body = in_cluster.get(41, "/health/deep")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    namespace = in_cluster.cluster.kubectl("get", "namespace", in_cluster.name(41), "-o", "json")
    labels = json.loads(namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_an_app_that_may_be_root_is_told_so_where_that_is_restricted(in_cluster: InCluster) -> None:
    compose = 'services: {web: {build: ., ports: ["8080:8080"], x-preview: {health: /health}}}\n'
    in_cluster.settings |= RESTRICTED
    tiny = str(TINY["Dockerfile"])
    for user, sentence in (
        ("", "web runs as root, which preview_pod_security: restricted does not let run."),
        ("USER nobody\n", "web runs as the user nobody, and by a name"),
    ):
        files = {"compose.yaml": compose, "Dockerfile": tiny + user}
        commit = in_cluster.repository.pull_request(1, "A user", files=files)
        assert sentence in in_cluster.up(1, commit).refused().sentence
    files = {"compose.yaml": compose, "Dockerfile": tiny + "USER 1000:1000\n"}
    commit = in_cluster.repository.pull_request(1, "A user", files=files)
    in_cluster.up(1, commit).ok()


def test_who_fills_the_disk_is_told_why_it_goes(in_cluster: InCluster) -> None:
    fill = "dd if=/dev/zero of=/tmp/full bs=1M count=40; sleep 300; exec python /app.py"
    web = service("serves", command=["sh", "-c", fill], **{"x-preview": {"health": "/health"}})
    settings = {"preview_ephemeral_storage": "16Mi", "preview_verify_timeout": 150}
    # With a volume it is made anew by the same name; without, another takes its place.
    refusals = at_once(
        in_cluster,
        ({"web": web}, settings),
        ({"web": web | {"volumes": ["data:/data"]}}, settings),
    )
    for _stage, sentence in told(refusals):
        assert "web was evicted: it writes more to its own file system than it may" in sentence
