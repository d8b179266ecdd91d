# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Docker host holds of our previews: one observer, one shape.

``observe`` takes a callable that runs an argument list where the engine is, so that modules,
action plugins and inventory plugins share it. It asks the engine in parallel, in one command.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils._names import PREFIX

GATEWAY = "ephemera-preview-gateway"
BUILDX = ".buildx"
"""The folder in a preview's own where buildx notes each build that it begins."""
# A volume that an image asks for has no name of ours and no label of ours.
ANONYMOUS = re.compile(r"[0-9a-f]{64}\Z")


class Ran(NamedTuple):
    """The outcome of one command."""

    rc: int
    out: str
    err: str


Run = Callable[[Sequence[str]], Ran]


class EngineError(Exception):
    """The engine could not be asked. The message says what it answered."""


# Prints what is in force of the firewall around previews, by IP version, or why it cannot be seen.
FIREWALL = r"""
firewall() {
    PATH=$PATH:/usr/sbin:/sbin
    for v in 4 6; do
        program=iptables-save
        [ "$v" = 4 ] || program=ip6tables-save
        [ "$v" = 4 ] || [ -e /proc/net/if_inet6 ] || continue
        command -v "$program" >/dev/null 2>&1 || { printf 'nofirewall\t\n'; continue; }
        if rules=$("$program" -t filter 2>&1); then
            printf '%s\n' "firewall$t$v" "$rules" |
                sed -n "1p; /^-A .*\(EPHEMERA-\|DOCKER-USER\)/s/^/firewall$t$v$t/p"
        else
            printf 'nofirewall\t%s\n' "$(printf '%s' "$rules" | tr '\n' ' ')"
        fi
    done
}
"""

# Prints in one line what buildx says of the builder $1.
BUILDER = r"""
bounded() { if command -v timeout >/dev/null 2>&1; then timeout 20 "$@"; else "$@"; fi; }
builder() {
    printf 'builder\t%s\n' "$(bounded docker buildx inspect "$1" 2>&1 | tr '\n\t' '| ')"
}
"""

# Every line of output is "<kind> TAB <JSON or text>". $1 is a preview's name or empty for all,
# $2 the state folder; $3 and $4 are the formats below; $5 is "firewall" to look at that too.
_SCRIPT = (
    FIREWALL
    + r"""
name=$1 state=$2
t=$(printf '\t')
tmp=$(mktemp -d) || exit 70
# Inspect what was listed; what another run has removed since then is no error.
inspect() {
    what=$1 format=$2
    shift 2
    said=$(docker "$what" inspect --format "$format" "$@" 2>&1 >&3) && return
    said=$(printf '%s\n' "$said" | grep -iv -e 'no such' -e 'not found') || return 0
    printf '%s\n' "$said" >&2
    return 1
} 3>&1
trap 'rm -rf "$tmp"' EXIT
docker ps --all --no-trunc --format "container$t$3" >"$tmp/1" 2>"$tmp/e1" &
p1=$!
{
    ids=$(docker network ls --quiet --no-trunc) &&
        inspect network "network$t$4" $ids
} >"$tmp/2" 2>"$tmp/e2" &
p2=$!
{
    all=$(docker volume ls --format "{{.Name}}$t{{.Label \"ephemera.preview/name\"}}") &&
        ids=$(printf '%s\n' "$all" | while IFS=$t read -r volume of; do
            case ${name:+$volume} in "${name}_"?*) of=$name ;; esac
            [ "$of" != "${name:-$of}" ] || [ -z "$of" ] || echo "$volume"
        done) &&
        { [ -z "$ids" ] || inspect volume "volume$t{{json .}}" $ids; }
} >"$tmp/3" 2>"$tmp/e3" &
p3=$!
docker image ls --no-trunc --filter "reference=ephemera-preview/${name:-*}/*" \
    --format "image$t{{json .}}" >"$tmp/4" 2>"$tmp/e4" &
p4=$!
{
    for folder in "$state"/previews/${name:-*}/; do
        [ -d "$folder" ] || continue
        n=${folder%/}; n=${n##*/}
        printf 'folder\t%s\n' "$n"
        [ -f "$folder/preview.json" ] || continue
        printf 'state\t%s\t' "$n"; tr -d '\n' <"$folder/preview.json"; echo
    done
    for lease in "$state"/leases/${name:-*}; do
        [ -f "$lease" ] || continue
        printf 'lease\t%s\t' "${lease##*/}"; head -n 1 "$lease"
    done
    for route in "$state"/gateway/routes/${name:-*}.yaml; do
        [ -f "$route" ] || continue
        n=${route##*/}
        printf 'route\t%s\t%s\n' "${n%.yaml}" "$(sha256sum <"$route" | cut -d ' ' -f 1)"
    done
    printf 'now\t%s\n' "$(date +%s)"
    [ -z "$5" ] || firewall
} >"$tmp/5"
for p in $p1 $p2 $p3 $p4; do wait $p || failed=1; done
[ -z "${failed:-}" ] || { cat "$tmp"/e? >&2; exit 69; }
cat "$tmp"/[1-5]
"""
)

# Each label is asked for by its key: the CLI's own list joins them with commas, so that a value
# could pose as another label.
_LABELS = ("owner", "name", "app", "number", "schema", "service")
_CONTAINER = "{%s}" % ",".join(
    ['"%s":{{json .%s}}' % (key, key) for key in ("ID", "Names", "Image", "State", "Status")]
    + ['"%s":{{json .%s}}' % (key, key) for key in ("Networks", "CreatedAt", "Mounts")]
    + [
        '"compose.%s":{{json (.Label "com.docker.compose.%s")}}' % (key, key)
        for key in ("service", "oneoff", "image", "project")
    ]
    + ['"%s%s":{{json (.Label "%s%s")}}' % (PREFIX, key, PREFIX, key) for key in _LABELS]
)
_NETWORK = '{"Name":{{json .Name}},"Labels":{{json .Labels}},"Config":{{json .IPAM.Config}}}'


def _container(raw: Dict[str, Any]) -> Dict[str, Any]:
    health = re.search(r"\((?:health: )?(healthy|unhealthy|starting)\)", raw["Status"])
    code = re.match(r"(?:Exited|Restarting) \((\d+)\)", raw["Status"])
    return {
        "id": raw["ID"],
        "name": raw["Names"].split(",")[0],
        "service": raw["compose.service"],
        "oneoff": raw["compose.oneoff"] == "True",
        "image": raw["Image"],
        "image_id": raw["compose.image"],
        "state": raw["State"],
        "health": health.group(1) if health else "",
        "exit_code": int(code.group(1)) if code else None,
        "networks": [n for n in raw["Networks"].split(",") if n],
        "anonymous": [m for m in raw["Mounts"].split(",") if ANONYMOUS.match(m)],
        "created": raw["CreatedAt"],
        "project": raw["compose.project"],
        "labels": {k: v for k, v in raw.items() if k.startswith(PREFIX) and v},
    }


def _named(raw: Dict[str, Any]) -> Dict[str, Any]:
    return {
        "name": raw["Name"],
        "labels": {k: v for k, v in (raw.get("Labels") or {}).items() if k.startswith(PREFIX)},
    }


def _network(raw: Dict[str, Any]) -> Dict[str, Any]:
    subnets = [config["Subnet"] for config in raw.get("Config") or [] if config.get("Subnet")]
    return dict(_named(raw), subnets=subnets)


def _volume(raw: Dict[str, Any]) -> Dict[str, Any]:
    return dict(_named(raw), created=raw.get("CreatedAt", ""))


_SHAPES = {"container": _container, "network": _network, "volume": _volume}


class Firewall(NamedTuple):
    """What ``FIREWALL`` printed: lines by IP version, or ``said``, why not; "" without iptables."""

    rules: Mapping[int, List[str]] = {}
    said: Optional[str] = None

    def read(self, kind: str, rest: str) -> "Firewall":
        """The same with one more line of it."""
        if kind == "nofirewall":
            return self._replace(said=rest.strip())
        version, dummy, line = rest.partition("\t")
        lines = [*self.rules.get(int(version), []), *([line] if line else [])]
        return self._replace(rules={**self.rules, int(version): lines})


def _json(text: str) -> Optional[Dict[str, Any]]:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def empty(name: str) -> Dict[str, Any]:
    """The observer's shape of a preview of which nothing exists."""
    return {
        "name": name,
        "containers": [],
        "networks": [],
        "volumes": [],
        "images": [],
        "foreign": [],
        "folder": False,
        "route": "",
        "applied": {},
        "state": {},
        "lease": "",
    }


def _takes_name(kind: str, item: Dict[str, Any], name: str) -> bool:
    """Whether a thing stands where one of the preview ``name`` would: same name, other owner."""
    if kind == "containers":
        return bool(item["project"] == name or item["name"].startswith(name + "-"))
    return bool(item["name"].startswith(name + "_"))


def parse(output: str, name: str = "") -> Dict[str, Any]:
    """The observer's shape out of its command's output.

    :param name: look at this preview only; it is then always present in ``previews``.
    :returns: ``{"previews": {name: {...}}, "gateway": {...} or None, "subnets": [those of other
        networks], "gateway_subnet": that of the gateway's or "", "firewall": :class:`Firewall`,
        "now": seconds}``. What has a preview's name but not its labels stands in that preview's
        ``foreign`` and belongs to somebody else.
    """
    previews = {name: empty(name)} if name else {}
    gateway = None
    gateway_subnet = ""
    firewall = Firewall()
    subnets: List[str] = []
    now = 0
    found = []
    # Only newlines end a line: what else splitlines() splits at may stand in a value.
    for line in output.split("\n"):
        kind, dummy, rest = line.partition("\t")
        if kind in ("container", "network", "volume"):
            raw = json.loads(rest)
            item = _SHAPES[kind](raw)
            if kind == "network" and not item["name"].startswith(name + "_"):
                subnets.extend(item["subnets"])
            if kind == "network" and item["name"] == GATEWAY:
                gateway_subnet = item["subnets"][0] if item["subnets"] else ""
            if kind == "container" and item["name"] == GATEWAY:
                gateway = item
            else:
                found.append((kind + "s", item))
        elif kind == "image":
            raw = json.loads(rest)
            owner = raw["Repository"].split("/")[1]
            preview = previews.setdefault(owner, empty(owner))
            ref = "{0}:{1}".format(raw["Repository"], raw["Tag"])
            preview["images"].append({"ref": ref, "id": raw["ID"]})
        elif kind == "now":
            now = int(rest)
        elif kind in ("firewall", "nofirewall"):
            firewall = firewall.read(kind, rest)
        elif kind in ("folder", "state", "lease", "route"):
            key, dummy, value = rest.partition("\t")
            preview = previews.setdefault(key, empty(key))
            if kind == "folder":
                preview["folder"] = True
            elif kind == "state":
                preview["state"] = _json(value) or {}
            else:
                preview[kind] = value
    for kind, item in found:
        owner = item["labels"].get(PREFIX + "name", "")
        # A container inherits its image's labels, so a label alone proves nothing: it is ours
        # only where Compose named it for the same project.
        if kind == "containers" and not (
            item["project"] == owner and item["name"].startswith(owner + "-")
        ):
            owner = ""
        if owner and (not name or owner == name):
            previews.setdefault(owner, empty(owner))[kind].append(item)
        elif name and _takes_name(kind, item, name):
            previews[name]["foreign"].append(dict(item, kind=kind[:-1]))
    return {
        "previews": previews,
        "gateway": gateway,
        "gateway_subnet": gateway_subnet,
        "firewall": firewall,
        "subnets": subnets,
        "now": now,
    }


def observe(run: Run, state_dir: str, name: str = "", firewall: bool = False) -> Dict[str, Any]:
    """Ask the engine and the state folder what they hold; see :func:`parse` for the shape.

    :param firewall: look at the rules around previews too, which takes root.
    :raises EngineError: the engine did not answer.
    """
    look = "firewall" if firewall else ""
    ran = run(["sh", "-c", _SCRIPT, "observe", name, state_dir, _CONTAINER, _NETWORK, look])
    if ran.rc != 0:
        raise EngineError(
            "The Docker engine could not be asked what it holds: {0} "
            "Check that it runs and that this user may use it (docker info).".format(
                (ran.err or ran.out).strip() or "no answer."
            )
        )
    return parse(ran.out, name)


def observe_builds(run: Run, builder: str) -> Tuple[Firewall, str]:
    """What stands around builds where images are built: the rules, which take root, and what buildx
    says of the ``builder``, where one is named."""
    t = "t=$(printf '\\t')\n"
    look = t + FIREWALL + BUILDER + 'firewall\n[ -z "$1" ] || builder "$1"\n'
    firewall, said = Firewall(), ""
    for line in run(["sh", "-c", look, "observe", builder]).out.split("\n"):
        kind, dummy, rest = line.partition("\t")
        if kind == "builder":
            said = rest
        elif kind in ("firewall", "nofirewall"):
            firewall = firewall.read(kind, rest)
    return firewall, said


def driver(said: str) -> str:
    """The driver of a builder that buildx says this of, "" where it does not know it."""
    found = re.search(r"Driver: +([^|\s]+)", said)
    return found.group(1) if found else ""


def is_on_default_bridge(said: str) -> bool:
    """Whether the builder that buildx says this of runs its steps where an engine itself does."""
    return driver(said) in ("docker", "docker-container") and "network=" not in said


def births(run: Run, volumes: Sequence[str]) -> Dict[str, str]:
    """When each of these volumes was made, of those that are there.

    :raises EngineError: the engine did not answer.
    """
    if not volumes:
        return {}
    form = "{{.Name}}\t{{.CreatedAt}}"
    ran = run(["docker", "volume", "inspect", "--format", form, *volumes])
    said = [line for line in ran.err.splitlines() if line and "no such volume" not in line]
    if ran.rc != 0 and said:
        raise EngineError("The Docker engine does not tell its volumes: {0}".format(said[0]))
    lines = [line.partition("\t") for line in ran.out.splitlines() if "\t" in line]
    return {name: created for name, dummy, created in lines}


def anonymous(seen: Mapping[str, Any]) -> List[str]:
    """Volumes without a name that a preview has had: Compose forgets those of what it replaces."""
    held = {volume for container in seen["containers"] for volume in container["anonymous"]}
    return sorted(held | set(seen["state"].get("anonymous", [])))


def cache_prune(name: str, builder: str = "") -> List[str]:
    """The command that removes the cache mounts of a preview's builds, and no other."""
    return [
        "docker", "buildx", "prune", "--force", "--builder", builder or "default",
        "--filter", 'description~="with id .{0}/"'.format(name),
    ]  # fmt: skip


def client_folder() -> str:
    """Where this user's docker client and buildx keep their own files."""
    return os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")


def leftovers(seen: Dict[str, Any]) -> List[str]:
    """What still exists of a preview, one line each; empty when it is gone."""
    lines = [
        "{0} {1}".format(kind[:-1], item["name"])
        for kind in ("containers", "networks", "volumes")
        for item in seen[kind]
    ]
    lines += ["image {0}".format(image["ref"]) for image in seen["images"]]
    if seen["route"]:
        lines.append("route {0}.yaml".format(seen["name"]))
    if seen["folder"]:
        lines.append("state folder previews/{0}".format(seen["name"]))
    return lines
