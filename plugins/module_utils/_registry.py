# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image registries asked directly, as the OCI distribution specification has it: no engine needed.

Every answer is bounded in time and size. A password goes to the registry it belongs to, or to the
place that this one names for getting a token; a redirect to elsewhere is followed without it.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import ssl
import urllib.request
from email.message import Message
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urljoin, urlsplit

from ansible_collections.ephemera.preview.plugins.module_utils import _http
from ansible_collections.ephemera.preview.plugins.module_utils._checks import image_name

SECONDS = 30.0
SIZE = 4 << 20  # bytes, which is also the most that registries take for a manifest
PAGES = 50
REDIRECTS = 3

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LOCAL = re.compile(r"(?:localhost|127(?:\.[0-9]+){3})(?::[0-9]+)?")
_HUB = "registry-1.docker.io"


class RegistryError(Exception):
    """A registry cannot be asked, or refuses. The message says which, why and what to do."""


class Refused(RegistryError):
    """Who asks may not. Some registries say so as well of what is not there."""


class Removed(NamedTuple):
    """The digests that were removed; and, in a sentence, why others were not, "" if all were."""

    digests: List[str]
    refused: str


class _Answer(NamedTuple):
    status: int
    headers: Message
    body: bytes


class _Place(NamedTuple):
    """Where an image is. `reference` is its digest, else its tag, else nothing."""

    host: str
    repository: str
    reference: str

    @property
    def manifest(self) -> str:
        return "/v2/{0}/manifests/{1}".format(self.repository, self.reference or "latest")

    def __str__(self) -> str:
        return "{0}/{1}".format(self.host, self.repository)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *dummy: Any, **kwargs: Any) -> None:
        """Follow nothing: urllib would take the credentials along."""


def without_tag(image: str) -> str:
    """An image's repository with its registry."""
    return re.sub(r":[^/:]*\Z", "", image.partition("@")[0])


def basic(login: Mapping[str, str]) -> str:
    """User and password as HTTP and docker's configuration have them."""
    pair = "{0}:{1}".format(login["username"], login["password"])
    return base64.b64encode(pair.encode()).decode()


class Registries:
    """The registries that are known by these ``logins``, and any other, without one.

    :param ca: certificates to trust besides the system's, as PEM text.
    :param proxy: ``http_proxy``, ``https_proxy`` and ``no_proxy``.
    """

    def __init__(
        self,
        logins: Iterable[Mapping[str, str]] = (),
        ca: str = "",
        proxy: Optional[Mapping[str, str]] = None,
        seconds: float = SECONDS,
    ) -> None:
        self._logins = {_host(each["registry"].partition("/")[0]): each for each in logins}
        self._context = ssl.create_default_context()
        if ca:
            self._context.load_verify_locations(cadata=ca)
        self._proxy = proxy or {}
        self._seconds = seconds
        self._schemes: Dict[str, str] = {}
        self._authorizations: Dict[Tuple[str, str, bool], str] = {}

    def digest(self, image: str) -> str:
        """The digest of an image, "" where the registry has no such image."""
        place = _place(image)
        answer = self._ask("HEAD", place, place.manifest, accept=_INDEXES + _MANIFESTS)
        if answer.status == 404:
            return ""
        _must(answer, place, 200)
        told = answer.headers.get("Docker-Content-Digest", "")
        return told if _DIGEST.fullmatch(told) else _digest(self._manifest(place).body)

    def config(self, image: str) -> Dict[str, Any]:
        """What an image, of one platform, says of itself: variables, labels, volumes."""
        place = _place(image)
        manifest = _read(self._manifest(place, _MANIFESTS), place)
        wanted = str((manifest.get("config") or {}).get("digest"))
        path = "/v2/{0}/blobs/{1}".format(place.repository, wanted)
        answer = _must(self._ask("GET", place, path), place, 200)
        if _digest(answer.body) != wanted:
            raise RegistryError("{0} gave something else for {1}.".format(place, wanted))
        return dict(_read(answer, place).get("config") or {})

    def tags(self, repository: str) -> List[str]:
        """The tags of a repository; none where there is no such repository."""
        place = _place(repository)
        path = "/v2/{0}/tags/list?n=1000".format(place.repository)
        found: List[str] = []
        for _page in range(PAGES):
            answer = self._ask("GET", place, path)
            if answer.status == 404:
                break
            found += _read(_must(answer, place, 200), place).get("tags") or []
            following = re.match(r'<([^>]+)>; *rel="?next', answer.headers.get("Link", ""))
            if not following:
                break
            # Only its path and query: what comes next is at the same registry.
            parts = urlsplit(urljoin(path, following.group(1)))
            path = parts._replace(scheme="", netloc="").geturl()
        return found

    def tag(self, image: str, tag: str) -> None:
        """Give an image one more tag in its repository."""
        place = _place(image)
        manifest = self._manifest(place)
        path = place._replace(reference=tag).manifest
        kind = manifest.headers.get("Content-Type", _MANIFESTS[0])
        _must(self._ask("PUT", place, path, kind=kind, body=manifest.body), place, 201)

    def delete(self, image: str) -> Removed:
        """Remove an image; of a name without tag and digest all that the repository has."""
        place = _place(image)
        removed: List[str] = []
        try:
            references = [place.reference] if place.reference else self.tags(image)
            named = {ref: self.digest(str(place) + _separator(ref) + ref) for ref in references}
            for digest in dict.fromkeys(filter(None, named.values())):
                path = place._replace(reference=digest).manifest
                answer = self._ask("DELETE", place, path)
                if answer.status in (400, 405):
                    return Removed(
                        removed,
                        "The registry {0} deletes no images ({1}), so those of {2} stay. Allow it"
                        " there, or let a retention rule of the registry remove them.".format(
                            place.host, answer.status, place.repository
                        ),
                    )
                if answer.status != 404:
                    _must(answer, place, 200, 202, 204)
                    removed.append(digest)
        except Refused as refused:
            return Removed(
                removed,
                "The images of {0} stay: {1} It takes the right to delete.".format(place, refused),
            )
        return Removed(removed, "")

    # -- asking -------------------------------------------------------------------------------

    def _manifest(self, place: _Place, accept: Tuple[str, ...] = _INDEXES + _MANIFESTS) -> _Answer:
        answer = _must(self._ask("GET", place, place.manifest, accept=accept), place, 200)
        if _DIGEST.fullmatch(place.reference) and _digest(answer.body) != place.reference:
            raise RegistryError("{0} gave something else for {1}.".format(place, place.reference))
        return answer

    def _ask(
        self,
        method: str,
        place: _Place,
        path: str,
        accept: Tuple[str, ...] = (),
        kind: str = "",
        body: bytes = b"",
    ) -> _Answer:
        headers = {"Accept": ", ".join(accept) or "*/*"}
        if kind:
            headers["Content-Type"] = kind
        # A token to read does not do for writing.
        key = place.host, place.repository, method in ("GET", "HEAD")
        known = self._authorizations.get(key)
        answer = self._to_registry(method, place.host, path, headers, known or "", body)
        if answer.status == 401:
            given = self._authorization(place, answer.headers.get("WWW-Authenticate", ""))
            if given and given != known:
                self._authorizations[key] = given
                answer = self._to_registry(method, place.host, path, headers, given, body)
        return answer

    def _authorization(self, place: _Place, challenge: str) -> str:
        """What a registry that answered by this challenge wants to be shown; "" if we have none."""
        host = place.host
        login = self._logins.get(host)
        own = "Basic " + basic(login) if login else ""
        scheme, dummy, rest = challenge.partition(" ")
        if scheme.lower() != "bearer":
            return own
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = fields.pop("realm", "")
        if urlsplit(realm).scheme != "https" and self._schemes.get(host) != "http":
            raise RegistryError(
                "the registry {0} wants the login to be sent unencrypted, to {1!r}. It has to name"
                " an address of https there.".format(host, realm)
            )
        asked = {key: fields[key] for key in ("service", "scope") if key in fields}
        url = realm + ("&" if "?" in realm else "?") + urlencode(asked)
        answer = self._send("GET", url, {"Authorization": own} if own else {}, b"")
        if answer.status in (401, 403):
            return ""
        if answer.status != 200:
            raise RegistryError(
                "{0}, where the registry {1} has tokens given out, answers {2}.".format(
                    urlsplit(realm).netloc, host, answer.status
                )
            )
        token = _read(answer, place)
        return "Bearer {0}".format(token.get("token") or token.get("access_token"))

    def _to_registry(
        self,
        method: str,
        host: str,
        path: str,
        headers: Mapping[str, str],
        authorization: str,
        body: bytes,
    ) -> _Answer:
        if host not in self._schemes:
            self._schemes[host] = self._scheme(host)
        url = "{0}://{1}{2}".format(self._schemes[host], host, path)
        shown = {"Authorization": authorization} if authorization else {}
        answer = self._send(method, url, dict(headers, **shown), body)
        for _redirect in range(REDIRECTS if method == "GET" else 0):
            if answer.status not in (301, 302, 303, 307, 308):
                break
            target = urljoin(url, answer.headers.get("Location", ""))
            if urlsplit(target).scheme != urlsplit(url).scheme:
                break
            shown = shown if _http.origin(target) == _http.origin(url) else {}
            url = target
            answer = self._send(method, url, dict(headers, **shown), b"")
        return answer

    def _scheme(self, host: str) -> str:
        """https; http for a registry on this machine that knows no other, as docker does it."""
        if not _LOCAL.fullmatch(host):
            return "https"
        try:
            self._send("HEAD", "https://{0}/v2/".format(host), {}, b"")
        except _NoTls:
            return "http"
        return "https"

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> _Answer:
        parts = urlsplit(url)
        request = urllib.request.Request(
            url, data=body or None, headers=dict(headers), method=method
        )
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler(self._proxies(parts.netloc)),
            urllib.request.HTTPSHandler(context=self._context),
            _NoRedirect,
        )

        def send() -> _Answer:
            try:
                with opener.open(request, timeout=self._seconds) as response:
                    return _Answer(response.status, response.headers, response.read(SIZE + 1))
            except HTTPError as error:
                with error:
                    return _Answer(error.code, error.headers, b"")

        try:
            answer = _http.within(self._seconds, send)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._unreachable(parts.netloc, error) from None
        if len(answer.body) > SIZE:
            raise RegistryError(
                "{0} answers with more than {1} MiB.".format(parts.netloc, SIZE >> 20)
            )
        return answer

    def _proxies(self, host: str) -> Dict[str, str]:
        direct = {"no": self._proxy.get("no_proxy") or ""}
        bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
        if _LOCAL.fullmatch(host) or bypass(host, direct):
            return {}
        named = {"http": self._proxy.get("http_proxy"), "https": self._proxy.get("https_proxy")}
        return {scheme: url for scheme, url in named.items() if url}

    def _unreachable(self, host: str, error: Exception) -> RegistryError:
        why = error.reason if isinstance(error, URLError) else error
        if isinstance(why, ssl.SSLCertVerificationError):
            return RegistryError(
                "the certificate of the registry {0} is not trusted ({1}). preview_ca_file names"
                " further authorities.".format(host, why.verify_message)
            )
        if isinstance(why, ssl.SSLError):
            return _NoTls("the registry {0} does not speak TLS ({1}).".format(host, why.reason))
        if isinstance(why, TimeoutError) or "timed out" in str(why):
            return RegistryError(
                "the registry {0} did not answer within {1:g} seconds. Is it up, and does the way"
                " there need preview_proxy?".format(host, self._seconds)
            )
        return RegistryError(
            "the registry {0} can't be reached ({1}). Check its name, the network and"
            " preview_proxy.".format(host, getattr(why, "strerror", None) or why)
        )


class _NoTls(RegistryError):
    """What answers does not speak TLS."""


def _host(name: str) -> str:
    return _HUB if name in ("docker.io", "index.docker.io") else name


def _place(image: str) -> _Place:
    name, tag = image_name(image)
    host, dummy, repository = name.partition("/")
    head, dummy, digest = tag.partition("@")
    return _Place(_host(host), repository, digest or head[1:])


def _separator(reference: str) -> str:
    return "@" if _DIGEST.fullmatch(reference) else ":"


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _read(answer: _Answer, place: _Place) -> Dict[str, Any]:
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RegistryError(
            "the registry of {0} answers what no registry does. Is that its name?".format(place)
        )
    return found


def _must(answer: _Answer, place: _Place, *statuses: int) -> _Answer:
    """The answer, where it is one of those that are good."""
    if answer.status in statuses:
        return answer
    if answer.status == 401:
        raise Refused(
            "the registry answers 401 for {0}: it wants a login, or not the one it was given. Enter"
            " username and password in preview_registries.".format(place)
        )
    if answer.status == 403:
        raise Refused(
            "the registry answers 403 for {0}: the user of preview_registries may not do"
            " this.".format(place)
        )
    if answer.status == 429:
        raise RegistryError(
            "the registry of {0} answers 429: too many requests for now. Wait, or log in by"
            " preview_registries.".format(place)
        )
    raise RegistryError(
        "the registry answers {0} for {1}. Is it well, and is that its name?".format(
            answer.status, place
        )
    )
