"""What tests take from Go modules: programs built from them, and files that are in them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ephemera-preview"
BUILDING = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath"}
"""How all programs are built, so that what two of them share is compiled once."""


def go() -> str | None:
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def built(sources: Path, name: str, package: str = ".") -> str:
    """A program of the module in a folder, built once a machine.

    :raises FileNotFoundError: Go is missing.
    """
    digest = hashlib.sha256()
    for source in (sources / "go.sum", *sorted(sources.glob("*.go"))):
        digest.update(source.read_bytes())
    made = CACHE / sources.name / digest.hexdigest()[:12] / name
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        unfinished = made.with_suffix(f".{os.getpid()}")
        command = [_compiler(), "build", "-ldflags", "-s -w", "-o", str(unfinished), package]
        subprocess.run(command, cwd=sources, env=os.environ | BUILDING, check=True)
        unfinished.rename(made)
    return str(made)


def folder(module: str, sources: Path | str = "/") -> Path:
    """Where the files of a module are, fetched once a machine.

    :param module: with its version, or without where ``sources`` require it.
    :raises FileNotFoundError: Go is missing.
    """
    command = [_compiler(), "mod", "download", "-json", module]
    done = subprocess.run(command, cwd=sources, stdout=subprocess.PIPE, check=True)
    return Path(json.loads(done.stdout)["Dir"])


def _compiler() -> str:
    found = go()
    if not found:
        raise FileNotFoundError("Go is missing. Install it: 1.21 or newer.")
    return found
