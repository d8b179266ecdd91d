# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compose itself, asked for the normal form of a file that has passed the screen.

It gets a file of ours, an environment without variables and an empty home, and finds nothing of
the checkout: no path in that file makes ``config`` open anything.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from typing import Any, Dict, List, Optional

from ansible_collections.ephemera.preview.plugins.module_utils import _yaml
from ansible_collections.ephemera.preview.plugins.module_utils._refusal import Refused, plain
from ansible_collections.ephemera.preview.plugins.module_utils._run import limited

FOLDERS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
    "~/.docker/cli-plugins",
)
MEMORY = 2 << 30
"""Address space; Compose itself reserves 1 GiB of it."""

OUTPUT_MAX = 4 << 20


class Unavailable(Exception):
    """Compose is missing or too old. The message says what to do."""


def find(given: Optional[str] = None) -> List[str]:
    """How Compose is called on this machine. Raises Unavailable."""
    if given:
        return [given]
    for folder in FOLDERS:
        program = os.path.join(os.path.expanduser(folder), "docker-compose")
        if os.access(program, os.X_OK):
            return [program]
    program_found = shutil.which("docker-compose")
    if program_found:
        return [program_found]
    docker = shutil.which("docker")
    if docker:
        return [docker, "compose"]
    raise Unavailable(
        "there is no Docker Compose on this machine. Install the plugin docker-compose-v2 (Debian, "
        "Ubuntu) or docker-compose-plugin (Docker's own repository)."
    )


def normal_form(
    document: Dict[str, Any], project: str, file: str, program: List[str], timeout: float
) -> Dict[str, Any]:
    """What Compose makes of a document whose ``$`` are doubled; so are those of the result.

    :param file: the author's name of the file, for messages.
    Raises Refused when Compose does not take the document, Unavailable when it can't be asked.
    """
    with tempfile.TemporaryDirectory(prefix="ephemera-preview-") as work:
        home = os.path.join(work, "home")
        os.mkdir(home)
        written = os.path.join(work, "compose.yaml")
        with open(written, "w", encoding="ascii") as stream:
            stream.write(_yaml.emit(document))
        argv = program + ["-f", written, "-p", project, "--project-directory", work]
        argv += ["--env-file", os.devnull, "--profile", "*"]
        argv += ["config", "--no-path-resolution", "--format", "json"]
        environment = {
            "COMPOSE_EXPERIMENTAL_GIT_REMOTE": "false",
            "COMPOSE_EXPERIMENTAL_OCI_REMOTE": "false",
            "DOCKER_CONFIG": home,
            "GOMAXPROCS": "2",
            "HOME": home,
            "LC_ALL": "C",
            "PATH": os.defpath,
        }
        try:
            ended = limited(
                argv,
                env=environment,
                cwd=home,
                seconds=timeout,
                memory=MEMORY,
                file_size=OUTPUT_MAX,
                keep=OUTPUT_MAX,
            )
        except OSError as error:
            raise Unavailable("{0} can't be run: {1}.".format(program[0], error.strerror)) from None
        if ended.timed_out:
            raise Refused(
                ["{0}: Compose was not done with it within {1:g} seconds.".format(file, timeout)]
            )
        if ended.rc == 0 and len(ended.out) < OUTPUT_MAX:
            try:
                found = json.loads(ended.out.decode("utf-8"))
            except (ValueError, RecursionError):
                found = None
            if isinstance(found, dict):
                return found
        if len(ended.out) >= OUTPUT_MAX:
            raise Refused(
                [
                    "{0}: what Compose makes of it is larger than {1} MiB. Are there long ranges "
                    "of ports?".format(file, OUTPUT_MAX >> 20)
                ]
            )
        raise _complaint(ended.err, written, file, ended.rc)


def _complaint(stderr: str, written: str, file: str, rc: int) -> Exception:
    """What Compose says, in its own words, about the file under its own name."""
    if re.search(
        r"unknown (shorthand )?flag|unknown docker command|is not a docker command", stderr
    ):
        return Unavailable(
            "this machine's Compose is too old or no Compose: {0}. Version 2.40 is "
            "known "
            "to work.".format(plain(stderr.strip().splitlines()[0], 200))
        )
    if "out of memory" in stderr or "fatal error: " in stderr or "runtime/cgo" in stderr:
        return Refused(["{0}: Compose ran out of the memory it is allowed.".format(file)])
    lines = [line for line in stderr.splitlines() if line.strip() and "level=warning" not in line]
    said = " ".join(lines[-3:]).replace(written, file).replace(os.path.dirname(written), ".")
    said = re.sub(r"^(?:validating )?{0}: ".format(re.escape(file)), "", said.strip())
    if not said:
        said = "nothing, and ended with {0}".format(rc)
    return Refused(
        ["{0}: Compose does not take it: {1}.".format(file, plain(said, 600).rstrip("."))]
    )
