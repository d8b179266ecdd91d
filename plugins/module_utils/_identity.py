# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a preview is: the part of ``preview`` that settings alone tell. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Any, Dict, Iterable, List, Mapping, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import _names
from ansible_collections.ephemera.preview.plugins.module_utils._redact import in_every_form

SCHEMA = 1


class IdentityRefused(ValueError):
    """What was asked for cannot be a preview. The message says what, where and what to do."""


def builder(settings: Mapping[str, Any], host: str) -> str:
    """The inventory host that builds for an app of this name in the inventory."""
    named = settings["preview_builder"] or host
    if settings["preview_target"] == "docker" and named != host:
        raise IdentityRefused(
            "preview_builder: {0!r} is refused: with preview_target docker images are built where "
            "they run, by {1} itself, as nothing moves them there. Remove it.".format(named, host)
        )
    return str(named)


def derive(key: str, identity: Mapping[str, Any], purpose: str) -> str:
    """A secret of this preview for one purpose: 64 hex digits, the same for the same input.

    The input is length-prefixed, so that no two identities can be read as one.
    """
    parts = [
        identity["forge"],
        identity["repository"],
        identity["app"],
        str(identity["number"]),
        "trusted" if identity["trusted"] else "untrusted",
        purpose,
    ]
    message = b"".join(
        b"%d:%s" % (len(part.encode("utf-8")), part.encode("utf-8")) for part in parts
    )
    return hmac.new(key.encode("utf-8"), message, hashlib.sha256).hexdigest()


def repository_identity(settings: Mapping[str, Any]) -> Tuple[str, str]:
    """(forge, repository) that own a preview: as set, else out of the repository's address."""
    address = settings["preview_repository"]
    match = re.fullmatch(r"(?:[a-z+]+://)?(?:[^@/]*@)?([^/:]+)(?::\d+(?=/))?[:/](.+)", address)
    is_path = address.startswith("/") or match is None
    host, path = ("", address) if is_path or match is None else match.groups()
    path = path.strip("/")
    path = path[: -len(".git")] if path.endswith(".git") else path
    return (
        settings["preview_forge"] or host,
        settings["preview_repository_id"] or path,
    )


def _is_tls(settings: Mapping[str, Any]) -> bool:
    if settings["preview_target"] == "kubernetes":
        deciding = ("preview_ingress_tls", "preview_tls_secret", "preview_tls_issuer")
        return any(settings[name] for name in deciding)
    return bool(settings["preview_gateway_tls"] != "off")


def names_for(app: str, number: Any, settings: Mapping[str, Any]) -> _names.Names:
    """The names of an app's preview, its host and URL as the settings have them.

    :raises _names.NameRefused: the app, number, domain or host format is not usable.
    """
    tls = _is_tls(settings)
    return _names.names(
        app,
        number,
        domain=settings["preview_domain"] or None,
        host_format=settings["preview_host_format"] or None,
        ip=settings["preview_host_ip"] or None,
        domain_shared=settings["preview_domain_shared"],
        scheme="https" if tls else "http",
        port=settings["preview_gateway_https_port" if tls else "preview_gateway_http_port"],
    )


def identity(app: str, settings: Mapping[str, Any], run: str, builder: str) -> Dict[str, Any]:
    """The part of ``preview`` that needs no checkout.

    :raises _names.NameRefused: the app, number, domain or host format is not usable.
    """
    names = names_for(app, settings["preview_number"], settings)
    forge, repository = repository_identity(settings)
    owner = _names.owner_id(forge, repository)
    return {
        "schema": SCHEMA,
        "run": run,
        "name": names.name,
        "app": app,
        "number": names.number,
        "commit": settings["preview_commit"],
        "trusted": settings["preview_trusted"],
        "target": settings["preview_target"],
        "forge": forge,
        "repository": repository,
        "owner": owner,
        "names": names._asdict(),
        "labels": _names.labels(names, owner),
        "host": names.host,
        "url": names.url,
        "state_dir": settings["preview_state_dir"],
        "dir": "{0}/previews/{1}".format(settings["preview_state_dir"], names.name),
        "builder": builder,
        "no_log": settings["preview_no_log"],
        "notes": [],
    }


def names_of(preview: Mapping[str, Any]) -> _names.Names:
    """The names of a preview as their own type again."""
    return _names.Names(**preview["names"])


def secret_values(
    preview: Mapping[str, Any], settings: Mapping[str, Any], further: Iterable[str] = ()
) -> List[str]:
    """Every value that must not be shown, as ``redact`` takes them; ``further`` is no setting's."""
    values = [*further, *(str(v) for v in settings["preview_secrets"].values())]
    values += [str(v) for v in settings["preview_build_secrets"].values()]
    values += [str(v) for v in settings["preview_auth_users"].values()]
    values += [str(r.get("password", "")) for r in settings["preview_registries"]]
    values += [settings["preview_source_token"], settings["preview_secret_key"]]
    values += [str(v) for v in settings["preview_gateway_acme_environment"].values()]
    values += [str(v) for v in settings["preview_proxy"].values() if "@" in str(v)]
    if settings["preview_secret_key"]:
        values.append(derive(settings["preview_secret_key"], preview, "app"))
    return in_every_form(values)
