# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pull request's app definition, read as hostile data from its Compose file to plain values.

The order is what keeps it safe. Limits come before structure, the screen before any path is
looked at, every path before anything is opened; variables are filled in here; Compose sees a file
that we wrote; what it says is screened again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import posixpath
import re
import sys
from typing import Any, Dict, FrozenSet, List, Mapping, NamedTuple, Optional, Set, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _arguments,
    _checks,
    _compose,
    _dockerfile,
    _interpolate,
    _names,
    _screen,
    _source,
    _xpreview,
    _yaml,
)
from ansible_collections.ephemera.preview.plugins.module_utils._checkout import (
    Checkout,
    PathRefused,
    compose_file,
)
from ansible_collections.ephemera.preview.plugins.module_utils._redact import in_every_form, redact
from ansible_collections.ephemera.preview.plugins.module_utils._refusal import (
    Path,
    Refused,
    key_path,
    plain,
)
from ansible_collections.ephemera.preview.plugins.module_utils._screen import Problem

ENV_FILES = (".env", ".env.preview")
ENV_MAX = 64 << 10
ENV_TOTAL = 2 << 20
"""Characters that all ``env_file`` of all services may have together, values filled in."""
FILES_MAX = 1 << 20
"""Bytes of what one bind names: an object of Kubernetes may hold no more."""


class Request(NamedTuple):
    """What is read, and what the platform says about it.

    ``variables`` are granted to the file, and where ``names`` are given ``PREVIEW_<SERVICE>_URL``
    of each service; ``profiles``: services of others are left out (``*``
    keeps all); ``git_dir`` and ``commit`` tell where the checkout's objects are; ``with_files``:
    what services bind of the checkout is read, since it runs where that is not.
    """

    path: str
    project: str
    file: Optional[str] = None
    variables: Mapping[str, str] = {}
    profiles: Tuple[str, ...] = ("*",)
    allow: FrozenSet[str] = frozenset()
    images: _checks.Images = _checks.ANY_IMAGE
    frontends: Tuple[str, ...] = _arguments.FRONTENDS
    build_secrets: FrozenSet[str] = frozenset()
    sizes: Tuple[str, ...] = _arguments.SIZES
    git_dir: Optional[str] = None
    commit: Optional[str] = None
    timeout: float = 30
    compose: Optional[str] = None
    names: Optional[_names.Names] = None
    with_files: bool = False


class Definition(NamedTuple):
    """What ``app_info`` returns; see there."""

    file: str
    services: Dict[str, Any]
    volumes: Dict[str, Any]
    configs: Dict[str, Any]
    secrets: Dict[str, Any]
    x_preview: Dict[str, Any]
    warnings: List[str]
    digests: Dict[str, str]
    files: Dict[str, str]


def run(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """The program of the module ``app_info``, whose options ``params`` are. It only reads."""
    for library, error in (
        ("PyYAML", _yaml.YAML_IMPORT_ERROR),
        ("jsonschema", _xpreview.JSONSCHEMA_IMPORT_ERROR),
    ):
        if error:
            return {
                "failed": True,
                "msg": "The Python library {0} is missing for {1} on {2}. Install it there, or "
                "let ansible_python_interpreter name a Python that has it.".format(
                    library, sys.executable, platform.node()
                ),
                "exception": error,
            }
    secrets = in_every_form(text_of(value) for value in params["secrets"].values())
    try:
        definition = read(_request(params))
    except (Refused, _compose.Unavailable) as refused:
        return {
            "failed": True,
            "msg": redact(str(refused), secrets),
            "problems": redact(getattr(refused, "problems", []), secrets),
        }
    # Ansible has a use of its own for the key "warnings".
    result = definition._asdict()
    if not definition.files:
        del result["files"]
    return dict(result, changed=False, notes=result.pop("warnings"))


def _request(params: Mapping[str, Any]) -> Request:
    names = params["names"]
    granted = dict(params["variables"], **params["secrets"])
    try:
        names = names and _names.Names(*[names[key] for key in _names.Names._fields])
    except KeyError as missing:
        raise Refused(["names: {0} is missing. Give all of name_info's.".format(missing)]) from None
    return Request(
        path=params["path"],
        project=params["project"],
        file=params["file"],
        variables={name: text_of(value) for name, value in granted.items()},
        profiles=tuple(params["profiles"]),
        allow=frozenset(params["allow"]),
        images=_checks.Images(tuple(params["images"]), tuple(params["registries"])),
        frontends=tuple(params["frontends"]),
        build_secrets=frozenset(params["build_secrets"]),
        sizes=tuple(params["sizes"]),
        git_dir=params["git_dir"],
        commit=params["commit"],
        timeout=params["timeout"],
        names=names,
        compose=params["compose"],
        with_files=params.get("with_files", False),
    )


def read(request: Request) -> Definition:
    """Read the definition. Raises Refused with all that is wrong, or _compose.Unavailable."""
    return _Reader(request).read()


class _Reader:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.checkout = Checkout(request.path)
        self.variables = _interpolate.Variables(request.variables)
        self.variables.granted["COMPOSE_PROJECT_NAME"] = request.project
        self.problems: List[str] = []
        self.warnings: List[str] = []
        self.notes: Dict[Tuple[str, str], List[str]] = {}
        self.file = ""
        self.base = ""
        self.lines: Dict[Path, int] = {}
        self.left_out: Dict[str, Any] = {}
        self.env_budget = ENV_TOTAL
        self.contents: Dict[Tuple[str, str], str] = {}
        self.of_builds: Set[str] = set()

    # -- the order --------------------------------------------------------------------------

    def read(self) -> Definition:
        document = self.load()
        wishes = _Wished(document)
        self.grant_urls(document, wishes)
        early = _xpreview.validate(wishes.top, wishes.services)
        self.tell_all([each for each in early if not _holds_variable(each.value)])
        policy = _checks.Policy(
            self.request.project,
            self.request.allow,
            self.request.build_secrets,
        )
        screened = _screen.screen(document, policy)
        self.tell_all(screened.problems)
        self.note(screened)
        clean = _screen.long_mounts(screened.value)
        self.drop_left_out(clean)
        self.take_build_secrets(clean)
        files = self.settle_paths(clean)
        self.read_variables()
        clean = self.fill(clean, ())
        self.tell_all(_screen.too_many_ports(clean))
        self.fill_environments(clean, files)
        self.read_contents(clean)
        top = self.fill(wishes.top, ("x-preview",))
        wished = {
            name: self.fill(wish, ("services", name, "x-preview"))
            for name, wish in wishes.services.items()
        }
        self.stop_at_problems()

        normal = self.normal_form(clean, policy._replace(normal=True))
        services: Dict[str, Any] = normal.get("services", {})
        _share_builds(services)
        self.tell_all(_screen.refused_images(services, self.request.images))
        self.tell_all(_xpreview.validate(top, wished))
        self.check_dockerfiles(services)
        self.stop_at_problems()
        found, problems, notes = _xpreview.normalise(top, wished, services, self.request.sizes)
        self.tell_all(problems)
        self.stop_at_problems()
        self.warnings += ["{0}: {1}".format(self.file, note) for note in notes]
        digests = self.digests(services)
        held = self.files_of(normal) if self.request.with_files else {}
        self.stop_at_problems()
        return Definition(
            file=self.file,
            services=_interpolate.escape(services),
            volumes=_interpolate.escape(normal.get("volumes", {})),
            configs=self.with_contents("configs", normal),
            secrets=self.with_contents("secrets", normal),
            x_preview={"web": found.web, "services": found.services},
            warnings=_screen.describe_notes(self.notes, self.file) + self.warnings,
            digests=digests,
            files=held,
        )

    def stop_at_problems(self) -> None:
        if self.problems:
            raise Refused(sorted(self.problems, key=self.line_of))

    def line_of(self, problem: str) -> int:
        """The line of the Compose file a problem is on, so that they are told from its top."""
        match = re.match(r"{0}:(\d+): ".format(re.escape(self.file)), problem)
        return int(match.group(1)) if match else sys.maxsize

    def tell_all(self, problems: List[Problem]) -> None:
        self.problems += [_screen.describe(each, self.file, self.lines) for each in problems]

    def tell(self, path: Path, value: Any, reason: str) -> None:
        self.tell_all([Problem(path, value, reason)])

    def note(self, screened: _screen.Screened) -> None:
        for key, services in screened.notes.items():
            known = self.notes.setdefault(key, [])
            known += [service for service in services if service not in known]

    # -- the file ---------------------------------------------------------------------------

    def load(self) -> Any:
        """The Compose file's data, without services of profiles that are not wanted."""
        wanted = self.request.file
        try:
            self.file = compose_file(self.checkout, wanted)
            data = self.checkout.read(self.file, _yaml.LIMITS.size)
        except PathRefused as refusal:
            name = self.file or wanted
            raise Refused(
                ["{0}{1}.".format(plain(name, 200) + ": " if name else "", refusal)]
            ) from None
        self.base = posixpath.dirname(self.file)
        document, self.lines = _yaml.load(data, self.file)
        services = document.get("services") if isinstance(document, dict) else None
        if "*" in self.request.profiles or not isinstance(services, dict):
            return document
        kept: Dict[str, Any] = {}
        left = self.left_out
        for name, service in services.items():
            profiles = service.get("profiles") if isinstance(service, dict) else None
            known = isinstance(profiles, list) and not any("$" in str(p) for p in profiles)
            off = known and profiles and not set(map(str, profiles)) & set(self.request.profiles)
            (left if off else kept)[name] = service
        for name, service in left.items():
            self.warnings.append(
                "{0}: services.{1} is left out: it is of the profile {2}, and preview_profiles "
                "does not name it.".format(
                    self.file, plain(name, 80), plain(", ".join(map(str, service["profiles"])), 80)
                )
            )
        return dict(document, services=kept)

    def drop_left_out(self, clean: Dict[str, Any]) -> None:
        """Take services that were left out from what others depend on, where that may be."""
        for name, service in clean.get("services", {}).items():
            needed = service.get("depends_on", {})
            for other in [each for each in needed if each in self.left_out]:
                how = needed[other] if isinstance(needed, dict) else {}
                if how.get("required") is False:
                    del needed[other]
                else:
                    self.tell(
                        ("services", name, "depends_on"),
                        other,
                        "it is of the profile {0}, which preview_profiles does not name".format(
                            plain(", ".join(map(str, self.left_out[other]["profiles"])), 80)
                        ),
                    )

    # -- paths ------------------------------------------------------------------------------

    def settle_paths(self, clean: Dict[str, Any]) -> Dict[str, List[Dict[str, Any]]]:
        """Look at what every path leads to, and write each relative to the checkout's root.

        The ``env_file`` entries are taken out of the services and returned: they are read here.
        """
        files: Dict[str, List[Dict[str, Any]]] = {}
        for name, service in clean.get("services", {}).items():
            at: Path = ("services", name)
            if isinstance(service.get("build"), str):
                service["build"] = {"context": service["build"]}
            if "build" in service:
                self.settle_build(service["build"], at + ("build",))
            entries = service.pop("env_file", [])
            files[name] = []
            for i, entry in enumerate(entries if isinstance(entries, list) else [entries]):
                entry = dict(entry) if isinstance(entry, dict) else {"path": entry}
                where = at + (("env_file", i) if isinstance(entries, list) else ("env_file",))
                if "path" in entry and self.settle(entry, "path", where, "file", entry):
                    files[name].append(dict(entry, where=where))
            for i, mount in enumerate(service.get("volumes", [])):
                if mount["type"] == "bind":
                    self.settle(mount, "source", at + ("volumes", i), "")
        for kind in ("configs", "secrets"):
            for name, item in clean.get(kind, {}).items():
                if "file" in item:
                    self.settle(item, "file", (kind, name, "file"), "file")
        return files

    def settle_build(self, build: Dict[str, Any], at: Path) -> None:
        build.setdefault("context", ".")
        context = self.settle(build, "context", at + ("context",), "folder")
        if "dockerfile_inline" not in build and context is not None:
            build.setdefault("dockerfile", "Dockerfile")
            try:
                path = self.checkout.path(context, build["dockerfile"])
                self.checkout.must(path, "file")
                build["dockerfile"] = posixpath.relpath(path, context or ".")
                for ignored in (path + ".dockerignore", posixpath.join(context, ".dockerignore")):
                    if self.checkout.kind(ignored) not in ("", "file"):
                        raise PathRefused("{0} is no file".format(ignored))
            except PathRefused as refusal:
                written = posixpath.join(context, build["dockerfile"])
                self.tell(at + ("dockerfile",), written, str(refusal))
        contexts = build.get("additional_contexts", {})
        for name in contexts:
            self.settle(contexts, name, at + ("additional_contexts", name), "folder")

    def settle(
        self,
        holder: Dict[str, Any],
        key: str,
        at: Path,
        kind: str,
        options: Optional[Mapping[str, Any]] = None,
    ) -> Optional[str]:
        """Check one path and rewrite it; None when it is refused or, where it may be, missing."""
        value = holder[key]
        try:
            path = self.checkout.path(self.base, value)
            if options is not None and options.get("required") is False:
                if not self.checkout.kind(path):
                    return None
            self.checkout.must(path, kind)
        except PathRefused as refusal:
            reason = str(refusal)
            if options is not None and reason.startswith("it does not exist"):
                reason += (
                    ". Is it not committed? Write {{path: {0}, required: false}}, and let the "
                    "platform grant what it holds (preview_environment, preview_secrets) or commit "
                    "a .env.preview".format(plain(value, 80))
                )
            self.tell(at, value, reason)
            return None
        holder[key] = "./" + path if path else "."
        return path

    # -- variables --------------------------------------------------------------------------

    def grant_urls(self, document: Any, wishes: "_Wished") -> None:
        """Grant each service's URL by its name: ``PREVIEW_API_URL``. What is given already wins."""
        names = self.request.names
        services = document.get("services") if isinstance(document, dict) else None
        if names is None or not isinstance(services, dict):
            return
        web = _xpreview.likely_web(wishes.top, wishes.services, services)
        for name in services:
            try:
                url = names.url if name == web else _names.service_url(names, name)
            except _names.NameRefused:
                continue  # the screen says so
            variable = "PREVIEW_{0}_URL".format(name.upper().replace("-", "_"))
            self.variables.granted.setdefault(variable, url)

    def read_variables(self) -> None:
        """``.env`` and ``.env.preview`` beside the Compose file."""
        for name in ENV_FILES:
            path = posixpath.join(self.base, name)
            try:
                if self.checkout.kind(path) != "file":
                    continue
                self.variables.read(self.checkout.text(path, ENV_MAX), path)
            except PathRefused as refusal:
                self.problems.append("{0}: {1}.".format(path, refusal))
            except _interpolate.DotenvError as error:
                self.problems.append("{0}:{1}: {2}.".format(path, error.line, error))
        self.warnings += [
            "{0} has no effect: it would steer Compose or Docker on the builder.".format(each)
            for each in self.variables.ignored
        ]

    def fill(self, value: Any, at: Path) -> Any:
        """Fill in variables; what is missing or can't be read is told."""
        filled = _interpolate.fill(value, self.variables.get)
        for path, reason in filled.broken:
            self.tell(at + path, _at(value, path), reason)
        for path, missing in filled.missing:
            self.tell(at + path, _at(value, path), self.missing(missing))
        return filled.value

    def missing(self, missing: _interpolate.Missing) -> str:
        name = plain(missing.name, 80)
        unresolved = self.variables.unresolved.get(missing.name)
        if unresolved:
            return "{0} comes from {1}, which needs {2}, and nobody grants that".format(
                name,
                self.variables.origin[missing.name],
                ", ".join(sorted({plain(each.name, 80) for each in unresolved})),
            )
        says = (
            " (the file says: {0})".format(plain(missing.message, 120)) if missing.message else ""
        )
        return (
            "nobody grants {0}{1}. Give it a default (${{{0}:-...}}), put it into .env.preview, or "
            "let the platform grant it (preview_environment, preview_secrets)".format(name, says)
        )

    def fill_environments(
        self, clean: Dict[str, Any], files: Mapping[str, List[Dict[str, Any]]]
    ) -> None:
        """Settle what every service and build has in its environment, files included."""
        for name, service in clean.get("services", {}).items():
            at: Path = ("services", name)
            own = self.granted(service.get("environment"), at + ("environment",))
            known = {key: value for key, value in own.items() if value is not None}
            merged = dict(known)
            for entry in files.get(name, []):
                self.add_env_file(entry, known, merged)
            # What the service itself says wins; named without a value that nobody grants: unset.
            merged.update(known)
            for key in own:
                if own[key] is None:
                    merged.pop(key, None)
            if merged:
                service["environment"] = merged
            else:
                service.pop("environment", None)
            build = service.get("build")
            if isinstance(build, dict) and build.get("args"):
                args = self.granted(build["args"], at + ("build", "args"))
                build["args"] = {key: value for key, value in args.items() if value is not None}

    def granted(self, given: Any, at: Path) -> Dict[str, Any]:
        """Assignments as a mapping; a name without a value takes the one that is granted."""
        pairs: Dict[str, Any] = {}
        if isinstance(given, list):
            for item in given:
                key, equals, value = str(item).partition("=")
                pairs[key] = value if equals else None
        else:
            pairs = dict(given or {})
        for key in pairs:
            if pairs[key] is None:
                pairs[key] = self.variables.get(key)
                if pairs[key] is None:
                    self.warnings.append(
                        "{0}: {1}: {2} has no value and nobody grants one; it is not set.".format(
                            self.file, key_path(at), plain(key, 80)
                        )
                    )
        return pairs

    def add_env_file(
        self, entry: Mapping[str, Any], own: Mapping[str, Any], merged: Dict[str, Any]
    ) -> None:
        path = str(entry["path"])[2:]
        where: Path = entry["where"]

        def lookup(name: str) -> Optional[str]:
            for value in (self.variables.get(name), own.get(name), merged.get(name)):
                if value is not None:
                    return text_of(value)
            return None

        try:
            text = self.checkout.text(path, ENV_MAX)
            entries = _raw(text) if entry.get("format") == "raw" else _interpolate.dotenv(text)
            self.spend(len(text), where)
            for each in entries:
                missing: List[_interpolate.Missing] = []
                value = _interpolate.evaluate(each, lookup, missing)
                self.problems += [
                    "{0}:{1}: {2}: {3}.".format(
                        path, each.line, plain(each.name, 80), self.missing(one)
                    )
                    for one in missing
                ]
                self.spend(len(value or ""), where)
                if value is not None:
                    merged[each.name] = value
        except PathRefused as refusal:
            self.tell(where, path, str(refusal))
        except _interpolate.DotenvError as error:
            self.problems.append("{0}:{1}: {2}.".format(path, error.line, error))

    def spend(self, length: int, where: Path) -> None:
        self.env_budget -= length
        if self.env_budget < 0:
            self.tell(
                where,
                None,
                "the env files of all services together are longer than {0} MiB".format(
                    ENV_TOTAL >> 20
                ),
            )
            raise Refused(self.problems)

    def take_build_secrets(self, clean: Dict[str, Any]) -> None:
        """Secrets that the platform grants builds come from it, wherever a laptop has them."""
        used = {
            str(each.get("source") if isinstance(each, dict) else each)
            for service in clean.get("services", {}).values()
            for each in service.get("secrets", [])
        }
        if not any("$" in name for name in used):
            self.of_builds = set(clean.get("secrets", {})) & (self.request.build_secrets - used)
        for name in self.of_builds:
            clean["secrets"][name] = {"environment": name}

    def read_contents(self, clean: Mapping[str, Any]) -> None:
        """Take the values of configs and secrets that are made of a variable."""
        for kind in ("configs", "secrets"):
            for name, item in clean.get(kind, {}).items():
                variable = item.get("environment")
                if variable is None or (kind == "secrets" and name in self.of_builds):
                    continue
                value = self.variables.get(variable)
                if value is None:
                    reason = self.missing(_interpolate.Missing(variable))
                    self.tell((kind, name, "environment"), variable, reason)
                else:
                    self.contents[kind, name] = value

    def with_contents(self, kind: str, normal: Mapping[str, Any]) -> Dict[str, Any]:
        """Configs or secrets, each with ``file`` or with ``content``."""
        return {
            name: {"content": self.contents[kind, name]} if (kind, name) in self.contents else item
            for name, item in normal.get(kind, {}).items()
            if not (kind == "secrets" and name in self.of_builds)
        }

    def files_of(self, normal: Mapping[str, Any]) -> Dict[str, str]:
        """All that binds, configs and secrets name in the checkout: in base64, by its path."""
        held: Dict[str, str] = {}
        wanted: Dict[Path, str] = {
            ("services", name, "volumes", i): mount["source"]
            for name, service in normal.get("services", {}).items()
            for i, mount in enumerate(service.get("volumes") or [])
            if mount["type"] == "bind"
        }
        for kind in ("configs", "secrets"):
            for name, item in self.with_contents(kind, normal).items():
                if "file" in item:
                    wanted[kind, name, "file"] = item["file"]
        for at, path in wanted.items():
            try:
                for name, data in self.checkout.files(path, FILES_MAX):
                    held[name] = base64.b64encode(data).decode("ascii")
            except PathRefused as refusal:
                reason = "{0}. A cluster gets files of the repository as ConfigMaps, of {1} KiB at "
                reason += "most: put them into the image (COPY)"
                self.tell(at, path, reason.format(refusal, FILES_MAX >> 10))
        return held

    # -- Compose ----------------------------------------------------------------------------

    def normal_form(self, clean: Dict[str, Any], policy: _checks.Policy) -> Dict[str, Any]:
        """Compose's normal form of what passed the screen, screened again."""
        document = _interpolate.escape(clean)
        document.pop("networks", None)
        found = _compose.normal_form(
            document,
            self.request.project,
            self.file,
            _compose.find(self.request.compose),
            self.request.timeout,
        )
        normal = _screen.without_names(_interpolate.unescape(found), self.request.project)
        screened = _screen.screen(normal, policy)
        self.tell_all(screened.problems)
        self.note(screened)
        self.stop_at_problems()
        return screened.value

    # -- builds -----------------------------------------------------------------------------

    def check_dockerfiles(self, services: Mapping[str, Any]) -> None:
        done = set()
        for name, service in services.items():
            build = service.get("build")
            key = json.dumps(build, sort_keys=True)
            if not build or key in done:
                continue
            done.add(key)
            context = _relative(build["context"])
            label = "{0}: services.{1}.build.dockerfile_inline".format(self.file, name)
            text = build.get("dockerfile_inline")
            if text is None:
                label = self.checkout.path(context, build["dockerfile"])
                try:
                    text = self.checkout.text(label, _dockerfile.SIZE_MAX)
                except PathRefused as refusal:
                    self.problems.append("{0}: {1}.".format(label, refusal))
                    continue
            self.problems += _dockerfile.problems(
                text,
                label,
                build.get("args") or {},
                build.get("additional_contexts") or {},
                self.request.frontends,
                self.request.images,
            )

    def digests(self, services: Mapping[str, Any]) -> Dict[str, str]:
        """For each service that is built, one value for all that its build is made of."""
        identity = self.object_identity if self.request.git_dir else self.file_identity
        wanted = {
            path
            for service in services.values()
            if service.get("build")
            for path in self.build_paths(service["build"])
        }
        try:
            ids = identity(sorted(wanted))
        except _source.SourceRefused as refusal:
            raise Refused([str(refusal)]) from None
        found = {}
        for name, service in services.items():
            build = service.get("build")
            if build:
                parts = [[path, ids.get(path)] for path in self.build_paths(build)]
                text = json.dumps([parts, build], sort_keys=True)
                found[name] = hashlib.sha256(text.encode("ascii")).hexdigest()
        return found

    def build_paths(self, build: Mapping[str, Any]) -> List[str]:
        """Context, Dockerfile and further contexts, relative to the checkout."""
        context = _relative(build["context"])
        paths = [context]
        if "dockerfile" in build:
            paths.append(self.checkout.path(context, build["dockerfile"]))
        contexts = build.get("additional_contexts") or {}
        return paths + [_relative(contexts[name]) for name in sorted(contexts)]

    def object_identity(self, paths: List[str]) -> Mapping[str, Optional[str]]:
        git_dir, commit = self.request.git_dir or "", self.request.commit or ""
        ids = _source.object_ids(git_dir, commit, paths)
        for path in paths:
            if ids.get(path) is None:
                self.problems.append("{0}: is not part of the commit.".format(path or "."))
        return ids

    def file_identity(self, paths: List[str]) -> Mapping[str, Optional[str]]:
        ids: Dict[str, Optional[str]] = {}
        for path in paths:
            try:
                ids[path] = self.checkout.digest(path)
            except (OSError, PathRefused) as refusal:
                self.problems.append("{0}: {1}.".format(path or ".", refusal))
        return ids


class _Wished:
    """The ``x-preview`` parts of a document, as they stand there."""

    def __init__(self, document: Any) -> None:
        is_map = isinstance(document, dict)
        self.top = document.get("x-preview") if is_map else None
        services = document.get("services") if is_map else None
        self.services = {
            name: service["x-preview"]
            for name, service in (services if isinstance(services, dict) else {}).items()
            if isinstance(service, dict) and service.get("x-preview") is not None
        }


def _holds_variable(value: Any) -> bool:
    """Whether what a value says can't be known before its variables are filled in."""
    if isinstance(value, (dict, list)):
        return any(map(_holds_variable, value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and "$" in value


def _share_builds(services: Dict[str, Any]) -> None:
    """A service that runs an image which another one builds is built from the same."""
    built = {s["image"]: s["build"] for s in services.values() if s.get("build") and s.get("image")}
    for service in services.values():
        if not service.get("build") and service.get("image") in built:
            service["build"] = built[service["image"]]


def _relative(path: str) -> str:
    normal = posixpath.normpath(path)
    return "" if normal == "." else normal


def text_of(value: Any) -> str:
    """A variable's value as text, written as Compose writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _raw(text: str) -> List[_interpolate.Entry]:
    """An ``env_file`` with ``format: raw``: what follows ``=`` is the value, as it stands."""
    entries = []
    for number, line in enumerate(re.split(r"\r?\n", text), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            name, equals, value = line.partition("=")
            entries.append(
                _interpolate.Entry(number, name.strip(), value if equals else None, True)
            )
    return entries


def _at(value: Any, path: Path) -> Any:
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value
