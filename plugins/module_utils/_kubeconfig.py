# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to an API server, and who we are there.

The library that kubernetes.core uses knows every login that kubectl knows, and takes longer to load
than an API server to answer. So a kubeconfig that says all itself, by tokens and certificates, is
read here; at anything else the library is asked.
"""

from __future__ import annotations

import base64
import http.client
import os
import platform
import select
import ssl
import sys
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional
from urllib.parse import urlsplit

try:
    import yaml
except ImportError:  # it comes with the library: told where that is missing
    yaml = None  # type: ignore[assignment]

AT_ONCE = 8
"""So many calls may be under way at once."""

# What comes of a file that is no kubeconfig.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)
_CLUSTER = {"server", "certificate-authority", "certificate-authority-data"}
_USER = {"token", "client-certificate", "client-certificate-data", "client-key", "client-key-data"}


class NoWay(Exception):
    """No configuration leads to a cluster; the message says what to do."""


class NoAnswer(Exception):
    """The API server does not answer; the message says why."""


class Answer(NamedTuple):
    """What an API server answers; ``date`` is its clock, as HTTP writes it."""

    status: int
    date: str
    data: bytes


class Access(NamedTuple):
    """``ask(method, path, body, headers, seconds)`` is one call, which raises :class:`NoAnswer`;
    ``login`` gives the headers that say who asks, anew for each call, as a token may be renewed on
    the way."""

    server: str
    ask: Callable[[str, str, Optional[str], Mapping[str, str], float], Answer]
    login: Callable[[], Dict[str, str]]


def access(kubeconfig: str = "", context: str = "") -> Access:
    """As a kubeconfig or a pod's own account leads to a cluster.

    :param kubeconfig: its path; "" for what KUBECONFIG names, or the usual one.
    :param context: one of its contexts; "" for its current one.
    :raises NoWay: there is no such configuration, or the library is needed and missing.
    """
    return _read(kubeconfig, context) or _by_library(configuration(kubeconfig, context))


# --- what a kubeconfig says itself -----------------------------------------------------


def _read(kubeconfig: str, context: str) -> Optional[Access]:
    """None where it takes the library, be it to say what is wrong."""
    path = kubeconfig or os.environ.get("KUBECONFIG") or ""
    path = path or os.path.join(os.environ.get("HOME", ""), ".kube", "config")
    if not yaml or any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    try:
        with open(path, encoding="utf-8") as stream:
            text = yaml.safe_load(stream)
        chosen = _named(text["contexts"], "context", context or text["current-context"])
        cluster = _named(text["clusters"], "cluster", chosen["cluster"])
        user = _named(text["users"], "user", chosen["user"])
        if set(cluster) - _CLUSTER or set(user) - _USER:
            return None
        server = cluster["server"].rstrip("/")
        if urlsplit(server).scheme != "https":
            return None
        tls = _tls(cluster, user, os.path.dirname(os.path.abspath(path)))
    except (yaml.YAMLError, *_UNREADABLE):
        return None
    token = user.get("token")
    headers = {"authorization": "Bearer " + token} if token else {}
    return Access(server, _Connections(server, tls).ask, lambda: headers)


def _named(entries: List[Mapping[str, Any]], kind: str, name: str) -> Dict[str, Any]:
    found = {entry["name"]: entry for entry in entries}[name]
    return {key: value for key, value in found[kind].items() if value not in (None, "")}


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: str) -> ssl.SSLContext:
    # Not Python's default: that has come to refuse certificates which kubectl takes.
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority = _content(cluster, "certificate-authority", folder)
    if authority:
        tls.load_verify_locations(cadata=authority)
    else:
        tls.load_default_certs()
    certificate = _content(user, "client-certificate", folder)
    if certificate:
        import tempfile  # a token's user does without

        # Python takes a key from a file only.
        with tempfile.NamedTemporaryFile("w", encoding="ascii") as both:
            both.write(certificate + "\n" + (_content(user, "client-key", folder) or ""))
            both.flush()
            tls.load_cert_chain(both.name)
    return tls


def _content(entry: Mapping[str, Any], key: str, folder: str) -> Optional[str]:
    """Of a certificate or key, as PEM: what stands there goes before the file that is named."""
    if key + "-data" in entry:
        return base64.b64decode(entry[key + "-data"], validate=True).decode("ascii")
    if key in entry:
        with open(os.path.join(folder, entry[key]), encoding="ascii") as stream:
            return stream.read()
    return None


class _Connections:
    """To one API server: each is kept for the next call, so there are as many as calls at once.

    urllib3 does more, and takes as long to load as a whole run with nothing to do may spend here.
    """

    def __init__(self, server: str, tls: ssl.SSLContext) -> None:
        self._server = urlsplit(server)
        self._tls = tls
        self._idle: List[http.client.HTTPSConnection] = []

    def ask(
        self,
        method: str,
        path: str,
        body: Optional[str],
        headers: Mapping[str, str],
        seconds: float,
    ) -> Answer:
        connection = self._connection()
        try:
            connection.timeout = seconds
            if connection.sock:
                connection.sock.settimeout(seconds)
            content = None if body is None else body.encode("utf-8")
            connection.request(method, self._server.path + path, content, headers)
            said = connection.getresponse()
            answer = Answer(said.status, said.getheader("Date") or "", said.read())
        except (OSError, http.client.HTTPException) as problem:
            connection.close()
            raise NoAnswer(str(problem) or type(problem).__name__) from None
        self._idle.append(connection)
        return answer

    def _connection(self) -> http.client.HTTPSConnection:
        while True:
            try:
                kept = self._idle.pop()
            except IndexError:
                host, port = self._server.hostname or "", self._server.port
                return http.client.HTTPSConnection(host, port, context=self._tls)
            if kept.sock and not select.select([kept.sock], [], [], 0)[0]:
                return kept
            kept.close()  # the server has closed it


# --- what the library knows ------------------------------------------------------------


def configuration(kubeconfig: str, context: str) -> Any:
    """The library's ``Configuration``.

    :raises NoWay: as of :func:`access`.
    """
    try:
        from kubernetes import client, config
    except ImportError as missing:
        raise NoWay(
            "The Python library kubernetes is missing for {0} on {1} ({2}). Install it there, or "
            "let ansible_python_interpreter name a Python that has it.".format(
                sys.executable, platform.node(), missing
            )
        ) from None
    own = client.Configuration()
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call, unused-ignore]
            kubeconfig or None, context or None, own, persist_config=False
        )
    except (config.ConfigException, yaml.YAMLError, *_UNREADABLE) as problem:
        if kubeconfig or context:
            raise NoWay(
                "{0} does not lead to a cluster: {1}".format(
                    kubeconfig or "The kubeconfig", " ".join(str(problem).split())
                )
            ) from None
        try:
            config.load_incluster_config(  # type: ignore[no-untyped-call, unused-ignore]
                client_configuration=own
            )
        except config.ConfigException:
            raise NoWay(
                "No kubeconfig leads to a cluster ({0}). Set preview_kubeconfig, or KUBECONFIG "
                "where Ansible runs.".format(problem)
            ) from None
    return own


def _by_library(own: Any) -> Access:
    import urllib3  # comes with the library
    from kubernetes.client.rest import should_bypass_proxies

    # The library's own way to call differs by its version; its configuration does not.
    tls: Dict[str, Any] = {
        "cert_reqs": "CERT_REQUIRED" if own.verify_ssl else "CERT_NONE",
        "ca_certs": own.ssl_ca_cert,
        "cert_file": own.cert_file,
        "key_file": own.key_file,
        "maxsize": AT_ONCE,
    }
    if getattr(own, "tls_server_name", None):
        tls["server_hostname"] = own.tls_server_name
    pool: urllib3.PoolManager = (
        urllib3.ProxyManager(own.proxy, proxy_headers=own.proxy_headers, **tls)
        if own.proxy and not should_bypass_proxies(own.host, own.no_proxy or "")
        else urllib3.PoolManager(**tls)
    )

    def ask(
        method: str, path: str, body: Optional[str], headers: Mapping[str, str], seconds: float
    ) -> Answer:
        try:
            said = pool.request(
                method, own.host + path, body=body, headers=headers, timeout=seconds, retries=False
            )
        except urllib3.exceptions.HTTPError as problem:
            raise NoAnswer(str(problem)) from None
        return Answer(said.status, said.headers.get("Date", ""), said.data)

    def login() -> Dict[str, str]:
        return {
            each["key"]: each["value"] for each in own.auth_settings().values() if each["value"]
        }

    return Access(own.host, ask, login)
