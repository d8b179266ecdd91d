# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which kubeconfigs are read here, and which the library has to read. That both lead to one
cluster: tests/integration/test_kubernetes.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _kubeconfig

SERVER, TOKEN = "https://10.0.0.1:6443", "a.token-1"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def known() -> dict[str, Any]:
    return {
        "current-context": "one",
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u"}},
            {"name": "two", "context": {"cluster": "c", "user": "other"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": SERVER + "/"}}],
        "users": [
            {"name": "u", "user": {"token": TOKEN}},
            {"name": "other", "user": {"token": "another"}},
        ],
    }


def read(folder: Path, text: str | dict[str, Any], context: str = "") -> _kubeconfig.Access | None:
    path = folder / "kubeconfig"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return _kubeconfig._read(str(path), context)


@pytest.mark.parametrize(("context", "token"), [("", TOKEN), ("one", TOKEN), ("two", "another")])
def test_a_token_is_read_of_the_context_that_is_meant(
    tmp_path: Path, context: str, token: str
) -> None:
    access = read(tmp_path, known(), context)
    assert access
    assert access.server == SERVER
    assert access.login() == {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("how", ["KUBECONFIG", "HOME"])
def test_it_is_found_where_kubectl_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = tmp_path / ".kube" / "config"
    path.parent.mkdir()
    path.write_text(json.dumps(known()))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv(how, str(path if how == "KUBECONFIG" else tmp_path))
    assert _kubeconfig._read("", "") is not None
    monkeypatch.setenv("KUBECONFIG", f"{path}{os.pathsep}{path}")
    assert _kubeconfig._read("", "") is None, "files that are merged"


def cluster(**more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda text: text["clusters"][0]["cluster"].update(more)


def user(**more: Any) -> Callable[[dict[str, Any]], None]:
    return lambda text: text["users"][0]["user"].update(more)


@pytest.mark.parametrize(
    "change",
    [
        user(exec={"command": "aws"}),
        user(**{"auth-provider": {"name": "oidc"}}),
        user(username="u", password="p"),
        user(tokenFile="/token"),
        user(**{"as": "somebody"}),
        user(**{"client-certificate": "missing.crt"}),
        user(**{"client-certificate-data": "no base64"}),
        cluster(**{"insecure-skip-tls-verify": True}),
        cluster(**{"tls-server-name": "kubernetes"}),
        cluster(**{"proxy-url": "http://proxy:3128"}),
        cluster(**{"certificate-authority-data": "bm90IGEgY2VydGlmaWNhdGU="}),
        cluster(server="http://10.0.0.1:8080"),
        lambda text: text.update({"current-context": "three"}),
        lambda text: text.update({"current-context": ""}),
        lambda text: text.update(clusters=None),
        lambda text: text.pop("users"),
    ],
)
def test_all_else_is_the_librarys(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    text = known()
    change(text)
    assert read(tmp_path, text) is None


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\0", "just text"])
def test_what_is_no_kubeconfig_is_the_librarys_to_refuse(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text) is None
    with pytest.raises(_kubeconfig.NoWay, match="does not lead to a cluster"):
        _kubeconfig.access(str(tmp_path / "kubeconfig"))


def test_where_a_proxy_is_set_the_library_knows_who_goes_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert read(tmp_path, known()) is None
