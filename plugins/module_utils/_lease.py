# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One writer a preview: a lease with an owner and an expiry, kept beside the previews.

A lease is one line ``owner until kind host pid start`` in ``<state_dir>/leases/<name>``. ``kind``
is ``up`` or ``down``; a ``down`` takes the lease from any ``up`` and keeps it as a tombstone until
nothing is left. Every change happens under one lock of the host, by the host's own clock.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple


class Lease(NamedTuple):
    """Who may change a preview, and until when (seconds since the epoch, the host's clock)."""

    owner: str
    until: int
    kind: str
    host: str
    pid: int
    start: str


def parse(line: str) -> Optional[Lease]:
    """The lease in a file's first line, or None where there is none that can be read."""
    parts = line.split()
    if len(parts) != 6:
        return None
    try:
        return Lease(parts[0], int(parts[1]), parts[2], parts[3], int(parts[4]), parts[5])
    except ValueError:
        return None


def _process_start(pid: int) -> str:
    """When a process of this machine began (clock ticks since boot), "" when it is gone."""
    try:
        with open("/proc/{0}/stat".format(pid)) as handle:
            stat = handle.read()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def _machine() -> str:
    """This machine in this boot: a PID says nothing on another one or after a restart."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as handle:
            boot = handle.read().strip()[:8]
    except OSError:
        boot = "0"
    return "{0}/{1}".format(socket.gethostname() or "unknown", boot)


# Ansible reads a plugin before it makes a process of its own for each task. Asked later, that one
# would tell another parent where Ansible was killed meanwhile.
_READ_BY = os.getpid()


def holder(pid: Optional[int] = None) -> str:
    """This run as the last three fields of a lease."""
    pid = pid or (os.getppid() if os.getpid() == _READ_BY else _READ_BY)
    return "{0} {1} {2}".format(_machine(), pid, _process_start(pid) or "0")


def is_dead(lease: Lease) -> bool:
    """Whether the run that holds the lease is known to be gone (it ran on this machine)."""
    return lease.host == _machine() and _process_start(lease.pid) != lease.start


def verdict(
    line: str, action: str, run: str, kind: str, now: int, dead: str = ""
) -> Tuple[bool, str]:
    """Whether a run may have the lease that is in ``line``, and whose it ends: what ``_SCRIPT``
    says where a lease is a file.

    :param action: ``take``, or ``keep`` what this run already has.
    """
    held = parse(line)
    if held is not None and held.owner == run:
        return True, ""
    if action == "keep":
        return False, ""
    if held is None:
        return True, ""
    over = held.until <= now or held.owner == dead or (kind == "down" and held.kind == "up")
    return over, held.owner if over else ""


# What another run left working on this preview would work against us.
_END = r"""
    for process in /proc/[0-9]*; do
        read -r program <"$process/comm" || continue
        case $program in docker* | git* | timeout | python*) ;; *) continue ;; esac
        tr '\0' / <"$process/cmdline" | grep -Fq "$state/previews/$name/" &&
            kill -9 "${process#/proc/}"
    done 2>/dev/null
"""

# $1 state folder, $2 name, $3 take|keep|drop|forget, $4 owner, $5 seconds, $6 kind,
# $7 "host pid start", $8 an owner known to be dead.
# Prints "ok", "ok over <lease>" or "held <lease>".
# With "take" and "keep", standard input replaces the preview's state where it is not empty.
_SCRIPT = r"""
state=$1 name=$2 action=$3 owner=$4 seconds=$5 kind=$6 holder=$7 dead=$8
umask 077
mkdir -p "$state/leases" "$state/previews" || exit 73
lease=$state/leases/$name
exec 9>"$state/leases/.lock"
flock -w 20 9 || { echo "the lock $state/leases/.lock was not free for 20 s" >&2; exit 75; }
now=$(date +%s)
line=
[ ! -f "$lease" ] || read -r line <"$lease"
set -- $line
[ $# -eq 6 ] || line=
verdict=held over=
case $action in
drop) [ "${1:-}" != "$owner" ] || rm -f "$lease"; echo ok; exit 0 ;;
forget) [ "${1:-}" != "$owner" ] || rm -rf "$state/previews/$name" "$lease"; echo ok; exit 0 ;;
keep) [ "${1:-}" != "$owner" ] || verdict=ok ;;
take)
    if [ -z "$line" ] || [ "$1" = "$owner" ]; then verdict=ok
    elif [ "$2" -le "$now" ] || [ "$1" = "$dead" ]; then verdict=ok over=$line
    elif [ "$kind" = down ] && [ "$3" = up ]; then verdict=ok over=$line
    fi ;;
esac
if [ $verdict = held ]; then echo "held $line"; exit 0; fi
draft=$state/leases/.$name
echo "$owner $((now + seconds)) $kind $holder" >"$draft" && mv "$draft" "$lease" || exit 73
if [ -n "$over" ]; then
    @end@
fi
echo "ok${over:+ over $over}"
[ "$action" = drop ] || {
    text=$(cat)
    [ -z "$text" ] || {
        mkdir -p "$state/previews/$name" &&
        printf '%s\n' "$text" >"$state/previews/$name/preview.json.new" &&
        mv "$state/previews/$name/preview.json.new" "$state/previews/$name/preview.json"
    } || exit 73
}
""".replace("@end@", _END.strip())


def command(
    action: str, preview: Dict[str, Any], kind: str, seconds: int, dead: str = ""
) -> List[str]:
    """The argument list that takes, keeps or drops the lease of a preview for its run.

    ``forget`` drops it together with the preview's folder.
    """
    return [
        "sh",
        "-c",
        _SCRIPT,
        "lease",
        preview["state_dir"],
        preview["name"],
        action,
        preview["run"],
        str(seconds),
        kind,
        holder(),
        dead,
    ]


def ending(preview: Mapping[str, Any]) -> List[str]:
    """The argument list that ends what another run has left working on a preview on this host,
    where the lease is kept elsewhere."""
    script = "state=$1 name=$2\n" + _END + "exit 0\n"
    return ["sh", "-c", script, "end", preview["state_dir"], preview["name"]]


def describe(lease: Lease, now: int) -> str:
    """Who holds the lease, for a person: "an up on ci-7 (process 812), for at most 340 s"."""
    return "{0} {1} on {2} (process {3}), for at most {4} s".format(
        "an" if lease.kind == "up" else "a",
        lease.kind,
        lease.host.split("/")[0],
        lease.pid,
        max(0, lease.until - now),
    )


def refusal(name: str, lease: Lease, now: int) -> str:
    """The sentence of a run that meets another one."""
    if lease.kind == "down":
        return "{0} is being taken down by {1}. Run up again when that has ended.".format(
            name, describe(lease, now)
        )
    return (
        "{0} is held by {1}. Wait for it, or take the preview down: down ends a running up.".format(
            name, describe(lease, now)
        )
    )
