"""Images of the engine from a registry."""

from __future__ import annotations

import subprocess
import threading

REGISTRY_TIMEOUT = 10  # seconds until the registry must have begun to answer


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


def pull(name: str) -> str:
    """Pull an image; the trouble, or nothing. A registry that stays silent is given up soon."""
    process = subprocess.Popen(
        ["docker", "pull", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr
    silent = threading.Timer(REGISTRY_TIMEOUT, process.kill)
    silent.start()
    process.stdout.readline()  # comes as soon as the registry has named the layers
    silent.cancel()
    trouble = process.communicate()[1]
    if process.returncode == 0:
        return ""
    return trouble.strip() or f"the registry did not answer within {REGISTRY_TIMEOUT} s"
