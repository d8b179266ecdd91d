# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a preview does not answer, in a reviewer's words: tables over facts. Pure.

``judge`` turns facts into findings, causes before their consequences; no finding means that all is
well. ``Patience`` says when waiting cannot make one go away. ``LOOK`` and ``TOLD`` are the commands
that gather the facts on the host.
"""

from __future__ import annotations

import calendar
import ipaddress
import json
import re
import time
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)
from urllib.parse import urlsplit

from ansible_collections.ephemera.preview.plugins.module_utils import _announce
from ansible_collections.ephemera.preview.plugins.module_utils._http import (
    REDIRECTS,
    Answer,
    origin,
)
from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact

# -- the sentences ----------------------------------------------------------------------------


class Rule(NamedTuple):
    """``patience``: for how many seconds it may last before waiting is in vain; None: for as long
    as there is time."""

    patience: Optional[float]
    sentence: str


RULES: Dict[str, Rule] = {
    # Its containers
    "pull_denied": Rule(
        0,
        "the image {image} cannot be pulled: its registry knows no such image, or shows it to "
        "nobody who is not logged in. Check its name, or set preview_registries.",
    ),
    "pull_missing": Rule(
        0, "the image {image} cannot be pulled: its registry has no such tag. Check its name."
    ),
    # A node that got the login late pulls once more, after ten seconds and for as long as it takes.
    "pull_unknown": Rule(
        60,
        "the image {image} cannot be pulled: its registry wants a login and was shown none. "
        "Check its name, or set preview_registries.",
    ),
    "pull_limit": Rule(
        0,
        "the image {image} cannot be pulled: its registry allows no more pulls for now. Log in by "
        "preview_registries, or set a mirror.",
    ),
    "pull_unreachable": Rule(
        0,
        "the image {image} cannot be pulled: its registry cannot be reached from where previews "
        "run ({said}).",
    ),
    "not_started": Rule(0, "the services could not be started: {said}."),
    "no_room": Rule(
        20,
        "{service} finds no place in the cluster: {said}. Take down previews that are not needed, "
        "ask for less by x-preview.size, or add a node.",
    ),
    # What makes volumes tries again by itself, and is on its way at first.
    "no_volume": Rule(
        20,
        "{service} gets no volume: {said}. Let preview_storage_class name a storage class of the "
        "cluster, and see that what makes its volumes runs.",
    ),
    "quota": Rule(
        5, "{service} does not fit into the quota of its namespace: {said}. Ask for less."
    ),
    "forbidden": Rule(5, "the cluster lets {service} have no pod: {said}."),
    "no_disk": Rule(
        5,
        "{service} was evicted: it writes more to its own file system than it may ({said}). Let it "
        "write to a volume, or raise preview_ephemeral_storage.",
    ),
    "root": Rule(
        0,
        "{service} runs as root, which preview_pod_security: restricted does not let run. Give its "
        "image a USER by number (USER 1000:1000), or the service a user.",
    ),
    "named_user": Rule(
        0,
        "{service} runs as the user {said}, and by a name preview_pod_security: restricted cannot "
        "tell that it is not root. Give its image a USER by number (USER 1000:1000), or the "
        "service a user.",
    ),
    "pending": Rule(None, "{service} has not been started yet: {said}."),
    "too_few": Rule(5, "{service} has {count} of its {wanted} containers."),
    "outdated": Rule(5, "{service} still runs another image than the wanted commit's."),
    "leftover": Rule(5, "{service} is no longer wanted, and its container is still there."),
    "cannot_start": Rule(0, "{service} cannot be started: {said}."),
    "waits": Rule(None, "{service} was never started: what it depends on did not become ready."),
    "no_memory": Rule(
        5,
        "{service} was killed: it needs more memory than its limit of {limit} MiB. Raise "
        "x-preview.size or deploy.resources.limits.memory.",
    ),
    "exits": Rule(5, "{service} exits at start with code {code}{cause}."),
    "ends": Rule(
        5,
        "{service} ends at once with code 0{cause}. Its command has to keep running in the "
        "foreground.",
    ),
    "job_no_memory": Rule(
        0,
        "{service} was killed: it needs more memory than its limit of {limit} MiB. Raise "
        "x-preview.size or deploy.resources.limits.memory.",
    ),
    "job_failed": Rule(0, "{service} has to complete, and failed with code {code}{cause}."),
    "job_runs": Rule(None, "{service} has to complete, and still runs."),
    "unhealthy": Rule(5, "{service} runs, but its own healthcheck fails{cause}."),
    "starting": Rule(
        None,
        "{service} is still starting: its own healthcheck has not passed yet{cause}. Where it only "
        "needs more time, raise preview_verify_timeout.",
    ),
    "young": Rule(None, "{service} has only just been started."),
    "data_silent": Rule(
        None,
        "{service} runs, but accepts no connection yet: nothing in it listens on a TCP port"
        "{cause}.",
    ),
    "data_loopback": Rule(
        5,
        "{service} listens on 127.0.0.1 only, which no other service reaches: let it listen on "
        "0.0.0.0.",
    ),
    # Its endpoint
    "loopback": Rule(
        5,
        "{service} listens on 127.0.0.1:{port} only, which nobody outside its container reaches: "
        "let it listen on 0.0.0.0.",
    ),
    "one_address": Rule(
        5,
        "{service} listens on port {port} of one address only, which is not the gateway's side: "
        "let it listen on 0.0.0.0.",
    ),
    "wrong_port": Rule(
        15,
        "{service} listens on port {others}, not on {port}: name the right one under ports or "
        "x-preview.expose.",
    ),
    "no_port": Rule(None, "{service} runs, but nothing listens on its port {port}{cause}."),
    "silent": Rule(None, "{service} runs, but nothing answers on its port {port}{cause}."),
    "not_http": Rule(
        None,
        "{service} listens on port {port}, but breaks the connection instead of answering in plain "
        "HTTP{cause}.",
    ),
    "slow": Rule(None, "{service} does not answer {url} within its timeout of {timeout} s{cause}."),
    "too_long": Rule(10, "{service} answers {url} with more than 64 KiB of headers."),
    "error": Rule(10, "{service} answers {status} at {url}{cause}."),
    "busy": Rule(None, "{service} answers {status} at {url}{cause}."),
    "status": Rule(10, "{service} answers {status} at {url}, expected {expected}."),
    "to_http": Rule(
        5,
        "{service} redirects {url} to {location}: behind the gateway it takes itself for http. Let "
        "it trust X-Forwarded-Proto.",
    ),
    "to_itself": Rule(
        5,
        "{service} redirects {url} to {location}, which only its own container reaches. Let it "
        "redirect to a path, or make its address of PREVIEW_URL.",
    ),
    "redirects": Rule(10, "{service} redirects {url} to {location}, expected {expected}."),
    "in_circles": Rule(10, "{service} redirects {url} in circles."),
    # The way to it
    "no_route": Rule(5, "the gateway does not lead to {service}: bring the preview up again."),
    "too_many": Rule(
        None, "the gateway allows no more requests to {url} for now: raise preview_rate_limit."
    ),
    "locked": Rule(
        5,
        "the gateway asks for a password at {url}, and accepts none of preview_auth_users. Run "
        "ephemera.preview.gateway and bring the preview up again.",
    ),
    "no_gateway": Rule(
        5,
        "the gateway does not answer, not even on its own host at {address} ({said}). Run "
        "ephemera.preview.gateway.",
    ),
    "dns": Rule(
        5,
        "{service} answers on its host, but {host} cannot be found from here: no DNS record leads "
        "to it. Let a wildcard record of its domain lead to the host.",
    ),
    "localhost": Rule(
        5,
        "{service} answers on its host, but names under localhost lead to whatever machine asks. "
        "Set preview_domain or preview_host_ip.",
    ),
    "firewall": Rule(
        5,
        "{service} answers on its host, but {address} cannot be reached from here ({said}). Open "
        "the port in the firewall before the host, or correct the DNS record of {host}.",
    ),
    "tls": Rule(
        5,
        "{service} answers, but the certificate at {host} is not trusted here: {said}. Set "
        "preview_ca_file, or give the gateway another certificate.",
    ),
    "no_issuer": Rule(
        10,
        "{service} answers, but cert-manager finds no {issuer} to issue the certificate of {host}. "
        "Make it, or correct preview_tls_issuer.",
    ),
    "no_certificate": Rule(
        None,
        "{service} answers, but {issuer} has issued no certificate for {host} yet{cause}. Look at "
        "kubectl describe certificate {certificate}; where it only needs more time, raise "
        "preview_verify_timeout.",
    ),
    "elsewhere": Rule(
        5,
        "{service} answers on its host, but {url} leads to something else at {address}, which "
        "{said}. Correct the DNS record of {host}, or what stands before the host.",
    ),
}

NOT_STARTED = (
    "pull_denied", "pull_missing", "pull_limit", "pull_unreachable", "no_room", "no_volume",
    "quota", "forbidden", "root", "named_user", "cannot_start",
)  # fmt: skip
"""What is wrong before a service runs."""

# What an app's last words mean: the first that matches names the cause. {data} are the names of
# the data services. Quantifiers are bounded, since an app chooses what it writes.
WORDS: Tuple[Tuple[str, str], ...] = (
    (
        r"Multiple head revisions|[Mm]ultiple heads? (?:are )?present|multiple leaf nodes",
        "its migrations have two heads. Merge them into one (alembic merge heads)",
    ),
    (
        r"Can't locate revision identified by '?([0-9a-zA-Z_]{1,64})",
        "the database is at revision {0}, which this commit does not know. Bring the migration "
        "back, or take the preview down and up again for a new database",
    ),
    (
        r"(?i)(?:localhost|127\.0\.0\.1|::1)\W{0,4}[^\n]{0,120}?(?:refused|errno 111|\(111\))"
        r"|(?:refused|ECONNREFUSED|connect call failed|error 111 connecting to|connect to)"
        r"[^\n]{0,80}?(?:localhost|127\.0\.0\.1|::1)",
        "it looks for a service on localhost, which is its own container. Give it the name of the "
        "service as host, such as {data}",
    ),
    (
        r"(?:could not translate host name|getaddrinfo (?:ENOTFOUND|EAI_AGAIN)|lookup|"
        r"Could not resolve host:?|connecting to)\s{1,4}\"?([a-zA-Z0-9._-]{1,64})\"?"
        r"[^\n]{0,80}?(?:to address|not known|no such host|\n|$|failure in name resolution)",
        "no service is called {0}. There are: {data}",
    ),
    (
        r"password authentication failed for user \"([^\"\n]{1,64})\"|"
        r"Access denied for user '([^'\n]{1,64})'",
        "the database refuses the password of {0}. A volume keeps the password it was made with: "
        "take the preview down and up again for a new database",
    ),
    (
        r"relation \"([^\"\n]{1,64})\" does not exist|no such table: ([\w.]{1,64})|"
        r"Table '([^'\n]{1,64})' doesn't exist",
        "the table {0} is missing. Let x-preview.migrate make it",
    ),
    (r"KeyError: '([A-Z][A-Z0-9_]{1,64})'", "the variable {0} is missing"),
    (
        r"validation errors? for (?:\w{0,64})\s{1,8}([\w.]{1,64})\s{1,8}Field required",
        "the setting {0} is missing. Set a variable of that name",
    ),
    (
        r"\b([A-Z][A-Z0-9]{0,30}_[A-Z0-9_]{1,64})\b['\"`]?:? (?:environment variable )?"
        r"(?:is |was |must be |not |un|parameter ){0,2}"
        r"(?:not set|set\b|required|missing|unbound|undefined|not found|not defined|parameter not)",
        "the variable {0} is missing",
    ),
    (
        r"(?i)(?:missing|required|undefined|unset|key not found:)[^\n]{0,60}?"
        r"(?-i:\b([A-Z][A-Z0-9]{0,30}_[A-Z0-9_]{1,64})\b)",
        "the variable {0} is missing",
    ),
    (
        r"(?:No module named|Cannot find module|Cannot find package) ['\"]([^'\"\n]{1,100})['\"]",
        "the module {0} is not installed in its image",
    ),
    (
        r"exec:? \"?([^\":\n]{1,100})\"?: (?:stat [^\n]{1,100}: )?"
        r"(?:executable file not found|no such file or directory)",
        "the program {0} is not in its image",
    ),
    (r"unable to find user ([^:\n]{1,100})", "the user {0} is not in its image"),
    (r"([\w./-]{1,100}): (?:command )?not found", "the program {0} is not in its image"),
    (r"exec format error", "its image was built for another processor"),
    (
        r"MemoryError|JavaScript heap out of memory|java\.lang\.OutOfMemoryError|"
        r"[Cc]annot allocate memory",
        "it needs more memory. Raise x-preview.size or deploy.resources.limits.memory",
    ),
    (
        r"can't start new thread|(?:fork|clone)[^\n]{0,40}Resource temporarily unavailable",
        "it needs more processes than its limit. Raise x-preview.size or "
        "deploy.resources.limits.pids",
    ),
    (
        r"ephemeral local storage usage exceeds|exceeded its local ephemeral storage limit",
        "it writes more to its own file system than preview_ephemeral_storage allows",
    ),
    (r"[Nn]o space left on device", "the disk of the Docker host is full"),
    (r"[Aa]ddress already in use", "two of its processes listen on the same port"),
    (r"[Rr]ead-only file system", "it writes where its file system is read-only"),
    (r"[Pp]ermission denied: ['\"]?(/[^'\"\s]{1,100})", "it may not read or write {0}"),
    (r"[Pp]ermission denied", "it may not read or write what it needs"),
)


def cause_of(log: Sequence[str], data: Sequence[str] = ()) -> str:
    """The cause that a log names, or ""."""
    text = "\n".join(log)
    for pattern, cause in WORDS:
        match = re.search(pattern, text)
        if match:
            words = [group for group in match.groups() if group]
            return cause.format(*words, data=", ".join(data) or "db")
    return ""


_ERROR = re.compile(
    r"(?:[\w.]{0,100}(?:Error|Exception)|[Ff]atal\w{0,8}|FATAL|[Pp]anic|error)\b[:\]]"
)


def _last_words(log: Sequence[str]) -> str:
    """The line of a log that most likely says why it ends there."""
    lines = [line.strip() for line in log if line.strip()]
    telling = [line for line in lines[-15:] if _ERROR.search(line)]
    return (telling or lines or [""])[-1][:200].rstrip(".")


def _because(log: Sequence[str], data: Sequence[str], quoted: bool = True) -> str:
    """The end of a sentence that tells the cause, or quotes what was said last."""
    cause = cause_of(log, data)
    if cause:
        return ": " + cause
    last = _last_words(log) if quoted else ""
    return ", saying: " + last if last else ""


# -- the facts --------------------------------------------------------------------------------

# $1 is a Compose project, $2 the format below. The sockets are read from the host's /proc, so that
# it works for images without a shell; the cgroup tells that the number is a process of this host.
LOOK = r"""
printf 'now\t%s\n' "$(date +%s)"
ids=$(docker ps --all --quiet --no-trunc --filter "label=com.docker.compose.project=$1" \
    --filter label=com.docker.compose.oneoff=False) || exit 69
[ -n "$ids" ] || exit 0
docker inspect --type container --format "$2" $ids 2>/dev/null | while read -r pid id rest; do
    printf 'container\t%s\t%s\n' "$id" "$rest"
    [ "$pid" -gt 0 ] && grep -qs "$id" "/proc/$pid/cgroup" || continue
    printf 'sockets\t%s\n' "$id"
    grep -hs ':0000 0A ' "/proc/$pid/net/tcp" "/proc/$pid/net/tcp6" | head -n 500
done
true
"""
LOOK_FORMAT = "{{.State.Pid}} {{.ID}} {%s}" % ",".join(
    [
        '"%s":{{json .%s}}' % pair
        for pair in (
            ("name", "Name"),
            ("image", "Config.Image"),
            ("state", "State"),
            ("restarts", "RestartCount"),
            ("check", "Config.Healthcheck"),
            ("ports", "Config.ExposedPorts"),
        )
    ]
    + [
        '"%s":{{json (index .Config.Labels "com.docker.compose.%s")}}' % pair
        for pair in (("service", "service"), ("image_id", "image"))
    ]
)

# The last words of each container given, and how it died before. Long lines are cut, but not so
# short that a secret would be cut before it can be recognised.
TOLD = r"""
t=$(printf '\t')
of=
for id; do
    docker logs --timestamps --tail 60 "$id" 2>&1 | cut -c 1-2000 | while IFS= read -r line; do
        printf 'log\t%s\t%s\n' "$id" "$line"
    done
    of="$of --filter container=$id"
done
docker events --since 15m --until 0s $of --filter event=oom --filter event=die \
    --format "{{.Action}}$t{{.Actor.ID}}$t{{index .Actor.Attributes \"exitCode\"}} {{.TimeNano}}"
true
"""


class Container(NamedTuple):
    """What the engine and the kernel know of one container. ``up`` is in seconds, 0 unless it runs;
    ``health`` is "" where there is no healthcheck, ``declined`` where the app wants none;
    ``exposes`` says whether its image names TCP ports. ``listen`` is None where the sockets could
    not be read, else (any|loopback|other, port) of each. ``held``: what keeps a cluster from
    starting it, a code of ``RULES`` and the cluster's words. ``heard``: what its endpoint answers
    to the cluster, where that asks."""

    ident: str
    service: str
    image: str = ""
    image_id: str = ""
    status: str = "running"
    health: str = ""
    declined: bool = False
    check_said: str = ""
    code: int = 0
    error: str = ""
    oom: bool = False
    restarts: int = 0
    up: float = 0
    exposes: bool = False
    listen: Optional[List[Tuple[str, int]]] = None
    held: Tuple[str, str] = ("", "")
    heard: Optional[Answer] = None


class Told(NamedTuple):
    """What a container said in its last life, the codes of its deaths, oldest first, and whether
    the kernel killed it for its memory."""

    log: List[str]
    codes: List[int]
    oom: bool


class Unissued(NamedTuple):
    """A host's certificate that cert-manager has not issued yet.

    :ivar certificate: how kubectl takes it.
    :ivar reason: of what cert-manager said last, ``said``; "" where it said nothing.
    """

    issuer: str
    certificate: str
    reason: str
    said: str


def parse_look(output: str, name: str, secrets: Sequence[str] = ()) -> List[Container]:
    """The containers of a Compose project out of what ``LOOK`` printed."""
    now, of = 0.0, ""
    found: Dict[str, Container] = {}
    for line in output.split("\n"):
        kind, dummy, rest = line.partition("\t")
        ident, dummy, rest = rest.partition("\t")
        if kind == "now":
            now = float(ident)
        elif kind == "container":
            raw = json.loads(rest)
            # An image's label could pose as Compose's; the name is the engine's.
            if raw["name"].lstrip("/").startswith(name + "-") or "_" + name in raw["name"]:
                found[ident] = _container(ident, raw, now, secrets)
        elif kind == "sockets" and ident in found:
            of = ident
            found[of] = found[of]._replace(listen=[])
        elif not ident and of and line:
            place, port = listener(line.split()[1])
            listen = found[of].listen
            if listen is not None and place != "resolver":
                listen.append((place, port))
    return list(found.values())


def _container(ident: str, raw: Mapping[str, Any], now: float, secrets: Sequence[str]) -> Container:
    state, check = raw["state"], raw["check"] or {}
    health = state.get("Health") or {}
    running = state["Status"] == "running"
    return Container(
        ident,
        raw["service"] or "",
        image=raw["image"] or "",
        image_id=raw["image_id"] or "",
        status=state["Status"],
        health=health.get("Status", "") if health.get("Status") != "none" else "",
        declined=check.get("Test") == ["NONE"],
        check_said="\n".join(
            redact(probe.get("Output", ""), secrets) for probe in (health.get("Log") or [])[-1:]
        ),
        code=state.get("ExitCode", 0),
        error=redact(state.get("Error", ""), secrets),
        oom=bool(state.get("OOMKilled")),
        restarts=raw["restarts"] or 0,
        up=max(0.0, now - _seconds(state["StartedAt"])) if running else 0.0,
        exposes=any(port.endswith("/tcp") for port in raw["ports"] or {}),
    )


def _seconds(stamp: str) -> float:
    """The engine's ``2026-01-01T00:00:10.5Z`` in seconds of the epoch."""
    whole = calendar.timegm(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))
    fraction = re.match(r"\.\d+", stamp[19:])
    return whole + float(fraction.group() if fraction else 0)


def listener(text: str) -> Tuple[str, int]:
    """The kernel's ``0100007F:1F90`` as ("loopback", 8080)."""
    words, dummy, port = text.partition(":")
    # Words of 32 bits in the machine's order, which is little-endian nearly everywhere.
    raw = b"".join(bytes.fromhex(words[at : at + 8])[::-1] for at in range(0, len(words), 8))
    address: Any = ipaddress.ip_address(raw)
    address = getattr(address, "ipv4_mapped", None) or address
    place = "any" if address.is_unspecified else "loopback" if address.is_loopback else "other"
    if str(address) == "127.0.0.11":
        place = "resolver"  # Docker's own, in every container
    return place, int(port, 16)


def listeners(table: str) -> List[Tuple[str, int]]:
    """Who listens, out of what a pod says of the kernel's tables of its sockets: it may say
    anything."""
    rows = re.findall(r"^ *\d{1,5}: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) \S+ 0A ", table, re.M)
    return [listener("{0}:{1}".format(*row)) for row in rows[:500]]


def parse_told(output: str, secrets: Sequence[str] = ()) -> Dict[str, Told]:
    """By container id what ``TOLD`` printed, fit to be shown."""
    lines: Dict[str, List[Tuple[float, str]]] = {}
    deaths: Dict[str, List[Tuple[int, float]]] = {}
    ooms = set()
    for line in output.split("\n"):
        kind, dummy, rest = line.partition("\t")
        ident, dummy, rest = rest.partition("\t")
        if kind == "log":
            stamp, dummy, text = rest.partition(" ")
            if re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", stamp):
                lines.setdefault(ident, []).append((_seconds(stamp), text))
        elif kind == "oom":
            ooms.add(ident)
        elif kind == "die":
            code, dummy, nanoseconds = rest.partition(" ")
            deaths.setdefault(ident, []).append((int(code), int(nanoseconds) / 1e9))
    told = {}
    for ident in {*lines, *deaths, *ooms}:
        died = deaths.get(ident, [])
        # The last life that ended: the next one may have begun to speak already.
        since, until = (died[-2][1], died[-1][1]) if len(died) > 1 else (0, float("inf"))
        said = [(at, text) for at, text in lines.get(ident, []) if at > since]
        log = [text for at, text in said if at <= until] or [text for at, text in said]
        codes = [code for code, _at in died]
        told[ident] = Told(presentable(log, secrets), codes, ident in ooms)
    return told


_CUT = 1900  # bytes; the host keeps 2000 of a line, a time that is no part of it among them


def presentable(lines: Sequence[str], secrets: Sequence[str] = ()) -> List[str]:
    """Log lines as they may be shown: no secret, nothing that a terminal or CI would obey, cut."""
    # A line that the host may have cut can end within a secret.
    lines = [
        line + "..." if len(line.encode("utf-8", "replace")) > _CUT else line for line in lines
    ]
    text = "\n".join(lines).encode("utf-8", "replace").decode("utf-8")
    text = _announce.harmless(redact(text, secrets))
    return [line[:500].rstrip() for line in text.split("\n") if line.strip()][-40:]


# -- a service's endpoint ---------------------------------------------------------------------

POLL = 0.25
"""So many seconds are at most between two looks at a preview; the first follow sooner."""
UNREACHED = ("dns", "refused", "unreachable", "tls")
"""The troubles of whoever does not come as far as the gateway."""
READY = 200
"""What a cluster's answer stands for that was as it should be."""
_HEALTH = {
    "path": "/",
    "deep": None,
    "status": None,
    "interval": 1,
    "timeout": 5,
    "start_period": 0,
    "retries": 60,
}
# What the gateway itself answers: the title of its page, and Traefik's words.
NO_ROUTE = "<title>There is no preview here</title>"
_TRAEFIK = {
    401: (b"401 Unauthorized", "locked"),
    502: (b"Bad Gateway", "dead"),
    504: (b"Gateway Timeout", "dead"),
}


class Endpoint:
    """What is asked of one exposed service, and when it is asked again.

    :ivar answer: the last answer that counts, or None.
    :ivar starting: whether it was heard within the start period.
    :ivar exhausted: whether as many probes after the start period failed as ``retries`` allows.
    """

    def __init__(self, service: Mapping[str, Any]) -> None:
        self.service = service
        self.health = health_of(service)
        self.answer: Optional[Answer] = None
        self.starting = True
        self.failed = 0
        self._next = self._counted = float("-inf")

    @property
    def exhausted(self) -> bool:
        return self.failed >= int(self.health["retries"])

    @property
    def redirects(self) -> int:
        """How many redirects are followed: none where one is what is expected."""
        return 0 if any(300 <= status < 400 for status in expected(self.service)) else REDIRECTS

    @property
    def paths(self) -> List[str]:
        return [path for path in (self.health["path"], self.health["deep"]) if path]

    def due(self, now: float) -> bool:
        return now >= self._next

    def heard(self, answer: Answer, now: float, up: float) -> None:
        """Take in an answer. ``up``: for how many seconds the service has been up."""
        self.answer = answer
        self.starting = up < self.health["start_period"]
        interval = float(self.health["interval"])
        if answered(self.service, answer):
            self.failed = 0
        elif not self.starting and now - self._counted >= interval:
            self.failed += 1
            self._counted = now
        # The app's interval spares the app; what does not reach it is asked again at the next look.
        by_app = answer.status and not _by_gateway(answer)
        self._next = now + interval if by_app else now

    def told(self, containers: Sequence[Container], now: float) -> bool:
        """Take in what a cluster that asks by itself was answered, of all containers the worst.

        :returns: whether that was no good, so that nobody else is led there.
        """
        heard = [c.heard for c in containers if c.heard is not None]
        bad = [answer for answer in heard if answer.status != READY]
        if bad:
            url = self.service["expose"]["url"] + str(self.health["path"])
            self.heard(bad[0]._replace(url=url), now, min(c.up for c in containers))
        return bool(bad)


def health_of(service: Mapping[str, Any]) -> Dict[str, Any]:
    """A service's ``health`` with every default."""
    wish = {k: v for k, v in (service["health"] or {}).items() if v is not None}
    return dict(_HEALTH, **wish)


def expected(service: Mapping[str, Any]) -> List[int]:
    """The statuses that are what a service wishes for; none where any will do."""
    status = health_of(service)["status"]
    return list(status) if isinstance(status, (list, tuple)) else [status] if status else []


def answered(service: Mapping[str, Any], answer: Answer) -> bool:
    """Whether a service's answer through the gateway is the one its definition expects."""
    if answer.trouble or _by_gateway(answer) or answer.status == 429:
        return False
    wanted = expected(service)
    if wanted:
        return answer.status in wanted
    if 300 <= answer.status < 400:
        return _misled(answer) == ""
    # Without a health path the front page may well ask for a login or not exist.
    return 200 <= answer.status < 500


def _by_gateway(answer: Answer) -> str:
    """What the gateway says in the app's place: no_route, locked, dead, or ""."""
    if answer.status == 404 and NO_ROUTE.encode() in answer.body:
        return "no_route"
    body, meaning = _TRAEFIK.get(answer.status, (b"", ""))
    return meaning if answer.body.strip() == body else ""


def unseen(service: Mapping[str, Any], answer: Answer) -> Answer:
    """The answer to a question that only shows whether an app answers at all: what was expected."""
    if answer.trouble or _by_gateway(answer) or answer.status == 429:
        return answer
    return answer._replace(status=(expected(service) or [200])[0])


def _misled(answer: Answer) -> str:
    """How a redirect leads a reviewer astray: to_http, to_itself, in_circles, or ""."""
    here, there = origin(answer.url), origin(answer.location)
    if not here or not there:
        # A path, which was followed as far as it goes.
        return "in_circles" if answer.location and not urlsplit(answer.location).netloc else ""
    if here == there:
        return "in_circles"
    if here[0] == "https" and there[0] == "http" and here[1] == there[1]:
        return "to_http"
    inside = there[1] in ("localhost", "0.0.0.0", "::1") or there[1].startswith("127.")
    return "to_itself" if inside and here[1] != there[1] else ""


# -- the judgement ----------------------------------------------------------------------------

MOMENT = 3
"""For how many seconds what nobody can ask has to be up."""
RESTARTED = 10
"""The same for what has died before, so that a loop is never taken for a service."""
LISTENS = 10
"""When a data service whose image names no port is taken for one that does not listen."""


class Finding(NamedTuple):
    """What is wrong: a code of ``RULES``, the service, and the container it is about."""

    code: str
    service: str
    sentence: str
    patience: Optional[float]
    ident: str = ""


class Scene(NamedTuple):
    """All that ``judge`` looks at.

    ``services`` are planned ones. ``images``: id by reference, of those we made. ``endpoints``: by
    service. ``told`` and ``inside`` (answers to the host itself, by service) are there once
    verification has failed. ``unissued``: by service, where a host is not trusted. ``whole``:
    whether ``services`` are all there should be.
    """

    services: Sequence[Mapping[str, Any]]
    containers: Sequence[Container]
    images: Mapping[str, str] = {}
    endpoints: Mapping[str, Endpoint] = {}
    told: Mapping[str, Told] = {}
    inside: Mapping[str, Answer] = {}
    unissued: Mapping[str, Unissued] = {}
    whole: bool = True

    @property
    def data(self) -> List[str]:
        return [service["name"] for service in self.services if service["data"]]

    def of(self, service: Mapping[str, Any]) -> List[Container]:
        return [c for c in self.containers if c.service == service["name"]]

    def log(self, ident: str) -> List[str]:
        return self.told[ident].log if ident in self.told else []

    def because(self, ident: str, quoted: bool = True) -> str:
        return _because(self.log(ident), self.data, quoted)


def judge(scene: Scene) -> List[Finding]:
    """What is wrong, causes before their consequences: data services, jobs, the rest, endpoints."""
    order = sorted(scene.services, key=lambda s: (not s["data"], not s["completes"]))
    found = [finding for service in order for finding in _of_service(scene, service)]
    if scene.whole:
        wanted = {service["name"] for service in scene.services}
        found += [
            _finding("leftover", c.service, c.ident)
            for c in scene.containers
            if c.service not in wanted
        ]
    sick = {finding.service for finding in found}
    for service in order:
        endpoint = scene.endpoints.get(service["name"])
        if endpoint and service["name"] not in sick:
            finding = _of_endpoint(scene, service, endpoint)
            found += [finding] if finding else []
    return found


def _finding(rule: str, service: str, ident: str = "", /, **facts: Any) -> Finding:
    sentence = RULES[rule].sentence.format(service=service, **facts)
    return Finding(rule, service, sentence, RULES[rule].patience, ident)


def _of_service(scene: Scene, service: Mapping[str, Any]) -> Iterator[Finding]:
    mine = scene.of(service)
    found = [_of_container(scene, service, container) for container in mine]
    sick = [finding for finding in found if finding]
    if len(mine) - len(sick) >= service["replicas"]:
        # What an autoscaler wants besides, and finds no place for, is nothing that fails.
        sick = [finding for finding in sick if finding.code not in _NO_PLACE]
    if sick:
        yield sick[0]
        return
    name = service["name"]
    if len(mine) < service["replicas"]:
        yield _finding("too_few", name, count=len(mine), wanted=service["replicas"])
    elif len(mine) > service["most"] or any(_outdated(scene, service, c) for c in mine if c.image):
        yield _finding("outdated", name, mine[0].ident)


_NO_PLACE = ("no_room", "quota")


def _outdated(scene: Scene, service: Mapping[str, Any], container: Container) -> bool:
    wanted = scene.images.get(service["image"])
    if wanted:
        return container.image_id != wanted
    # One that was pulled: by its name, which the engine forgets once the tag has moved.
    return container.image != service["image"] and not container.image.startswith("sha256:")


def _of_container(
    scene: Scene, service: Mapping[str, Any], container: Container
) -> Optional[Finding]:
    name, ident, status = service["name"], container.ident, container.status
    held, words = container.held
    if held:
        return _finding(held, name, ident, image=service["image"], said=words)
    if status == "created":
        if not container.error:
            return _finding("waits", name, ident)
        why = cause_of([container.error]) or container.error.rsplit(": ", 2)[-1]
        return _finding("cannot_start", name, ident, said=why[:300])
    if service["completes"]:
        if status == "running":
            return _finding("job_runs", name, ident)
        if status == "exited" and container.code == 0:
            return None
        return _died(scene, service, container)
    if status != "running" or (container.restarts and container.up < RESTARTED):
        return _died(scene, service, container)
    if container.health in ("unhealthy", "starting"):
        said = presentable(container.check_said.split("\n"))
        cause = _because([*said, *scene.log(ident)], scene.data, quoted=False)
        return _finding(container.health, name, ident, cause=cause or _because(said, scene.data))
    if service["data"] and not container.health:
        return _of_data(scene, service, container)
    if not container.health and not service["expose"] and container.up < MOMENT:
        return _finding("young", name, ident)
    return None


def _died(scene: Scene, service: Mapping[str, Any], container: Container) -> Finding:
    told = scene.told.get(container.ident)
    code = container.code or (told.codes[-1] if told and told.codes else 0)
    job = service["completes"]
    if container.oom or (told and told.oom):
        limit = service["resources"]["memory"] >> 20
        finding = _finding(
            "job_no_memory" if job else "no_memory", service["name"], container.ident, limit=limit
        )
    else:
        finding = _finding(
            "job_failed" if job else "exits" if code else "ends",
            service["name"],
            container.ident,
            code=code,
            cause=scene.because(container.ident),
        )
    died = container.restarts + (container.status != "running")
    if job or died >= 3 or container.status in ("exited", "dead"):
        return finding
    # It may die while what it needs comes up; a cluster starts it for the third time after 30 s.
    return finding._replace(patience=None)


def _of_data(scene: Scene, service: Mapping[str, Any], container: Container) -> Optional[Finding]:
    """A data service without a healthcheck is ready when it listens."""
    name, ident = service["name"], container.ident
    if container.declined or container.listen is None:
        return _finding("young", name, ident) if container.up < MOMENT else None
    if any(place != "loopback" for place, _port in container.listen):
        return None
    if container.listen:
        return _finding("data_loopback", name, ident)
    if container.exposes or container.up < LISTENS:
        return _finding("data_silent", name, ident, cause=scene.because(ident, quoted=False))
    return None


def _of_endpoint(scene: Scene, service: Mapping[str, Any], endpoint: Endpoint) -> Optional[Finding]:
    name, outside = service["name"], endpoint.answer
    if outside is None:
        return _finding("young", name)
    if answered(service, outside):
        return None
    if outside.trouble == "tls" and name in scene.unissued:
        # However often that is asked, the app is not at fault.
        return _of_certificate(service, scene.unissued[name])
    inside = scene.inside.get(name)
    finding = _of_way(service, outside, inside)
    if finding is None:
        unreached = outside.trouble in UNREACHED
        finding = _of_answer(scene, service, inside if inside and unreached else outside)
    mine = scene.of(service)
    finding = finding._replace(ident=mine[0].ident if mine else "")
    if endpoint.starting:
        return finding._replace(patience=None)
    return finding._replace(patience=0) if endpoint.exhausted else finding


def _of_certificate(service: Mapping[str, Any], awaited: Unissued) -> Finding:
    """What keeps cert-manager from issuing a certificate."""
    name, host = service["name"], service["expose"]["host"]
    if awaited.reason == "IssuerNotFound":
        return _finding("no_issuer", name, host=host, issuer=awaited.issuer)
    said = " ".join(awaited.said.split())[:300].rstrip(". ")
    cause = ", saying: " + said if said else ", and nobody says why: see that cert-manager runs"
    facts = {"issuer": awaited.issuer, "certificate": awaited.certificate}
    return _finding("no_certificate", name, host=host, cause=cause, **facts)


def _of_way(
    service: Mapping[str, Any], outside: Answer, inside: Optional[Answer]
) -> Optional[Finding]:
    """What keeps a reviewer from an app that may well answer; None when it is the app."""
    name, host = service["name"], service["expose"]["host"]
    said = outside.detail or outside.trouble
    if inside and inside.trouble in ("refused", "unreachable"):
        return _finding(
            "no_gateway", name, address=inside.address or inside.url, said=inside.detail
        )
    fine = inside is None or answered(service, inside)
    if outside.trouble == "tls":
        return _finding("tls", name, host=host, said=said) if fine else None
    if outside.trouble in ("dns", "refused", "unreachable"):
        if not fine:
            return None
        if host.endswith(".localhost"):
            return _finding("localhost", name)
        if outside.trouble == "dns":
            return _finding("dns", name, host=host)
        port = (origin(outside.url) or ("", "", ""))[2]
        address = "{0}:{1}".format(host, port)
        return _finding("firewall", name, address=address, said=said, host=host)
    if inside and fine:
        told = outside.trouble or "answers {0}".format(outside.status)
        return _finding(
            "elsewhere", name, url=outside.url, address=outside.address, said=told, host=host
        )
    return None


def _of_answer(scene: Scene, service: Mapping[str, Any], answer: Answer) -> Finding:
    """An app that answers wrongly or not at all, while the gateway does."""
    name, url, status = service["name"], answer.url, answer.status
    by_gateway = _by_gateway(answer)
    if by_gateway in ("no_route", "locked"):
        return _finding(by_gateway, name, url=url)
    if by_gateway or answer.trouble in ("timeout", "closed"):
        return _unanswered(scene, service, answer)
    if answer.trouble:
        return _finding("too_long", name, url=url)
    if status == 429:
        return _finding("too_many", name, url=url)
    wanted = " or ".join(str(s) for s in expected(service)) or "less than 500"
    if 300 <= status < 400:
        location = presentable([answer.location])
        code = _misled(answer) or "redirects"
        where = (location or ["nowhere"])[0][:200]
        return _finding(code, name, url=url, location=where, expected=wanted)
    mine = scene.of(service)
    cause = scene.because(mine[0].ident) if mine else ""
    if status >= 500:
        code = "error" if status in (500, 501) else "busy"
        return _finding(code, name, url=url, status=status, cause=cause)
    return _finding("status", name, url=url, status=status, expected=wanted)


def _unanswered(scene: Scene, service: Mapping[str, Any], answer: Answer) -> Finding:
    """A service that runs while the gateway gets no answer from it: its sockets tell why."""
    name, port = service["name"], service["expose"]["port"]
    mine = scene.of(service)
    for container in mine:
        if container.oom or (container.ident in scene.told and scene.told[container.ident].oom):
            limit = service["resources"]["memory"] >> 20
            return _finding("no_memory", name, limit=limit)
    unread = [c for c in mine if c.listen is None]
    cause = scene.because(mine[0].ident, quoted=False) if mine else ""
    for container in mine:
        if container.listen is None:
            continue
        places = {place for place, number in container.listen if number == port}
        others = sorted({n for place, n in container.listen if place != "loopback"} - {port})
        if places and "any" not in places:
            return _finding("loopback" if "loopback" in places else "one_address", name, port=port)
        if not places and others:
            listed = " and ".join(str(number) for number in others[:5])
            return _finding("wrong_port", name, others=listed, port=port)
        if not places:
            return _finding("no_port", name, port=port, cause=cause)
    if answer.status == 502 and unread:
        return _finding("silent", name, port=port, cause=cause)
    if answer.status == 502 or answer.trouble == "closed":
        return _finding("not_http", name, port=port, cause=cause)
    timeout = health_of(service)["timeout"]
    return _finding("slow", name, url=answer.url, timeout=timeout, cause=cause)


def log_of(scene: Scene, finding: Finding) -> List[str]:
    """The last lines that a finding's container said, with what its healthcheck said last."""
    checks = [c.check_said for c in scene.containers if c.ident == finding.ident]
    asked = finding.code in ("unhealthy", "starting")
    check = checks[0].split("\n") if checks and asked else []
    return presentable([*scene.log(finding.ident), *check])[-20:]


def refusal(
    scene: Scene, findings: Sequence[Finding], secrets: Sequence[str] = ()
) -> Dict[str, Any]:
    """A task's result for a preview that does not become well, for the first of the findings."""
    told = [
        {
            "service": finding.service,
            "diagnosis": finding.code,
            "sentence": " ".join(presentable(finding.sentence.split("\n"), secrets)),
        }
        for finding in findings
    ]
    return {
        "failed": True,
        "changed": False,
        "msg": told[0]["sentence"],
        "log": log_of(scene, findings[0]),
        "service": told[0]["service"],
        "diagnosis": told[0]["diagnosis"],
        "findings": told,
    }


LATE = "pull_unknown"


class Patience:
    """For how long each finding has lasted."""

    def __init__(self) -> None:
        self._since: Dict[Tuple[str, str], float] = {}

    def spent(self, findings: Iterable[Finding], now: float) -> Optional[Finding]:
        """The first of these that waiting will not make go away."""
        # How something died is not always to be seen, but that it did.
        died = ("exits", "ends", "no_memory")
        current = {("dies" if f.code in died else f.code, f.service): f for f in findings}
        late = {key for key in current if key[0] == LATE}
        since = {key: self._since.get(key, now) for key in current}
        if any(now - since[key] < (RULES[LATE].patience or 0) for key in late):
            # What has not been pulled yet has not been tried: all others are judged with it.
            self._since = {key: since[key] if key in late else now for key in current}
            return None
        self._since = since
        for key, finding in current.items():
            if finding.patience is not None and now - self._since[key] >= finding.patience:
                return finding
        return None


# -- what fails before there is anything to judge ---------------------------------------------

_STARTS = (
    ("pull_limit", r"toomanyrequests|429 Too Many Requests|pull rate limit"),
    ("pull_missing", r"manifest (?:for [^\n]{1,300} )?(?:unknown|not found)|: not found\b"),
    (
        "pull_denied",
        r"pull access denied|repository does not exist|unauthorized|denied: |no basic auth|"
        r"insufficient_scope",
    ),
    (
        "pull_unreachable",
        r"((?:no such host|connection refused|i/o timeout|TLS handshake timeout|"
        r"network is unreachable|certificate signed by unknown authority|"
        r"server gave HTTP response to HTTPS client|Client\.Timeout exceeded)[^\n]{0,100})",
    ),
)


# What a service that was never asked to start is bound to be.
_BEFORE_START = ("too_few", "waits", "young", "leftover", "outdated")
_BEFORE_END = ("starting", "job_runs", "data_silent")


def pull_failed(said: str) -> Tuple[str, str]:
    """Why an image was not pulled: a code of ``RULES``, and the words that say it."""
    for code, pattern in _STARTS:
        match = re.search(pattern, said)
        if match:
            return code, (match.groups() or ("",))[0]
    return "pull_unreachable", said.strip().rsplit("\n", 1)[-1][:200]


def start_failed(scene: Scene, said: str, *, late: bool = False) -> Finding:
    """Why the services could not be started.

    :param said: what Compose said.
    :param late: whether it was its deadline that ended it.
    """
    for code, pattern in _STARTS:
        match = re.search(pattern, said)
        image = _pulled(scene.services, said) if match else ""
        if match and image:
            why = (match.groups() or ("",))[0]
            return _finding(code, _user_of(scene.services, image), image=image, said=why)
    passing = _BEFORE_START if late else _BEFORE_START + _BEFORE_END
    findings = [f for f in judge(scene) if f.code not in passing]
    if findings:
        # Compose names the one for which it gave up.
        return sorted(findings, key=lambda f: not re.search(r"\b%s\b" % f.service, said))[0]
    words = [line.strip() for line in said.split("\n") if line.strip()]
    return _finding("not_started", "", said=(words or ["no reason was given"])[-1].rstrip("."))


def _pulled(services: Sequence[Mapping[str, Any]], said: str) -> str:
    """The image that could not be pulled: the one that is named, else the one that could be it."""
    images = [s["image"] for s in services if s["source"] == "pull"]
    for image in images:
        if image.rsplit(":", 1)[0].split("@")[0] in said:
            return str(image)
    for service in services:
        if re.search(r"\b{0} Error\b".format(re.escape(service["name"])), said):
            return str(service["image"])
    return str(images[0]) if len(images) == 1 else ", ".join(images)


def _user_of(services: Sequence[Mapping[str, Any]], image: str) -> str:
    return next((str(s["name"]) for s in services if s["image"] == image), "")


# -- one-offs ---------------------------------------------------------------------------------

HOOKS: Dict[str, str] = {
    "late": "{hook} of {service} did not end within its timeout of {timeout} s and was stopped"
    "{cause}.",
    "no_memory": "{hook} of {service} was killed: it needs more memory than the service's limit. "
    "Raise x-preview.size or deploy.resources.limits.memory.",
    "failed": "{hook} of {service} failed with code {code}{cause}.",
    "not_started": "{hook} of {service} could not be started: {said}.",
    "gone": "{hook} of {service} was ended by somebody else, who removed its container.",
}

# $1 is the container's name, $2 its seconds; the rest makes and starts it, detached: what it
# writes goes to a log that is capped, not through us. Nothing of it goes on when this ends.
ONE_OFF = r"""
name=$1 limit=$2
shift 2
t=$(printf '\t')
gone() { docker rm --force --volumes "$name" >/dev/null 2>&1; }
tell() {
    printf '%s\n' "$2" | cut -c 1-2000 | while IFS= read -r line; do
        printf '%s\t\t%s\n' "$1" "$line"
    done
}
trap gone EXIT
trap 'exit 129' HUP INT TERM
if ! said=$("$@" 2>&1 >/dev/null); then
    tell said "$said"
    exit 1
fi
code=$(timeout "$limit" docker wait "$name" 2>/dev/null)
case $? in 124 | 137 | 143) echo late ;; esac
[ "$code" != 0 ] || exit 0
docker inspect --type container --format "state$t$t{{json .State}}" "$name"
tell log "$(docker logs --tail 60 "$name" 2>&1)"
exit 1
"""


START_MAX = 120


def start_max(limit: float) -> float:
    """How many seconds a one-off that may take ``limit`` may take to start: its image may have to
    be pulled, and its pod to find a node."""
    return max(limit, START_MAX)


class Hooked(NamedTuple):
    """Why a one-off failed, and its last log lines."""

    sentence: str
    log: List[str]


class Ended(NamedTuple):
    """How a one-off ended. ``code`` is None where it never started, or is gone; ``said``: what kept
    it from starting."""

    code: Optional[int]
    log: List[str]
    said: List[str] = []
    oom: bool = False
    late: bool = False


def parse_one_off(output: str) -> Ended:
    """How a one-off ended, out of what ``ONE_OFF`` printed."""
    lines: Dict[str, List[str]] = {"said": [], "log": [], "state": [], "late": []}
    for line in output.split("\n"):
        kind, dummy, rest = line.partition("\t")
        if kind in lines:
            lines[kind].append(rest.partition("\t")[2])
    state = json.loads(lines["state"][0]) if lines["state"] else None
    return Ended(
        state and state.get("ExitCode", 0),
        lines["log"],
        lines["said"],
        bool(state and state.get("OOMKilled")),
        bool(lines["late"]),
    )


def hook_failed(
    name: str,
    service: str,
    timeout: float,
    ended: Ended,
    secrets: Sequence[str] = (),
    data: Sequence[str] = (),
) -> Hooked:
    """Why a one-off of a service failed."""
    log = presentable(ended.log or ended.said, secrets)
    if ended.late:
        kind = "late"
    elif ended.code is None:
        kind = "not_started" if ended.said else "gone"
    else:
        kind = "no_memory" if ended.oom else "failed"
    said = cause_of(log, data) or _last_words(log) or "no reason was given"
    sentence = HOOKS[kind].format(
        hook=name,
        service=service,
        timeout=timeout,
        code=ended.code or 0,
        cause=_because(log, data, quoted=kind != "late"),
        said=said,
    )
    return Hooked(sentence, log[-20:])
