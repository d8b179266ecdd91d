# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One command within limits: time, memory, and how much it may write."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import tempfile
import time
from typing import IO, Callable, Dict, NamedTuple, Optional, Sequence

from ansible_collections.ephemera.preview.plugins.module_utils._docker import EngineError, Ran


class Ended(NamedTuple):
    """How a command ended. `timed_out`: the deadline killed it, with all that it had started.
    `stopped` is what `watch` said when that ended it."""

    rc: int
    out: bytes
    err: str
    timed_out: bool
    stopped: str = ""


def limited(
    argv: Sequence[str],
    *,
    env: Dict[str, str],
    cwd: str,
    seconds: float,
    memory: Optional[int] = None,
    file_size: Optional[int] = None,
    out_size: Optional[int] = None,
    keep: int = 1 << 20,
    stdin: bytes = b"",
    pass_fds: Sequence[int] = (),
    grace: float = 0,
    watch: Callable[[], str] = lambda: "",
) -> Ended:
    """Run `argv` with exactly `env`, in a process group of its own.

    In bytes: `memory` bounds its address space; `file_size` each file it writes, where more is an
    error to it; `out_size` its output, where more is its end. Of each output the last `keep` are
    returned. At the deadline the whole group is killed; with `grace`, it is asked to end that many
    seconds earlier, so that a client can tell its server to stop. `watch` is asked every second,
    and ends it likewise by saying why.
    """

    def prepare() -> None:
        os.umask(0o022)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        size = out_size or file_size
        for kind, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, size)):
            if limit is not None:
                resource.setrlimit(kind, (limit, limit))
        if not out_size:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    # Files, not pipes: what a server sends as "remote: …" must not fill our memory.
    with contextlib.ExitStack() as files:
        given, out, err = (files.enter_context(tempfile.TemporaryFile()) for dummy in range(3))
        given.write(stdin)
        given.seek(0)
        # AnsibleModule.run_command knows no limits.
        with subprocess.Popen(  # pylint: disable=ansible-bad-function
            list(argv),
            env=env,
            cwd=cwd,
            stdin=given,
            stdout=out,
            stderr=err,
            pass_fds=tuple(pass_fds),
            preexec_fn=prepare,
            start_new_session=True,
        ) as process:
            why = _wait(process, time.monotonic() + seconds, grace, watch)
        return Ended(
            process.returncode,
            _tail(out, keep),
            _text(_tail(err, keep)),
            why == _DEADLINE,
            "" if why == _DEADLINE else why,
        )


SAID = 64 << 20  # bytes


def engine(argv: Sequence[str], seconds: float) -> Ran:
    """Ask the engine, by its client in this user's environment: the whole answer, or an error.

    Raises EngineError where the answer is too long: of what is cut, nobody can tell what it was.
    """
    ended = limited(argv, env=dict(os.environ), cwd="/", seconds=seconds, keep=SAID)
    if len(ended.out) >= SAID:
        raise EngineError("what the host holds takes more than {0} MiB to say.".format(SAID >> 20))
    err = ended.err
    if ended.timed_out:
        err += "the engine did not answer within {0:g} s".format(seconds)
    return Ran(ended.rc, ended.out.decode("utf-8", "replace"), err)


_DEADLINE = "deadline"


def _wait(
    process: subprocess.Popen[bytes],
    deadline: float,
    grace: float,
    watch: Callable[[], str],
) -> str:
    """Wait for the end of the process, or end it. Why it was ended, "" when it ended by itself."""
    why = ""
    try:
        while not why:
            left = deadline - grace - time.monotonic()
            if _ends_within(process, min(max(left, 0.0), 1.0)):
                break
            why = watch() or (_DEADLINE if left <= 1 else "")
        if why and grace:
            _signal_group(process.pid, signal.SIGINT)
            _ends_within(process, grace)
    finally:
        # Also after a good end: nothing that it started may outlive it.
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
    return why


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process ends by itself in that time; returns as soon as it does.

    Popen.wait with a timeout sleeps between looks, up to 50 ms too long.
    """
    try:
        process_fd = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # Python 3.8, Linux before 5.3
        try:
            process.wait(seconds)
            return True
        except subprocess.TimeoutExpired:
            return False
    try:
        poll = select.poll()
        poll.register(process_fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(process_fd)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def _tail(stream: IO[bytes], keep: int) -> bytes:
    stream.seek(max(stream.seek(0, os.SEEK_END) - keep, 0))
    return stream.read(keep)


def _text(data: bytes) -> str:
    """Printable text: control characters of a hostile server never reach a terminal or a log."""
    text = data.decode("utf-8", "replace")
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text.replace("\r", "\n"))
