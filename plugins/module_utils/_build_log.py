# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What docker and BuildKit wrote when they failed, as a sentence for people. Pure."""

from __future__ import annotations

import re
from typing import List, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import _names

LINES = 20

# A tag or a repository that is not there yet. A refusal to show one is a refusal.
NOT_YET = re.compile(r"manifest unknown|not found|name unknown|no such manifest")

# Who builds the very same image elsewhere, and removes it just then, takes it from this build too.
LOST = re.compile(r"failed to get digest sha256:([0-9a-f]{64}): open \S+/\1: no such file")

_SENTENCES: Tuple[Tuple[str, str], ...] = (
    (
        r'source "docker-image://(?P<it>(?:\S*/)?' + _names.IMAGES + r'/\S+)" denied by policy',
        "{it} is the image of a preview, and previews don't share images.",
    ),
    (
        r'source "docker-image://(?P<it>\S+)" denied by policy',
        "the platform does not allow the image {it}. preview_base_images lists what builds may"
        " use; this machine's own registries have to be listed there or in preview_registries.",
    ),
    (
        r'source "(?P<it>(?:https?|git)://\S+)" denied by policy',
        "ADD {it} is refused: the engine would fetch it from inside the platform's network. Fetch"
        " it by RUN, with wget, curl or git.",
    ),
    (r'source "(?P<it>\S+)" denied by policy', "the platform does not let builds read {it}."),
    (
        r"(?:metadata for|HEAD request to|pull access denied for) (?P<it>\S+?),?:? .*"
        r"(?:429 Too Many Requests|toomanyrequests)|(?P<none>toomanyrequests|429 Too Many)",
        "the registry answers 429: too many requests for now. Wait, log in by preview_registries,"
        " or pull through preview_registry_mirror.",
    ),
    (
        r"metadata for (?P<it>\S+): .*(?:401 Unauthorized|no basic auth|authorization failed"
        r"|failed to authorize|insufficient_scope)",
        "the registry answers 401 for {it}: it wants a login, or not the one it was given. Enter"
        " username and password in preview_registries; is the image's name right?",
    ),
    (
        r"(?P<it>401 Unauthorized|no basic auth credentials|unauthorized: |incorrect username)",
        "the registry answers 401: it wants a login, or not the one it was given. Enter username"
        " and password in preview_registries.",
    ),
    (
        r"(?:metadata for|access denied for) (?P<it>[^\s,]+?)[,:]? .*(?:403 Forbidden|denied)",
        "the registry answers 403 for {it}: the image is not there, or the user of"
        " preview_registries may not pull it.",
    ),
    (r"(?P<it>403 Forbidden)", "the registry answers 403: the login may not pull this image."),
    (
        r"metadata for (?P<it>\S+): \S+ not found|manifest for (?P<that>\S+) not found"
        r"|(?P<none>manifest unknown|name unknown)",
        "the registry has no image {it}. Is its name and tag right?",
    ),
    (
        r'"https?://(?P<it>[^/"]+)[^"]*": .*(?:TLS handshake timeout|i/o timeout|Client\.Timeout'
        r"|deadline exceeded|timeout awaiting)",
        "the registry {it} did not answer in time. Is it up, and does the way there need"
        " preview_proxy?",
    ),
    (
        r"lookup (?P<name>\S+).*: no such host|(?P<it>dial tcp \S+:.*(?:connection refused"
        r"|no route to host)|network is unreachable)",
        "the registry can't be reached ({it}). Check its name, the network and preview_proxy.",
    ),
    (
        r"(?P<it>x509: .*)",
        "the registry's certificate is not trusted ({it}). Docker Engine takes a registry's CA"
        " from /etc/docker/certs.d/<registry>/ca.crt.",
    ),
    (
        r"(?P<it>[Nn]o space left on device)",
        "the engine's disk is full. `docker system df` shows what fills it, `docker builder prune`"
        " empties the build cache.",
    ),
    (
        r"secret (?P<it>\S+): not found",
        "it needs the build secret {it}. Name it under build.secrets in the Compose file, and give"
        " its value in preview_build_secrets; pull requests that are not trusted get none.",
    ),
    (
        r'target stage "?(?P<it>[^"\s]+)"? could not be found',
        "build.target names the stage {it}, which the Dockerfile does not have.",
    ),
    (r"failed to read dockerfile: (?P<it>.*)", "the Dockerfile can't be read: {it}."),
    (r"dockerfile parse error on (?P<it>.*)", "the Dockerfile is wrong in {it}."),
    (
        r'checksum of ref \S+: "(?P<it>[^"]*)": not found',
        "COPY names {it}, which is not in the build context. Is it committed, and not excluded by"
        " .dockerignore?",
    ),
    (
        r"(?P<it>[\w.]+) is not allowed",
        "{it} is refused: builds get nothing of the host.",
    ),
    (
        r"Cannot connect to the Docker daemon|error during connect",
        "no Docker engine answers. Is it running, and may this user use it? For a cluster,"
        " preview_buildx_builder may name a remote builder, which needs none.",
    ),
    (r'no builder "(?P<it>[^"]*)" found', "there is no builder {it} (preview_buildx_builder)."),
)

# What of the above has another cause, or another cure, when an image is pushed.
_PUSH_SENTENCES: Tuple[Tuple[str, str], ...] = (
    (
        r"(?P<it>\b413\b|[Rr]equest [Ee]ntity [Tt]oo [Ll]arge)",
        "the registry, or a proxy before it, takes no layer that large ({it}). Allow more there"
        " (nginx: client_max_body_size), or make the image smaller.",
    ),
    (
        r"name unknown|[Rr]epository .*(?:does not exist|not found)|NAME_UNKNOWN",
        "the registry has no such repository, and makes none by itself. Let it make what is pushed"
        " (ECR: a repository creation template), or let preview_registry name one that does.",
    ),
    (
        r"\b401\b|unauthorized|no basic auth credentials|incorrect username",
        "the registry wants a login for this, or not the one it was given. Enter username and"
        " password of preview_registry in preview_registries.",
    ),
    (
        r"\b403\b|denied|insufficient_scope|authorization failed",
        "the login of preview_registries may not push there. Give that user the right to, or"
        " correct preview_registry.",
    ),
    (
        r"HTTP response to HTTPS client",
        "the registry speaks no TLS, and only one on localhost may do so. Give it a certificate.",
    ),
    (
        r"lookup (?P<name>\S+).*: no such host|(?P<it>dial tcp \S+:.*(?:connection refused"
        r"|no route to host|i/o timeout)|network is unreachable|TLS handshake timeout)",
        "the registry can't be reached from the builder ({it}). Check preview_registry, the"
        " network, and the proxy of the engine or BuildKit there.",
    ),
)

_RUN_HINTS: Tuple[Tuple[str, str], ...] = (
    (r"[Nn]o space left on device", "the engine's disk is full."),
    (
        r"Cannot allocate memory|MemoryError|heap out of memory|^Killed$|\bOut of memory",
        "it needed more memory than builds get (preview_build_memory).",
    ),
    (r"Resource temporarily unavailable", "it started more processes than builds may have."),
    (
        r"Temporary failure in name resolution|Could not resolve host|bad address"
        r"|Network is unreachable|Connection timed out",
        "it could not reach the network. Is a proxy needed (preview_proxy), or is the address one"
        " that builds are kept from?",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|self.signed certificate",
        "it met a certificate that the image does not trust. With preview_ca_file, a RUN may mount"
        " the secret preview_ca.",
    ),
)


def explain(lines: List[str], push: bool = False) -> Tuple[str, List[str]]:
    """The sentence for what docker wrote, and the last lines of the step that failed."""
    said = next((line for line in reversed(lines) if re.match(r"ERROR|Error", line)), "")
    said = said or (lines[-1] if lines else "docker said nothing")
    step, log = _failed_step(lines)
    run = re.search(
        r'process "(.*)" did not complete successfully: (?:exit code: (\d+)|(.*))', said
    )
    if run:
        where = _where(lines)
        sentence = "{0} ended with exit code {1}".format(step or run.group(1), run.group(2))
        if not run.group(2):
            sentence = "{0} ended: {1}".format(step or run.group(1), run.group(3))
        hint = _hint("\n".join(log))
        if not hint and run.group(2) == "137":
            hint = "It was killed, most likely for lack of memory (preview_build_memory)."
        return "{0}{1}. {2}".format(where, sentence, hint).strip(), log[-LINES:]
    push = push or "failed to push" in said
    for pattern, sentence in (*_PUSH_SENTENCES, *_SENTENCES) if push else _SENTENCES:
        found = re.search(pattern, said)
        if found:
            it = next(filter(None, found.groupdict().values()), "")
            return _where(lines) + sentence.format(it=it), log[-LINES:]
    return _where(lines) + re.sub(
        r"\AERROR: (failed to build: )?(failed to solve: )?", "", said
    ) + ("" if said.endswith(".") else "."), (log or steps(lines))[-LINES:]


def too_late(lines: List[str], setting: str, seconds: float) -> str:
    """The sentence for what was ended at its limit, which the setting allows."""
    pending = {}
    for line in lines:
        began = re.match(r"(#\d+) \[internal\] load metadata for (\S+)", line)
        if began:
            pending[began.group(1)] = began.group(2)
        elif re.match(r"#\d+ (?:DONE|CACHED|ERROR(?!.*cancel))", line):
            pending.pop(line.split(maxsplit=1)[0], None)
    for image in pending.values():
        return (
            "the registry of {0} did not answer within {1:g} seconds ({2}). Is it up, and does the"
            " way there need preview_proxy?".format(image, seconds, setting)
        )
    return "it was not done within {0:g} seconds, and was stopped. {1} allows more.".format(
        seconds, setting
    )


def _hint(log: str) -> str:
    for pattern, sentence in _RUN_HINTS:
        if re.search(pattern, log, re.MULTILINE):
            return sentence[0].upper() + sentence[1:]
    return ""


def _where(lines: List[str]) -> str:
    """`Dockerfile:7: ` where BuildKit shows the place."""
    for number, line in enumerate(lines[:-1]):
        if re.fullmatch(r"[^\s:]+:\d+", line) and lines[number + 1].startswith("-----"):
            return line + ": "
    return ""


def _failed_step(lines: List[str]) -> Tuple[str, List[str]]:
    """The instruction that failed and its output, out of BuildKit's summary."""
    for number, line in enumerate(lines):
        found = re.fullmatch(r" > \[[^\]]*\] (.*):", line)
        if found and number and lines[number - 1].startswith("------"):
            log = []
            for told in lines[number + 1 :]:
                if told.startswith("------"):
                    break
                log.append(re.sub(r"\A\d+\.\d+ ", "", told))
            return found.group(1)[:200], log or _output(lines)
    return "", []


def _output(lines: List[str]) -> List[str]:
    """The output of what failed, which the summary leaves out when it came at the last moment."""
    vertex = next(iter(re.findall(r"(?m)^#(\d+) ERROR:", "\n".join(lines))), "")
    told = re.compile(r"#{0} \d+\.\d+ (.*)".format(vertex))
    return [found.group(1) for found in map(told.match, lines) if found]


def steps(lines: List[str]) -> List[str]:
    """Progress without BuildKit's own chatter."""
    return [
        line for line in lines if not re.match(r"#\d+ (?:DONE|CACHED|\.\.\.|transferring)", line)
    ]
