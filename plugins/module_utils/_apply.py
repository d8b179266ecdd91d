# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A preview's Compose project applied to its host: the command, and what its output says. Pure."""

from __future__ import annotations

import re
from typing import Any, List, Mapping, NamedTuple, Sequence

from ansible_collections.ephemera.preview.plugins.module_utils import _diagnose

KEPT = 1 << 16
"""So many bytes of what Compose says at last are looked at."""

# $1 is the project's file, $2 the project's name, $3 seconds. $4 is "write" to replace the file,
# "first" where something is new for certain, "check" where nothing may change, and "aside" where
# the file that is there stays, for as long as the run $5 holds the lease. The rest is the call of
# Compose, if any. The project comes by standard input. Whether anything has changed is seen in what
# the engine holds: what Compose says differs by its version.
SCRIPT = r"""
file=$1 name=$2 limit=$3 mode=$4 run=$5
shift 5
umask 077
if [ $mode = check ]; then new=$(mktemp); else new=$(mktemp "$file.XXXXXX"); fi || exit 73
trap 'rm -f "$new"' EXIT
cat >"$new" || exit 73
state=changed read=/dev/null
! cmp -s "$new" "$file" || state=same
case $mode in
check) echo $state; exit ;;
aside)
    read=$new
    read -r holder rest <"${file%/previews/*}/leases/$name" && [ "$holder" = "$run" ] || exit 75
    ;;
write | first) [ $state = same ] || mv -f "$new" "$file" || exit 73 ;;
esac
[ $# -gt 0 ] || { echo $state; exit; }
look() {
    set -- $(docker ps --all --quiet --no-trunc --filter "label=com.docker.compose.project=$name")
    [ $# -eq 0 ] ||
        docker inspect --type container --format '{{.ID}} {{.State.StartedAt}}' "$@" | sort
}
[ $mode != first ] || state=changed
[ $state = changed ] || before=$(look)
said=$({
    timeout -k 10 "$limit" "$@" <"$read" 2>&1
    printf '\n%s\n' $?
} | tail -c 65536)
[ $state = changed ] || [ "$before" = "$(look)" ] || state=changed
printf '%s\n%s\n' $state "$said"
"""

# "Container shop-pr-42-web-1  Started"; an error is no single word.
_PROGRESS = re.compile(r" (?:\S+ )?\S+ {1,2}[A-Z][a-z]+ ?\Z")


def command(preview: Mapping[str, Any], start: str, check: bool) -> List[str]:
    """The argument list that writes the project and starts its services.

    :param start: ``data``, ``all`` or ``none``.
    """
    wanted = [s["name"] for s in preview["services"] if s["data"] or start == "all"]
    there = {c["service"] for c in preview["observed"]["containers"] if not c["oneoff"]}
    mode = "write" if start == "none" or there.issuperset(wanted) else "first"
    argv = _script(preview, "check" if check else mode)
    if not wanted or start == "none":
        return argv
    argv += [*compose(preview, "plain"), *_UP]
    # What an earlier commit had and this one has not. Data services know nothing of the others.
    return argv + (["--remove-orphans"] if start == "all" else ["--", *wanted])


def beforehand(preview: Mapping[str, Any]) -> List[str]:
    """The argument list that starts new data services while images are built.

    Empty where there are none, or where any service is there: one that serves may be using a data
    service, or its volume, also by another name.
    """
    data = data_services(preview)
    if not data or any(not c["oneoff"] for c in preview["observed"]["containers"]):
        return []
    return [*_script(preview, "aside"), *compose(preview, "plain", "-"), *_UP, "--", *data]


def data_services(preview: Mapping[str, Any]) -> List[str]:
    """Their names: databases, caches, queues."""
    return [service["name"] for service in preview["services"] if service["data"]]


_UP = ("up", "--detach", "--no-build", "--quiet-pull")


def _script(preview: Mapping[str, Any], mode: str) -> List[str]:
    limit = preview["settings"]["preview_verify_timeout"]
    about = [path(preview), preview["name"], str(limit), mode, preview["run"]]
    return ["sh", "-c", SCRIPT, "apply", *about]


def compose(preview: Mapping[str, Any], progress: str, file: str = "") -> List[str]:
    """The beginning of a call of Compose for a preview's project."""
    return [
        "docker", "compose", "--ansi", "never", "--progress", progress,
        "--project-directory", preview["dir"], "--project-name", preview["name"],
        "--file", file or path(preview),
    ]  # fmt: skip


def path(preview: Mapping[str, Any]) -> str:
    """Where the project is on its host."""
    return str(preview["dir"]) + "/compose.yaml"


class Applied(NamedTuple):
    """What came of it. ``late``: its deadline ended it. ``said``: why it failed, to be shown."""

    changed: bool
    failed: bool
    late: bool
    said: List[str]


def parse(output: str, secrets: Sequence[str] = ()) -> Applied:
    """What came of the project out of what ``SCRIPT`` printed."""
    state, dummy, rest = output.rstrip("\n").partition("\n")
    said, dummy, code = rest.rpartition("\n")
    if len(said.encode("utf-8", "replace")) >= KEPT - 8:
        # Where it was cut, the end of a secret may stand, which nobody can tell.
        said = said[max(map(len, secrets), default=0) :]
    lines = [line for line in said.split("\n") if not _PROGRESS.match(line)]
    return Applied(
        state == "changed",
        code not in ("", "0"),
        code == "124",
        _diagnose.presentable(lines, secrets),
    )
