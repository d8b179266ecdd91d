# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a preview does not answer, in a reviewer's words: tables over facts, nothing is asked here.

``containers`` judges what the observer saw at every poll; ``diagnose`` is called once, when
verification has failed, with what the gateway answered and what the kernel knows.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

# For every container id given: one line "inspect TAB <JSON>", its listening TCP sockets, its log.
# The sockets are read from the host's /proc, so that it works for images without a shell.
FACTS = r"""
t=$(printf '\t')
for id; do
    docker inspect --type container \
        --format "inspect$t$id$t{{json .State}}$t{{.RestartCount}}" "$id"
    pid=$(docker inspect --format '{{.State.Pid}}' "$id")
    if [ "$pid" -gt 0 ] && [ -r "/proc/$pid/net/tcp" ]; then
        echo "proc$t$id"
        for family in tcp tcp6; do
            while read -r slot local remote state rest; do
                [ "$state" != 0A ] || echo "listen$t$id$t$local"
            done <"/proc/$pid/net/$family"
        done
    fi
    docker logs --tail 40 "$id" 2>&1 | cut -c 1-500 | while IFS= read -r line; do
        printf 'log\t%s\t%s\n' "$id" "$line"
    done
done 2>/dev/null
"""


class Verdict(NamedTuple):
    """``ready``: every container is as wanted. ``final``: waiting longer cannot help."""

    ready: bool
    final: bool
    service: str


class Diagnosis(NamedTuple):
    """One sentence, the service it is about, and the last lines of that service's log."""

    sentence: str
    service: str
    log: List[str]


def _of(seen: Mapping[str, Any], service: str) -> List[Mapping[str, Any]]:
    return [c for c in seen["containers"] if c["service"] == service and not c["oneoff"]]


def containers(services: Sequence[Mapping[str, Any]], seen: Mapping[str, Any]) -> Verdict:
    """Whether each of these services runs the wanted image, is up and healthy."""
    images = {image["ref"]: image["id"] for image in seen["images"]}
    ready = True
    for service in services:
        mine = _of(seen, service["name"])
        if len(mine) != service["replicas"]:
            ready = False
        for container in mine:
            wanted = images.get(service["image"], container["image_id"])
            if container["image_id"] != wanted:
                ready = False
            if service["completes"]:
                if container["state"] == "exited" and container["exit_code"] == 0:
                    continue
                ready = False
                if container["state"] == "exited":
                    return Verdict(False, True, service["name"])
            elif container["state"] in ("restarting", "exited", "dead"):
                return Verdict(False, True, service["name"])
            elif container["state"] != "running" or container["health"] == "starting":
                ready = False
            elif container["health"] == "unhealthy":
                return Verdict(False, True, service["name"])
    return Verdict(ready, False, "")


def answered(service: Mapping[str, Any], answer: Mapping[str, Any]) -> bool:
    """Whether a service's answer through the gateway is the one its definition expects."""
    expected = (service["health"] or {}).get("status")
    status = int(answer["status"])
    if expected:
        return status in (expected if isinstance(expected, list) else [expected])
    if 300 <= status < 400:
        return not _leaves_https(answer)
    # Without a health path the front page may well ask for a login or not exist.
    return 200 <= status < (500 if not service["health"] else 300)


def _leaves_https(answer: Mapping[str, Any]) -> bool:
    url, location = str(answer["url"]), str(answer["location"])
    return url.startswith("https://") and location.startswith("http://")


def parse_facts(output: str) -> Dict[str, Dict[str, Any]]:
    """By container id: ``{"state": {...}, "restarts": n, "listen": [(address, port)], "log"}``.

    ``listen`` is None where the sockets could not be read.
    """
    facts: Dict[str, Dict[str, Any]] = {}
    for line in output.splitlines():
        kind, _, rest = line.partition("\t")
        ident, _, rest = rest.partition("\t")
        if not ident:
            continue
        fact = facts.setdefault(ident, {"state": {}, "restarts": 0, "listen": None, "log": []})
        if kind == "inspect":
            text, _, restarts = rest.rpartition("\t")
            fact["state"] = json.loads(text)
            fact["restarts"] = int(restarts)
        elif kind == "proc":
            fact["listen"] = []
        elif kind == "listen" and fact["listen"] is not None:
            fact["listen"].append(_socket(rest))
        elif kind == "log":
            fact["log"].append(rest)
    return facts


def _socket(text: str) -> "tuple[str, int]":
    """The kernel's ``0100007F:1F90`` as ("loopback", 8080)."""
    address, _, port = text.partition(":")
    loopback = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
    anywhere = set(address) == {"0"}
    place = "any" if anywhere else "loopback" if address in loopback else "other"
    if place == "other" and len(address) == 8 and address.endswith("7F"):
        place = "loopback"
    return place, int(port, 16)


# What an app's last words mean. The first that matches names the cause.
_WORDS = (
    (r"Multiple head revisions|multiple heads", "its migrations have two heads: merge them"),
    (
        r"Can't locate revision identified by '?([0-9a-zA-Z_]+)",
        "the database is at revision {0}, which this commit does not know",
    ),
    (
        r"(?:could not connect|connection refused|Connect call failed)[^\n]*"
        r"(?:127\.0\.0\.1|localhost|::1)",
        "it looks for its database on localhost; use the service's name as host",
    ),
    (r"KeyError: '([A-Z][A-Z0-9_]+)'", "the variable {0} is missing"),
    (
        r"validation errors? for \w*[Ss]ettings\s+(\w+)\s+Field required",
        "the setting {0} is missing",
    ),
    (r"([A-Z][A-Z0-9_]{2,}) (?:is not set|must be set|is required|not set)", "{0} is not set"),
    (r"ModuleNotFoundError: No module named '([^']+)'", "the Python module {0} is not installed"),
    (r"exec format error", "its image was built for another processor"),
    (r"[Pp]ermission denied", "it may not read or write what it needs"),
)


def last_words(log: Sequence[str]) -> str:
    """The cause that a log names, or ""."""
    text = "\n".join(log)
    for pattern, cause in _WORDS:
        match = re.search(pattern, text)
        if match:
            return cause.format(*match.groups())
    return ""


def _died(service: Mapping[str, Any], fact: Mapping[str, Any]) -> str:
    state = fact["state"]
    if state.get("OOMKilled"):
        return "{0} was killed: it needs more memory than its limit of {1} MiB. Set {2}.".format(
            service["name"],
            service["resources"]["memory"] >> 20,
            "x-preview.size or deploy.resources.limits.memory",
        )
    cause = last_words(fact["log"])
    code = state.get("ExitCode", 0)
    ended = "{0} exits at start with code {1}".format(service["name"], code)
    if state.get("Error"):
        cause = cause or state["Error"]
    return "{0}{1}.".format(ended, ": " + cause if cause else "; its last log lines follow")


def _silent(service: Mapping[str, Any], fact: Optional[Mapping[str, Any]]) -> str:
    """A service that runs while the gateway gets no answer from it."""
    name, port = service["name"], service["expose"]["port"]
    listen = fact["listen"] if fact else None
    if listen is None:
        return "{0} runs, but nothing answers on its port {1}.".format(name, port)
    at_port = [place for place, number in listen if number == port]
    if at_port and all(place == "loopback" for place in at_port):
        return (
            "{0} listens on 127.0.0.1:{1} only, which nobody outside its container reaches: "
            "let it listen on 0.0.0.0.".format(name, port)
        )
    others = sorted({number for place, number in listen if place != "loopback"} - {port})
    if not at_port and others:
        return (
            "{0} listens on port {1}, not on {2}: name the right one under ports or "
            "x-preview.expose.".format(name, " and ".join(str(p) for p in others), port)
        )
    if not at_port:
        return "{0} runs, but nothing listens on its port {1}.".format(name, port)
    return "{0} listens on port {1} but does not answer in time.".format(name, port)


def diagnose(
    services: Sequence[Mapping[str, Any]],
    seen: Mapping[str, Any],
    answers: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Mapping[str, Any]],
) -> Diagnosis:
    """The one sentence that tells why verification failed: causes before their consequences."""
    for service in sorted(services, key=lambda s: not s["data"]):
        mine = _of(seen, service["name"])
        if not mine:
            return Diagnosis("{0} has no container.".format(service["name"]), service["name"], [])
        for container in mine:
            fact = facts.get(container["id"])
            log = fact["log"] if fact else []
            over = container["state"] in ("restarting", "exited", "dead")
            if over and not (service["completes"] and container["exit_code"] == 0):
                sentence = (
                    _died(service, fact) if fact else "{0} has ended.".format(service["name"])
                )
                return Diagnosis(sentence, service["name"], log[-20:])
            if container["health"] == "unhealthy":
                cause = last_words(log)
                sentence = "{0} runs, but its own healthcheck fails{1}.".format(
                    service["name"], ": " + cause if cause else ""
                )
                return Diagnosis(sentence, service["name"], log[-20:])
    for service in services:
        answer = answers.get(service["name"])
        if not answer or answered(service, answer):
            continue
        mine = _of(seen, service["name"])
        fact = facts.get(mine[0]["id"]) if mine else None
        log = (fact["log"] if fact else [])[-20:]
        return Diagnosis(_answer(service, answer, fact), service["name"], log)
    for service in services:
        for container in _of(seen, service["name"]):
            if container["health"] == "starting":
                return Diagnosis(
                    "{0} is still starting after preview_verify_timeout: its healthcheck has "
                    "neither passed nor failed.".format(service["name"]),
                    service["name"],
                    facts.get(container["id"], {"log": []})["log"][-20:],
                )
    return Diagnosis("not every service runs the wanted commit.", "", [])


def _answer(
    service: Mapping[str, Any], answer: Mapping[str, Any], fact: Optional[Mapping[str, Any]]
) -> str:
    name, url, status = service["name"], answer["url"], answer["status"]
    trouble = answer["trouble"]
    if trouble == "dns":
        return (
            "{0} cannot be found from the controller: no DNS record leads to its host. Point "
            "a wildcard record of preview_domain at the Docker host.".format(url)
        )
    if trouble in ("refused", "timeout") and not status:
        return (
            "{0} cannot be reached from the controller ({1}): check that the gateway runs and "
            "that no firewall stands before it.".format(url, trouble)
        )
    if trouble == "tls":
        return "{0}: the gateway's certificate is not trusted here ({1}).".format(
            url, answer["detail"]
        )
    if status in (502, 503, 504):
        return _silent(service, fact)
    cause = last_words(fact["log"]) if fact else ""
    if 300 <= status < 400 and _leaves_https(answer):
        return (
            "{0} redirects to {1}: behind the gateway the app takes itself for http. Let it "
            "trust X-Forwarded-Proto.".format(url, answer["location"])
        )
    expected = (service["health"] or {}).get("status") or "2xx"
    return "{0} answers {1} at {2}, expected {3}{4}.".format(
        name, status, url, expected, ": " + cause if cause else ""
    )


def hook(name: str, service: str, rc: int, timeout: int, log: Sequence[str]) -> str:
    """Why a one-off of a service failed."""
    if rc in (124, 137):
        return "{0} of {1} did not end within its timeout of {2} s and was stopped.".format(
            name, service, timeout
        )
    cause = last_words(log)
    return "{0} of {1} failed with code {2}{3}.".format(
        name, service, rc, ": " + cause if cause else ""
    )
