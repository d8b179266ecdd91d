"""Who uses a preview while it changes."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class Heard(NamedTuple):
    """An answer, and when it was asked for, in seconds of ``time.monotonic``."""

    at: float
    status: int
    text: str


Get = Callable[[], tuple[int, str]]


class Kept:
    """One who asks for a page by one connection, as long as that is kept."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.connections: set[int] = set()
        """The port of each that was made."""

    def __call__(self) -> tuple[int, str]:
        try:
            self.connection.request("GET", "/", headers={"Host": self.host})
            self.connections.add(self.connection.sock.getsockname()[1])
            answer = self.connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            self.connection.close()
            raise


class Visitors:
    """Two who ask for a page again and again until they are stopped, each time anew, and others."""

    def __init__(self, get: Get, *others: Get) -> None:
        self.heard: list[Heard] = []
        self.stopped = threading.Event()
        self.threads = [
            threading.Thread(target=self.ask, args=[each], daemon=True)
            for each in (get, get, *others)
        ]

    def ask(self, get: Get) -> None:
        while not self.stopped.is_set() and len(self.heard) < 20000:
            at = time.monotonic()
            try:
                self.heard.append(Heard(at, *get()))
            except OSError as error:
                self.heard.append(Heard(at, 0, str(error)))
            time.sleep(0.02)

    def __enter__(self) -> Visitors:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *dummy: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(timeout=20)

    @property
    def lost(self) -> list[Heard]:
        return [each for each in self.heard if each.status != 200]

    @property
    def silence(self) -> float:
        """The seconds from the first answer that was lost to the first good one after the last."""
        if not self.lost:
            return 0.0
        began, ended = (found(each.at for each in self.lost) for found in (min, max))
        return min(each.at for each in self.heard if each.at > ended) - began
