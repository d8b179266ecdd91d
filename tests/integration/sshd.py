# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A way into this machine by ssh, for tests that need a host that is another one."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import InCluster, free_port, wait
from packages import needed


@dataclass(frozen=True)
class Server:
    """A way into this machine for whoever has the key, on loopback."""

    folder: Path
    port: int
    user: str = field(default_factory=getpass.getuser)

    @property
    def known(self) -> str:
        return f"[127.0.0.1]:{self.port} {(self.folder / 'host.pub').read_text()}"

    @property
    def connection(self) -> dict[str, Any]:
        """The variables of a host in the inventory that is reached so."""
        known = f"UserKnownHostsFile={self.folder / 'known_hosts'}"
        return {
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": self.user,
            "ansible_ssh_private_key_file": str(self.folder / "user"),
            "ansible_ssh_common_args": f"-F /dev/null -o {known}",
            "ansible_python_interpreter": sys.executable,
        }


@contextmanager
def an_sshd(folder: Path, *before: str) -> Iterator[Server]:
    """
    :param before: a command that starts the one after it, with another view of this machine.
    """
    program = needed("sshd", "openssh-server")
    server = Server(folder, free_port())
    server.folder.mkdir()
    for key in ("host", "user"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(server.folder / key)]
        subprocess.run(argv, check=True)
    (server.folder / "known_hosts").write_text(server.known)
    options = {
        "ListenAddress": f"127.0.0.1:{server.port}",
        "HostKey": server.folder / "host",
        "AuthorizedKeysFile": server.folder / "user.pub",
        "PidFile": "none",
        "StrictModes": "no",  # everybody may write into /tmp
        "SetEnv": f"PATH={os.environ['PATH']}",
        "Subsystem": "sftp internal-sftp",
    }
    config, log = server.folder / "config", server.folder / "log"
    config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd wants to be caged
    with log.open("w") as errors:
        running = subprocess.Popen([*before, program, "-D", "-e", "-f", config], stderr=errors)
    try:
        wait(lambda: "listening on" in log.read_text() or running.poll() is not None)
        assert running.poll() is None, log.read_text()
        yield server
    finally:
        running.terminate()
        running.wait()


@contextmanager
def a_builder(platform: InCluster, folder: Path) -> Iterator[Path]:
    """Another host that builds, and where it keeps what it and the app's own both call
    preview_state_dir. It takes root."""
    state = folder / "builder"
    state.mkdir()
    mount = f'mount --bind {state} {platform.state} && exec "$@"'
    apart = [needed("unshare", "util-linux"), "--mount", "sh", "-c", mount, "sh"]
    with an_sshd(folder / "ssh", *apart) as server:
        platform.groups = {"builders": {"hosts": {"builder": server.connection}}}
        platform.settings["preview_builder"] = "builder"
        yield state
