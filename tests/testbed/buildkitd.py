"""A BuildKit daemon apart from Docker's: the one on PATH, else built from Go modules."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from packages import program

SOURCES = Path(__file__).resolve().parent / "buildkit"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ephemera-preview"


def buildkitd() -> str:
    """Where the program is. It takes runc.

    :raises FileNotFoundError: it is missing, and so is Go to build it.
    """
    program("runc", "runc")
    return shutil.which("buildkitd") or build()


def build() -> str:
    compiler = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if not compiler:
        raise FileNotFoundError("buildkitd is missing, and so is Go to build it. Install one.")
    digest = hashlib.sha256((SOURCES / "go.sum").read_bytes()).hexdigest()[:12]
    built = CACHE / "buildkit" / digest / "buildkitd"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath"}
        unfinished = built.with_suffix(f".{os.getpid()}")
        command = [compiler, "build", "-ldflags", "-s -w", "-o", str(unfinished), "tool"]
        subprocess.run(command, cwd=SOURCES, env=environment, check=True)
        unfinished.rename(built)
    return str(built)


if __name__ == "__main__":
    try:
        print(shutil.which("buildkitd") or build())
    except FileNotFoundError as missing:
        sys.exit(f"buildkitd: {missing}")
