# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service that is given more pods while there is much to do, by the cluster's own metrics."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

from clusters import eventually
from conftest import InCluster

# A page that takes CPU to make, of a service that has little.
FILES: dict[str, str | bytes | None] = {
    "www/cgi-bin/burn": "#!/bin/sh\n"
    "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done\n"
    'printf "Content-Type: text/plain\\r\\n\\r\\nburnt\\n"\n',
    "Dockerfile": "FROM busybox:1.37\nCOPY --chmod=755 www /www\n"
    'CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]\n',
    "compose.yaml": """\
services:
  web:
    build: .
    ports: ["8080:8080"]
    deploy: {resources: {limits: {cpus: "0.2"}}}
    x-preview:
      health: /health
      autoscale: {min: 2, max: 4, cpu: 30}
""",
}
LOAD = 100  # seconds, at most


def replicas(in_cluster: InCluster) -> int:
    return int(in_cluster.kubectl(1, "get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"))


def test_a_service_is_scaled_under_load_and_that_is_no_drift(in_cluster: InCluster) -> None:
    commit = in_cluster.repository.pull_request(1, "Scale", files=FILES)
    in_cluster.up(1, commit).ok()
    assert replicas(in_cluster) == 2
    quota = json.loads(in_cluster.kubectl(1, "get", "resourcequota", "preview", "-o", "json"))
    assert quota["spec"]["hard"]["limits.cpu"] == "1600m"  # four pods, twice

    end = time.monotonic() + LOAD

    def ask() -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                in_cluster.get(1, "/cgi-bin/burn")

    with ThreadPoolExecutor(2) as pool:
        pool.submit(ask)
        pool.submit(ask)
        try:
            eventually(lambda: replicas(in_cluster) > 2, LOAD)
        finally:
            end = 0
    scaled = replicas(in_cluster)
    # Also while its new pods are only just being made.
    again = in_cluster.up(1, commit).ok()
    assert again.changed == 0, again.out
    assert "TASK [ephemera.preview.deploy" not in again.out
    # A new commit rolls out to all there are, and leaves their number to the autoscaler.
    newer = in_cluster.repository.pull_request(1, "Scale", files={"www/index.html": "newer\n"})
    in_cluster.up(1, newer, preview_verify_timeout=90).ok()
    assert in_cluster.get(1) == (200, "newer\n")
    assert 2 <= replicas(in_cluster) <= 4 and scaled <= 4
