"""Who uses a preview while it changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class Heard(NamedTuple):
    """An answer, and when it was asked for, in seconds of ``time.monotonic``."""

    at: float
    status: int
    text: str


class Visitors:
    """Two who ask for a page again and again until they are stopped, each time anew."""

    def __init__(self, get: Callable[[], tuple[int, str]]) -> None:
        self.get = get
        self.heard: list[Heard] = []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.ask, daemon=True) for dummy in range(2)]

    def ask(self) -> None:
        while not self.stopped.is_set() and len(self.heard) < 20000:
            at = time.monotonic()
            try:
                self.heard.append(Heard(at, *self.get()))
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
