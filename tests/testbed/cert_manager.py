"""cert-manager, built from its Go module, and the kinds of objects that it knows."""

from __future__ import annotations

import sys
from pathlib import Path

from gomodules import built, folder

SOURCES = Path(__file__).resolve().parent / "certmanager"


def controller() -> str:
    """Where the program is.

    :raises FileNotFoundError: Go is missing to build it.
    """
    return built(SOURCES, "certmanager")


def definitions() -> Path:
    """The folder of its CustomResourceDefinitions."""
    return folder("github.com/cert-manager/cert-manager", SOURCES) / "deploy" / "crds"


if __name__ == "__main__":
    try:
        print(controller())
    except FileNotFoundError as missing:
        sys.exit(f"cert-manager: {missing}")
