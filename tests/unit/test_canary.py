# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells whether a cluster enforces network policies: tests/integration/test_canary.py."""

from __future__ import annotations

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _diagnose,
    _kubernetes_canary,
    _kubernetes_ingress,
)
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes_canary import (
    Destination,
    Unenforced,
)
from test_manifests import rendered
from test_plan import complete, settings

API = Destination("10.96.0.1", 443)


def egress(**given):
    return _kubernetes_canary.egress_of(rendered(**given).base)


@pytest.mark.parametrize(
    ("allowed", "is_permitted"),
    [
        ([], False),
        (["10.1.2.3:5432"], False),
        (["10.96.0.0/12:5432"], False),
        (["10.96.0.0/12:443"], True),
        (["10.96.0.1"], True),
        (["10.0.0.0/8"], True),
    ],
)
def test_what_the_settings_let_through_is_told_apart(allowed, is_permitted):
    found = _kubernetes_canary.permits(egress(preview_egress_allow=allowed), API)
    assert found is is_permitted


def test_a_public_api_server_may_be_reached_by_the_policies():
    assert _kubernetes_canary.permits(egress(), Destination("203.0.113.9", 443))
    assert not _kubernetes_canary.permits(egress(), Destination("fd00::1", 443))


def test_it_is_hardened_like_the_strictest_pod():
    preview = complete().preview
    login = {"registry": "r.example.org", "username": "u", "password": "p"}
    job = _kubernetes_canary.job(preview, settings(preview_registries=[login]))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["imagePullSecrets"] == [{"name": "registries"}]
    assert job["metadata"]["namespace"] == preview["names"]["namespace"]


@pytest.mark.parametrize(
    ("ended", "kind", "said"),
    [
        (_diagnose.Ended(42, []), Unenforced, "does not enforce network policies"),
        (_diagnose.Ended(43, ["sh: nc: not found"]), None, "could not: sh: nc: not found. Its"),
        (_diagnose.Ended(2, []), None, "it ended with code 2. Its image, busybox:1.37"),
        (_diagnose.Ended(None, [], ["canary: it is unknown."]), None, "could not: canary: it is"),
        (_diagnose.Ended(0, ["x"], late=True), None, "it has not ended within 90 s."),
    ],
)
def test_how_it_ends_is_told(ended, kind, said):
    failed = _kubernetes_canary.failure(ended, "busybox:1.37")
    assert isinstance(failed, Unenforced) is (kind is Unenforced)
    assert said in str(failed)
    assert "preview_trusted" in str(failed)


def test_a_host_that_another_namespace_has_is_taken():
    def ingress(namespace, *hosts):
        rules = [{"host": host} if host else {} for host in hosts]
        return {"metadata": {"name": "web", "namespace": namespace}, "spec": {"rules": rules}}

    wanted = ["shop-pr-1.example.org", "api--shop-pr-1.example.org"]
    free = [
        ingress("shop-pr-1", *wanted),
        ingress("other", "", "shop-pr-2.example.org", "*.example.org"),
        {"metadata": {"name": "all", "namespace": "other"}, "spec": {"defaultBackend": {}}},
    ]
    assert _kubernetes_ingress.taken(free, wanted, "shop-pr-1") == ""
    said = _kubernetes_ingress.taken([*free, ingress("other", wanted[1])], wanted, "shop-pr-1")
    assert "api--shop-pr-1.example.org leads to something else" in said
    assert "the Ingress web in the namespace other" in said
