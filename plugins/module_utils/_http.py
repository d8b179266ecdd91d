# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One bounded GET that says how it failed, for verification.

Whatever an app behind the gateway answers, it costs no more than ``timeout`` seconds and ``LIMIT``
bytes, and leads nowhere else: a connection goes to the host and port of the URL that was asked
for, or to the address given for them, never to what a response names.
"""

from __future__ import annotations

import http.client
import io
import queue
import re
import socket
import ssl
import threading
import time
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Tuple, TypeVar
from urllib.parse import urljoin, urlsplit

LIMIT = 64 * 1024
REDIRECTS = 3

_T = TypeVar("_T")


class Answer(NamedTuple):
    """What came back from ``url``, the last one asked.

    ``trouble`` says why there is no status: ``dns``, ``refused``, ``unreachable``, ``tls`` (the
    gateway was not reached), ``timeout``, ``closed``, ``size`` (it was); else "". ``body`` is the
    start of what an error says, ``address`` what was connected to.
    """

    status: int
    url: str
    location: str = ""
    body: bytes = b""
    trouble: str = ""
    detail: str = ""
    address: str = ""


class _Failed(Exception):
    def __init__(self, trouble: str, detail: object) -> None:
        super().__init__(trouble)
        self.trouble = trouble
        self.detail = " ".join(str(detail).split())[:200]


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that remain, always more than none; raises socket.timeout when none do."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise socket.timeout("timed out")
        return left


class _Bytes(io.RawIOBase):
    """What a socket receives, up to a deadline for all of it and a limit."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        super().__init__()
        self._socket = sock
        self._deadline = deadline
        self._left = LIMIT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise _Failed("size", "more than {0} bytes".format(LIMIT))
        self._socket.settimeout(self._deadline.left())
        count = self._socket.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class _Received:
    """As much of a socket as ``http.client`` asks for to read a response."""

    def __init__(self, sock: socket.socket, deadline: _Deadline) -> None:
        self._bytes = _Bytes(sock, deadline)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._bytes)


def get(
    url: str,
    *,
    timeout: float = 5,
    context: Optional[ssl.SSLContext] = None,
    headers: Optional[Mapping[str, str]] = None,
    method: str = "GET",
    redirects: int = REDIRECTS,
    address: Optional[Tuple[str, int]] = None,
) -> Answer:
    """GET a URL within ``timeout`` seconds. A redirect is followed on the same origin only.

    :param address: (host, port) to connect to instead of what the URL's host resolves to.
    """
    deadline = _Deadline(timeout)
    while True:
        answer = _once(url, method, dict(headers or {}), context, address, deadline)
        following = _same_origin(url, answer) if redirects > 0 else ""
        if not following:
            return answer
        url, redirects = following, redirects - 1


def context(ca: str = "", trusting: bool = False) -> ssl.SSLContext:
    """What a server's certificate has to hold to: the system's authorities and those of the file
    ``ca``; nothing at all where we are ``trusting``."""
    found = ssl.create_default_context()
    if ca:
        found.load_verify_locations(ca)
    if trusting:
        found.check_hostname = False
        found.verify_mode = ssl.CERT_NONE
    return found


def origin(url: str) -> Optional[Tuple[str, str, int]]:
    """(scheme, host, port) of an http URL; None when it is none."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        return None
    return parts.scheme, parts.hostname or "", port


def _same_origin(url: str, answer: Answer) -> str:
    """Where a redirect leads when it stays on the origin of ``url``; else ""."""
    if answer.status not in (301, 302, 303, 307, 308) or not answer.location:
        return ""
    try:
        target = urljoin(url, answer.location)
    except ValueError:
        return ""
    safe = re.match(r"[!-~]{1,2000}\Z", target)
    return target if safe and origin(target) == origin(url) else ""


def _once(
    url: str,
    method: str,
    headers: Mapping[str, str],
    context: Optional[ssl.SSLContext],
    address: Optional[Tuple[str, int]],
    deadline: _Deadline,
) -> Answer:
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    sock: Optional[socket.socket] = None
    reached = ""
    try:
        sock = _connect(_resolve(*(address or (host, port)), deadline), deadline)
        reached = "{0}:{1}".format(*sock.getpeername()[:2])
        if parts.scheme == "https":
            sock = _encrypt(sock, host, context or ssl.create_default_context(), deadline)
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        lines = ["{0} {1} HTTP/1.1".format(method, target), "Host: " + parts.netloc]
        lines += ["User-Agent: ephemera.preview", "Accept: */*", "Connection: close"]
        lines += ["{0}: {1}".format(*pair) for pair in headers.items()]
        return _exchange(sock, "\r\n".join(lines) + "\r\n\r\n", deadline)._replace(
            url=url, address=reached
        )
    except _Failed as failed:
        return Answer(0, url, trouble=failed.trouble, detail=failed.detail, address=reached)
    finally:
        if sock is not None:
            sock.close()


def _exchange(sock: socket.socket, request: str, deadline: _Deadline) -> Answer:
    response: Any = http.client.HTTPResponse(_Received(sock, deadline))  # type: ignore[arg-type]
    try:
        sock.settimeout(deadline.left())
        sock.sendall(request.encode("latin-1"))
        response.begin()
    except socket.timeout as error:
        raise _Failed("timeout", error) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Failed("closed", error) from None
    body = b""
    try:
        # Only an error's first words matter; a good answer may well stream for ever.
        body = response.read1(4096) if response.status >= 400 else b""
    except (OSError, http.client.HTTPException, ValueError, _Failed):
        pass
    location = response.getheader("Location") or ""
    return Answer(response.status, "", " ".join(location.split())[:2000], body)


def _address(host: str) -> str:
    """``*.localhost`` is this machine (RFC 6761), also where the resolver does not know it."""
    return "127.0.0.1" if host == "localhost" or host.endswith(".localhost") else host


def resolve(host: str, port: Optional[int], seconds: float) -> List[Any]:
    """What ``getaddrinfo`` answers, or raises, within ``seconds``; TimeoutError after them."""
    host = _address(host)
    try:
        # A resolver has a patience of its own, which nothing can end.
        return list(
            within(seconds, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        )
    except TimeoutError:
        raise TimeoutError("no name server answered") from None


def within(seconds: float, ask: Callable[[], _T]) -> _T:
    """What ``ask`` returns or raises; TimeoutError after so many ``seconds``, when nobody
    waits for it any more."""
    found: "queue.Queue[Tuple[Any, Any]]" = queue.Queue()

    def run() -> None:
        try:
            found.put((ask(), None))
        except Exception as error:
            found.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        answer, error = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError("timed out") from None
    if error:
        raise error
    return answer  # type: ignore[no-any-return]


def _resolve(host: str, port: int, deadline: _Deadline) -> List[Any]:
    try:
        return resolve(host, port, deadline.left())
    except (TimeoutError, socket.timeout):
        raise _Failed("dns", "no name server answered") from None
    except (OSError, UnicodeError) as error:
        raise _Failed("dns", error) from None


def _connect(addresses: List[Any], deadline: _Deadline) -> socket.socket:
    failed = _Failed("unreachable", "no address")
    for number, (family, kind, protocol, _name, address) in enumerate(addresses):
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(deadline.left() / (len(addresses) - number))
            sock.connect(address)
            return sock
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            failed = _Failed("refused" if refused else "unreachable", error.strerror or error)
            if sock is not None:
                sock.close()
    raise failed


def _encrypt(
    sock: socket.socket, host: str, context: ssl.SSLContext, deadline: _Deadline
) -> socket.socket:
    try:
        sock.settimeout(deadline.left())
        return context.wrap_socket(sock, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        sock.close()
        raise _Failed("tls", error.verify_message) from None
    except (OSError, ValueError) as error:
        sock.close()
        raise _Failed("tls", error) from None
