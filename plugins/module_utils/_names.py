# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every name a preview has, from the app's name and the pull request's number. Pure.

The names are frozen by ``tests/unit/golden/names.json``: a living preview is found again only
under the name it was given, so what this module returns for an input must never change.

What makes two previews unable to meet, and what the code below must keep true:

* A *slug* stands for one app. It matches ``[a-z][a-z0-9]*(-[a-z0-9]+)*``, so it never holds
  ``--``, and is at most 32 characters long.
* An app's name that is such a slug already is used as it is. Any other gets ten hex digits of
  the SHA-256 of the original at its end. A name that only looks as if it ended in such digits
  gets them as well, so that what was altered and what was not can never be equal.
* No slug holds ``-pr-<digit>``. So no preview's name followed by ``-`` begins another one's
  name, and what engines call ``<name>-<service>-1`` belongs to one preview only.
* Only ASCII counts as readable. What Python knows of Unicode grows with its version, and names
  must come out the same on every one.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

SCHEMA = "1"
"""Version of the labels and names. A newer collection still lists what an older one made."""

PREFIX = "ephemera.preview/"
"""What the key of every label of ours begins with."""
SERVICE, HOOK = PREFIX + "service", PREFIX + "hook"
"""In a cluster the label by which a service's pods are found, and that of what runs a hook, which
are not."""
MAIN = "main"
"""The container of ours in such a pod; others may have put theirs beside it."""
VOLUMES = PREFIX + "volumes"
"""That by which pods that share volumes find each other."""

IMAGES = "ephemera-preview"
"""The first part of every image repository of ours."""

NUMBER_MAX = 2**31 - 1
LABEL_MAX = 63
HOST_MAX = 253
SLUG_MAX = 32
"""With ``-pr-`` and ten digits 46: within Helm's 53, and 15 remain for ``<service>--``."""

SERVICE_MAX = 42
HASH = 10
HOST_LABEL_MAX = LABEL_MAX - len("--") - HASH
"""A host's first label leaves room for ``<service>--`` with the service cut to its hash."""

DOMAIN_MAX = HOST_MAX - LABEL_MAX - len(".")

HOST_FORMAT = "{name}.{domain}"
SCHEMES = {"http": 80, "https": 443}

KINDS = (
    "name",
    "namespace",
    "project",
    "database",
    "role",
    "schema",
    "host",
    "url",
    "image_tag",
    "release",
    "labels",
)

_PLAIN = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_HASHED = re.compile(rf"-[0-9a-f]{{{HASH}}}\Z")
_NUMBERED = re.compile(r"-pr-(?=[0-9])")
# PostgreSQL keeps pg_* to itself, Kubernetes kube-*, OpenShift openshift-*.
_RESERVED = re.compile(r"(pg|kube|openshift)(-|\Z)")
_SERVICE = re.compile(rf"[a-z0-9]([a-z0-9-]{{0,{SERVICE_MAX - 2}}}[a-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")
_NAME = re.compile(r"(.+)-pr-([1-9][0-9]{0,9})")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_REGISTRY = re.compile(r"[a-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
# sslip.io answers with the leftmost address that it reads in a host: 169-254-169-254--shop-pr-1.
_DASHED_DOMAINS = (".sslip.io", ".nip.io")
_DASHED_ADDRESS = re.compile(
    r"(^|-)([0-9]{1,3}(-[0-9]{1,3}){3}|[0-9a-f]{1,4}(-[0-9a-f]{1,4}){7}"
    r"|[0-9a-f]{1,4}--[0-9a-f]{1,4})(?=-|\Z)"
)


class NameRefused(ValueError):
    """A value no name can be made from. ``what``, ``value`` and ``rule`` are attributes too."""

    def __init__(self, what: str, value: object, rule: str) -> None:
        self.what = what
        self.value = value
        self.rule = rule
        shown = repr(value)
        if len(shown) > 100:
            shown = shown[:97] + "..."
        super().__init__(f"{what}: {shown} is refused: {rule}")


class Names(NamedTuple):
    """The names of one preview. ``domain`` is never empty: it ends in the one that was used."""

    app: str
    slug: str
    number: int
    name: str
    namespace: str
    project: str
    database: str
    role: str
    schema: str
    release: str
    host_label: str
    domain: str
    host: str
    scheme: str
    port: int
    url: str


def names(
    app: object,
    number: object,
    *,
    domain: Optional[str] = None,
    host_format: Optional[str] = None,
    ip: Optional[str] = None,
    domain_shared: bool = False,
    scheme: str = "http",
    port: object = None,
) -> Names:
    """Name the preview of pull request ``number`` of ``app``; raises NameRefused.

    ``number`` may be an integer or its plain decimal writing. Without ``domain`` the host lies
    under ``<ip-with-dashes>.sslip.io``, or under ``localhost`` where there is no ``ip`` either.
    ``domain_shared`` says that other apps have their previews under the same domain.
    """
    app = _text("app", app)
    number = pull_request_number(number)
    slug = app_slug(app)
    name = f"{slug}-pr-{number}"
    database = name.replace("-", "_")
    base = base_domain(domain, ip)
    shared = domain_shared or not domain
    label = _host_label(host_format or HOST_FORMAT, slug, number, shared)
    if base.endswith(_DASHED_DOMAINS) and _DASHED_ADDRESS.search(label):
        raise NameRefused(
            "app", app, f"in {label}.{base} an IP address would be read; set a domain of your own."
        )
    host = f"{label}.{base}"
    scheme = str(scheme).lower()
    if scheme not in SCHEMES:
        raise NameRefused("scheme", scheme, "it must be http or https.")
    numeric_port = _port(port, scheme)
    return Names(
        app=app,
        slug=slug,
        number=number,
        name=name,
        namespace=name,
        project=name,
        database=database,
        role=database,
        schema=database,
        release=name,
        host_label=label,
        domain=base,
        host=host,
        scheme=scheme,
        port=numeric_port,
        url=_url(scheme, host, numeric_port),
    )


def app_slug(app: str) -> str:
    """The slug of an app's name: the name itself where it is one, else a readable part + hash."""
    if (
        len(app) <= SLUG_MAX
        and _PLAIN.fullmatch(app)
        and not _HASHED.search(app)
        and not _NUMBERED.search(app)
        and not _RESERVED.match(app)
    ):
        return app
    readable = re.sub(r"[^A-Za-z0-9]+", "-", app).strip("-").lower()
    readable = _NUMBERED.sub("-pr", readable)
    if not readable[:1].isalpha() or _RESERVED.match(readable):
        readable = f"app-{readable}"
    readable = readable[: SLUG_MAX - HASH - 1].rstrip("-")
    # "shop-pr" before a hash of digits would read as a pull request's number.
    readable = re.sub(r"(-pr)+\Z", "", readable)
    return f"{readable}-{_digest(app, HASH)}"


def pull_request_number(value: object) -> int:
    """A pull request's number from an integer or its plain decimal writing; raises NameRefused."""
    number = 0
    if isinstance(value, int) and not isinstance(value, bool):
        number = int(value)
    elif isinstance(value, str) and _NUMBER.fullmatch(value):
        number = int(value)
    if not 1 <= number <= NUMBER_MAX:
        raise NameRefused(
            "number",
            value,
            f"a pull request's number is a whole number from 1 to {NUMBER_MAX}, "
            "without sign, spaces or leading zeros.",
        )
    return number


def parse(name: str) -> Tuple[str, int]:
    """Take ``shop-pr-42`` apart into ``("shop", 42)``; raises NameRefused."""
    match = _NAME.fullmatch(name)
    if match is None or not _PLAIN.fullmatch(match.group(1)) or _NUMBERED.search(match.group(1)):
        raise NameRefused("name", name, "the name of a preview reads <app>-pr-<number>.")
    return match.group(1), pull_request_number(match.group(2))


def service_name(service: str) -> str:
    """The service's name, where it can be part of a host and an image; raises NameRefused."""
    if not isinstance(service, str) or not _SERVICE.fullmatch(service):
        raise NameRefused(
            "service",
            service,
            f"a service's name is made of a-z, 0-9 and inner hyphens, at most {SERVICE_MAX} long.",
        )
    return service


def service_host(of: Names, service: str) -> str:
    """The host of a further service, ``<service>--<label>.<domain>``; raises NameRefused.

    A service too long for the label is cut and gets its hash. So does one that would make the
    label read as something else: ``xn--`` is punycode, and sslip.io reads addresses.
    """
    service = service_name(service)
    room = LABEL_MAX - len("--") - len(of.host_label)
    label = f"{service}--{of.host_label}"
    dashed = of.domain.endswith(_DASHED_DOMAINS) and _DASHED_ADDRESS.search(label)
    odd = "--" in service or service == "xn" or _HASHED.search(f"-{service}")
    if len(service) > room or odd or dashed:
        readable = "" if dashed else re.sub("-+", "-", service)[: max(0, room - HASH - 1)]
        hashed = f"{readable.rstrip('-')}-{_digest(service, HASH)}".lstrip("-")
        label = f"{hashed}--{of.host_label}"
    return f"{label}.{of.domain}"


def service_url(of: Names, service: str) -> str:
    """The URL of a further service; raises NameRefused."""
    return _url(of.scheme, service_host(of, service), of.port)


def labels(of: Names, owner: Optional[str] = None) -> Dict[str, str]:
    """The labels every object of the preview carries; values are valid in Kubernetes too.

    ``owner`` is what ``owner_id`` returns. Without it the label is left out, which serves for
    finding objects, not for making them.
    """
    found = {
        "name": of.name,
        "app": of.slug,
        "number": str(of.number),
        "schema": SCHEMA,
    }
    if owner is not None:
        if not re.fullmatch(r"[0-9a-f]{16}", owner):
            raise NameRefused("owner", owner, "an owner is 16 hex digits, as owner_id gives them.")
        found["owner"] = owner
    return {PREFIX + key: found[key] for key in sorted(found)}


def owner_id(forge: str, repository: str) -> str:
    """Who a preview belongs to: 16 hex digits for a repository on a forge; raises NameRefused.

    Both parts are hashed with their length before them, so that no two pairs read the same.
    """
    if not repository:
        raise NameRefused("repository", repository, "an owner needs a repository.")
    hashed = hashlib.sha256()
    for part in (forge or "", repository):
        raw = str(part).encode("utf-8", "surrogatepass")
        hashed.update(f"{len(raw)}:".encode("ascii") + raw)
    return hashed.hexdigest()[:16]


def image_tag(commit: str) -> str:
    """The first 12 digits of a full commit id; raises NameRefused."""
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit.lower()):
        raise NameRefused(
            "commit", commit, "a commit is written with all its 40 (or 64) hex digits."
        )
    return commit.lower()[:12]


def image_repository(of: Names, service: str, registry: Optional[str] = None) -> str:
    """``ephemera-preview/<name>/<service>``, below ``registry`` where one is given."""
    repository = f"{IMAGES}/{of.name}/{service_name(service)}"
    if not registry:
        return repository
    if not isinstance(registry, str) or not _REGISTRY.fullmatch(registry):
        raise NameRefused("registry", registry, "a registry is written host[:port][/path].")
    return f"{registry}/{repository}"


def image(of: Names, service: str, commit: str, registry: Optional[str] = None) -> str:
    """The image of a service at a commit: repository and tag; raises NameRefused."""
    return f"{image_repository(of, service, registry)}:{image_tag(commit)}"


def edge_alias(of: Names, service: str) -> str:
    """The name under which the gateway reaches a service on the preview's edge network."""
    return f"{service_name(service)}.{of.name}.preview.internal"


def dns_name(name: str) -> bool:
    """Whether a name is one of DNS: what Kubernetes takes for most objects, and as a host."""
    labels = name.split(".")
    short = len(name) <= HOST_MAX and all(len(each) <= LABEL_MAX for each in labels)
    return short and all(_DNS_LABEL.fullmatch(each) for each in labels)


def claim_name(volume: str) -> str:
    """The name of a volume's claim, which is a label's value, too: the volume's own where it is one
    of DNS, else altered so that no two are equal."""
    if dns_name(volume) and len(volume) <= LABEL_MAX and not _HASHED.search(volume):
        return volume
    readable = re.sub(r"[^a-z0-9]+", "-", volume.lower())[: LABEL_MAX - HASH - 1].strip("-")
    return f"{readable}-{_digest(volume, HASH)}".lstrip("-")


def describe(
    app: object,
    number: object,
    *,
    commit: Optional[str] = None,
    forge: Optional[str] = None,
    repository: Optional[str] = None,
    **options: Any,
) -> Dict[str, Any]:
    """All that module ``name_info`` and lookup ``name`` give; ``options`` as for ``names``.

    ``image_tag`` is the name itself, a tag that moves, as long as no commit is given; the owner
    is missing from ``labels`` as long as no repository is given.
    """
    found = names(app, number, **options)
    owner = owner_id(forge or "", repository) if repository else None
    return dict(
        found._asdict(),
        image_tag=image_tag(commit) if commit else found.name,
        labels=labels(found, owner),
    )


def pick(description: Mapping[str, Any], kind: str) -> Any:
    """One kind of name out of what ``describe`` gave; raises NameRefused, which lists the kinds."""
    plain = re.sub(r"[ -]", "_", str(kind)).lower()
    plain = "release" if plain == "helm_release" else plain
    if plain not in KINDS:
        raise NameRefused("kind", kind, f"it must be one of {', '.join(KINDS)}.")
    return description[plain]


def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise NameRefused(what, value, "it must be a text that is not empty.")
    return str(value)


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def base_domain(domain: Optional[str], ip: Optional[str]) -> str:
    """What every preview's host is right below; raises NameRefused."""
    if domain:
        return _checked_domain(domain)
    if not ip:
        return "localhost"
    try:
        # Newer Pythons take a zone after %, and all of them a number.
        address = ipaddress.ip_address(str(ip).replace("%", "/"))
    except ValueError:
        raise NameRefused("ip", ip, "it must be an IPv4 or IPv6 address.") from None
    if address.is_unspecified or address.is_multicast:
        raise NameRefused("ip", ip, "it must be the address at which the host is reached.")
    return re.sub(r"[.:]", "-", address.exploded) + ".sslip.io"


def _checked_domain(domain: str) -> str:
    if not isinstance(domain, str):
        raise NameRefused("domain", domain, "it must be a text.")
    lower = domain.lower()
    parts = lower.split(".")
    rule = ""
    if len(lower) > DOMAIN_MAX:
        rule = (
            f"it is longer than {DOMAIN_MAX} characters, so hosts under it would pass {HOST_MAX}."
        )
    elif lower.endswith("."):
        rule = "write it without the dot at its end."
    elif lower.startswith("*."):
        rule = "write it without the *. before it."
    elif any(len(part) > LABEL_MAX for part in parts):
        rule = f"a part between dots is longer than {LABEL_MAX} characters."
    elif not all(_DNS_LABEL.fullmatch(part) for part in parts):
        rule = (
            "the parts between dots are made of a-z, 0-9 and inner hyphens "
            "(other letters in their xn-- form)."
        )
    elif parts[-1].isdigit():
        rule = "this is no domain; for an address use the option for the host's IP."
    if rule:
        raise NameRefused("domain", domain, rule)
    return lower


def _host_label(host_format: str, slug: str, number: int, shared: bool) -> str:
    """The first label of the host. Its length is judged for the greatest number there can be."""

    def refuse(rule: str) -> NameRefused:
        return NameRefused("host_format", host_format, rule)

    if not isinstance(host_format, str) or not host_format.endswith(".{domain}"):
        raise refuse("it must end in .{domain}.")
    pattern = host_format[: -len(".{domain}")]
    fields = re.findall(r"\{([^{}]*)\}", pattern)
    literal = re.sub(r"\{[^{}]*\}", "", pattern)
    if not set(fields) <= {"app", "name", "number"}:
        raise refuse(
            "it may hold {app}, {name} and {number} before .{domain}, nothing else in braces."
        )
    if "." in literal:
        raise refuse("it must give one label under the domain, so that one certificate covers all.")
    if not re.fullmatch(r"[a-z0-9-]*", literal):
        raise refuse("besides the fields it may hold a-z, 0-9 and hyphens.")
    if "number" not in fields and "name" not in fields:
        raise refuse("without {number} (or {name}) all pull requests would share one host.")
    if len(set(fields)) < len(fields) or ("name" in fields and len(fields) > 1):
        raise refuse("each field may stand in it once, and {name} is {app} and {number} already.")
    if shared and fields == ["number"]:
        raise refuse(
            "without {app} it needs a domain that no other app has its previews under: "
            "set such a domain, and that it is not shared."
        )
    between = re.search(r"\}([^{]*)\{", pattern)
    if between and "-" not in between.group(1):
        raise refuse("a hyphen must stand between {app} and {number}: shop1 + 2 is not shop + 12.")

    def fill(value: int) -> str:
        label = pattern.replace("{name}", "{app}-pr-{number}")
        return label.replace("{app}", slug).replace("{number}", str(value))

    longest = fill(NUMBER_MAX)
    if len(longest) > HOST_LABEL_MAX:
        raise refuse(
            f"it can give a label of {len(longest)} characters; {HOST_LABEL_MAX} is the most "
            f"that leaves room for <service>-- within {LABEL_MAX}."
        )
    label = fill(number)
    if "--" in label or not _DNS_LABEL.fullmatch(label):
        raise refuse(f"it gives {label}: no hyphen at either end, and never two in a row.")
    return label


def _port(port: object, scheme: str) -> int:
    if port is None or port == "":
        return SCHEMES[scheme]
    if isinstance(port, str) and re.fullmatch(r"[1-9][0-9]{0,4}", port):
        port = int(port)
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise NameRefused("port", port, "it must be a whole number from 1 to 65535.")
    return int(port)


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{host}" if port == SCHEMES[scheme] else f"{scheme}://{host}:{port}"
