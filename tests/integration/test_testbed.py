"""What the tests themselves stand on, where a mistake of it would show in another run only."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from pathlib import Path

from conftest import ROOT, docker


def test_what_an_earlier_run_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    kept, left = (f"{word}-{uuid.uuid4().hex[:8]}" for word in ("kept", "left"))

    def leftovers(*arguments: str) -> subprocess.CompletedProcess[str]:
        """By a record and a lock of its own: those of the run that we are in stay as they are."""
        return subprocess.run(
            [str(ROOT / "tests" / "testbed" / "leftovers"), *arguments],
            env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    docker("network", "create", kept)
    try:
        make = f"docker network create {left} && docker volume create {left} && kill -9 $PPID"
        assert leftovers("run", "sh", "-c", make).returncode == -signal.SIGKILL
        refused = leftovers("run", "true")
        assert refused.returncode == 1
        assert "an earlier run may have left things on this engine" in refused.stderr
        swept = leftovers("sweep")
        assert swept.returncode == 0, swept.stderr
        assert f"removing network {left}" in swept.stderr
        assert f"removing volume {left}" in swept.stderr
        networks = docker("network", "ls", "--format", "{{.Name}}").splitlines()
        assert (kept in networks, left in networks) == (True, False)
        assert left not in docker("volume", "ls", "--quiet").splitlines()
        assert leftovers("run", "true").returncode == 0
        failed = leftovers("run", "docker", "volume", "create", left)
        assert (failed.returncode, f"volume {left}" in failed.stderr) == (1, True)
        assert leftovers("sweep").returncode == 0
        assert left not in docker("volume", "ls", "--quiet").splitlines()
    finally:
        docker("network", "rm", kept, left, check=False)
        docker("volume", "rm", "--force", left, check=False)
