"""Programs that only tests need, from the distribution's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from typing import TypeVar

import pytest

T = TypeVar("T")
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
IN_CI = os.environ.get("CI") == "true"


def program(name: str, package: str) -> str:
    """Where a program is; as root on Debian it is installed when it is missing."""
    found = shutil.which(name, path=PATH)
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        waits = ["-o", "DPkg::Lock::Timeout=300"]  # for another test that installs something
        for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
            subprocess.run(["apt-get", "-qq", *waits, *command], env=environment, check=True)
        found = shutil.which(name, path=PATH)
    if not found:
        raise FileNotFoundError(f"{name} is missing. Install it (Debian: apt install {package}).")
    return found


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
