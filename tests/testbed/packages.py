"""Programs that only tests need, from the distribution's packages."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

T = TypeVar("T")
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
IN_CI = os.environ.get("CI") == "true"


def program(name: str, package: str) -> str:
    """Where a program is; as root on Debian it is installed when it is missing."""
    found = shutil.which(name, path=PATH)
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        with apt():
            if not shutil.which(name, path=PATH):
                _install(package)
        found = shutil.which(name, path=PATH)
    if not found:
        raise FileNotFoundError(f"{name} is missing. Install it (Debian: apt install {package}).")
    return found


@contextmanager
def apt() -> Iterator[None]:
    """Have apt for oneself: of two that work at once one fails, and tests run side by side."""
    lists = os.open("/var/lib/apt/lists", os.O_RDONLY)
    try:
        fcntl.flock(lists, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lists)


def _install(package: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
        subprocess.run(["apt-get", "-qq", *command], env=environment, check=True)


def needed(name: str, package: str) -> str:
    """The same for a test."""
    return had(lambda: program(name, package))


def had(get: Callable[[], T]) -> T:
    """What a test needs: without it, it fails in CI, and is skipped elsewhere."""
    try:
        return get()
    except (FileNotFoundError, subprocess.CalledProcessError) as missing:
        if IN_CI:
            pytest.fail(str(missing))
        pytest.skip(str(missing))
