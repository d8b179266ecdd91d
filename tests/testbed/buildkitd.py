"""A BuildKit daemon apart from Docker's: the one on PATH, else built from Go modules."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from gomodules import built
from packages import program

SOURCES = Path(__file__).resolve().parent / "buildkit"


def buildkitd() -> str:
    """Where the program is. It takes runc.

    :raises FileNotFoundError: it is missing, and so is Go to build it.
    """
    program("runc", "runc")
    return without_runc()


def without_runc() -> str:
    return shutil.which("buildkitd") or built(SOURCES, "buildkitd", "tool")


if __name__ == "__main__":
    try:
        print(without_runc())
    except FileNotFoundError as missing:
        sys.exit(f"buildkitd: {missing}")
