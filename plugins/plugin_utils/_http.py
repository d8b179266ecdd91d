# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One bounded HTTP request that says how it failed, for verification."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from typing import NamedTuple
from urllib.parse import urlsplit

LIMIT = 64 * 1024


class Answer(NamedTuple):
    """What came back. ``trouble`` is "" or one of dns, refused, timeout, tls, closed."""

    status: int
    location: str
    body: bytes
    trouble: str
    detail: str
    seconds: float


def _address(host: str) -> str:
    """``*.localhost`` is this machine (RFC 6761), also where the resolver does not know it."""
    return "127.0.0.1" if host == "localhost" or host.endswith(".localhost") else host


def get(url: str, *, timeout: float = 5, context: ssl.SSLContext | None = None) -> Answer:
    """GET a URL: no redirect is followed, at most 64 KiB are read, all within ``timeout`` s."""
    began = time.monotonic()

    def failed(trouble: str, error: Exception) -> Answer:
        return Answer(0, "", b"", trouble, str(error), time.monotonic() - began)

    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection: http.client.HTTPConnection | None = None
    try:
        plain = socket.create_connection((_address(host), port), timeout=timeout)
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        if parts.scheme == "https":
            context = context or ssl.create_default_context()
            plain = context.wrap_socket(plain, server_hostname=host)
        connection.sock = plain
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        connection.request("GET", target, headers={"User-Agent": "ephemera.preview verify"})
        answer = connection.getresponse()
        body = answer.read(LIMIT)
        location = answer.getheader("Location") or ""
        return Answer(answer.status, location, body, "", "", time.monotonic() - began)
    except socket.gaierror as error:
        return failed("dns", error)
    except ssl.SSLError as error:
        return failed("tls", error)
    except TimeoutError as error:
        return failed("timeout", error)
    except ConnectionRefusedError as error:
        return failed("refused", error)
    except (OSError, http.client.HTTPException) as error:
        return failed("closed", error)
    finally:
        if connection is not None:
            connection.close()
