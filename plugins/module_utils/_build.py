# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All images of a preview in one go: built by BuildKit, pulled, or waited for until CI has pushed.

Everything that is built comes from people nobody trusts. What holds is enforced by BuildKit
itself: a source policy says what a build may read, a namespace keeps its cache mounts apart, a
host's name the results of steps that use them, a cgroup bounds what its RUNs use. Registries are
logged in to from a configuration of this run, which neither RUN nor an image ever sees.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Type,
    Union,
)

from ansible_collections.ephemera.preview.plugins.module_utils import (
    _announce,
    _arguments,
    _build_log,
    _docker,
    _dockerfile,
    _names,
    _registry,
)
from ansible_collections.ephemera.preview.plugins.module_utils._checkout import (
    Checkout,
    PathRefused,
)
from ansible_collections.ephemera.preview.plugins.module_utils._checks import (
    ANY_IMAGE,
    CHECK_MIN,
    DURATION_MAX,
    LOCAL_REGISTRY,
    OF_A_PREVIEW,
    PORTS_MAX,
    Images,
    image_name,
    image_pattern,
    is_of_a_preview,
    steers_builder,
)
from ansible_collections.ephemera.preview.plugins.module_utils._redact import (
    in_every_form,
    redact,
)
from ansible_collections.ephemera.preview.plugins.module_utils._run import Ended, limited

AT_ONCE = 3
ATTEMPTS = 3  # at a build that another preview's teardown has come between
POLL = 2.0  # seconds between two looks for an image that CI pushes
ANSWER = 120.0  # seconds for what the engine has to answer at once
DISK_LEFT = 1 << 30  # bytes that a build leaves free whatever it is granted
VOLUMES_MAX = 50
CGROUPS = "/sys/fs/cgroup"
INSPECTED = 16 << 20  # bytes that the engine may say of the images of one preview

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PASSED_ON = (
    "PATH DOCKER_HOST DOCKER_CONTEXT DOCKER_TLS_VERIFY DOCKER_CERT_PATH XDG_RUNTIME_DIR"
).split()


class BuildFailed(Exception):
    """An image can't be had. The message says why and what to do; `log` has the last lines."""

    def __init__(self, message: str, log: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.log = list(log)


class Wanted(NamedTuple):
    """One service's image, by the name it gets. `source` is build, pull or prebuilt.

    `build` has `context` (relative to the checkout), `dockerfile` (relative to the context) or
    `dockerfile_inline`, `target`, `args`, `additional_contexts`, `secrets` and `digest`.
    """

    name: str
    image: str
    source: str
    build: Mapping[str, Any]
    prebuilt: str = ""


class Meanwhile(NamedTuple):
    """A command to run beside the builds, as soon as the images of these `services` are here."""

    argv: List[str]
    stdin: str
    services: List[str]
    timeout: float


class Request(NamedTuple):
    """What to make, and within which limits. Times are seconds, sizes bytes.

    `previous` has by service the `digest` and `image_id` of what was deployed last. Who is not
    `trusted` gets no `secrets`, no cache mount of who was, and where there are any secrets no
    step's result of another build either, as that may hold what a secret opened. With `push` it is
    a cluster that runs the images: they are wanted in their registries, not on this engine.
    """

    name: str
    folder: str
    checkout: str
    services: Tuple[Wanted, ...]
    previous: Mapping[str, Mapping[str, str]] = {}
    fresh: bool = False
    trusted: bool = True
    registries: Tuple[Mapping[str, str], ...] = ()
    mirror: str = ""
    proxy: Mapping[str, str] = {}
    ca: str = ""
    secrets: Mapping[str, str] = {}
    frontends: Tuple[str, ...] = _arguments.FRONTENDS
    base_images: Tuple[str, ...] = ()
    timeout: float = 1200
    images_timeout: float = 600
    memory: int = 4 << 30
    pids: int = 4096
    disk: int = 20 << 30
    builder: str = ""
    push: bool = False
    meanwhile: Optional[Meanwhile] = None


class Made(NamedTuple):
    """An image as it is now. `how` is built, retagged, kept, pulled, present or left (to those who
    run it). `id` is the engine's; of what is pushed, or awaited for a cluster, it is the digest."""

    ref: str
    id: str
    how: str
    digest: str
    seconds: float


Outcome = Union[Made, BuildFailed]


class Result(NamedTuple):
    """The images by service. `limited`: whether limits held for what was built; `meanwhile`: what
    the command beside the builds has printed."""

    images: Dict[str, Made]
    limited: bool
    meanwhile: str = ""


UNLIMITED = (
    "Images were built without limits of memory and processes. They take root on the engine's"
    " machine; or let preview_buildx_builder name a builder that has limits of its own."
)


def run(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """The program of the module ``build``, whose options ``params`` are."""
    wanted = dict(params)
    meanwhile = wanted.pop("meanwhile", None)
    wanted["services"] = tuple(
        Wanted(
            service["name"],
            service["image"],
            service["source"],
            service.get("build") or {},
            service.get("prebuilt") or "",
        )
        for service in wanted["services"]
    )
    # YAML reads a token of digits as a number.
    wanted["secrets"] = {name: str(value) for name, value in wanted["secrets"].items()}
    wanted["memory"] <<= 20
    wanted["disk"] <<= 30
    for name in ("registries", "frontends", "base_images"):
        wanted[name] = tuple(wanted[name])
    if meanwhile:
        wanted["meanwhile"] = Meanwhile(**meanwhile)
    try:
        result = make(Request(**wanted), check)
    except BuildFailed as failed:
        said = [_announce.harmless(line) for line in failed.log]
        return {"failed": True, "msg": _announce.harmless(str(failed)), "log": said}
    except OSError as error:
        return {"failed": True, "msg": str(error)}
    images = result.images.values()
    return {
        "changed": any(image.how not in ("kept", "present", "left") for image in images),
        "pins": {i.ref: i.digest for i in images if i.digest} if params["push"] else {},
        "images": {name: image._asdict() for name, image in result.images.items()},
        "limited": result.limited,
        "meanwhile": result.meanwhile,
        "warnings": [] if result.limited else [UNLIMITED],
    }


def make(request: Request, check: bool = False) -> Result:
    """Have every service's image. With `check` only tell what would be done.

    Raises BuildFailed with all that went wrong.
    """
    _check(request)
    os.makedirs(request.folder, mode=0o700, exist_ok=True)
    for left in os.listdir(request.folder):
        if left.startswith(".build-"):
            shutil.rmtree(os.path.join(request.folder, left), ignore_errors=True)
    work = tempfile.mkdtemp(prefix=".build-", dir=request.folder)
    try:
        return _maker(request)(request, work).make(check)
    except _registry.RegistryError as error:
        raise BuildFailed("Looking for the images failed: {0}".format(error)) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


# -- what a build may read ------------------------------------------------------------------------


def source_policy(
    frontends: Iterable[str] = (), images: Images = ANY_IMAGE, mirror: str = ""
) -> Dict[str, Any]:
    """BuildKit's source policy for a build. Of the rules that match, the last one wins.

    BuildKit asks it about every source there is: FROM, COPY --from, RUN --mount=from=, ADD, named
    contexts and the frontend of `# syntax=`.
    """
    mirror = re.sub(r"\Ahttps?://|/\Z", "", mirror)
    # Nothing is fetched by ADD: the engine would do it, from inside the host's own network.
    rules = [_rule("DENY", ".*"), _rule("ALLOW", "local://.*")]
    if images.patterns:
        allowed = [image_pattern(each) for each in [*images.patterns, *frontends]]
        rules += [_image_rule("ALLOW", each) for each in allowed]
        if mirror:
            named = re.escape(mirror) + "/"
            hub = [image_pattern(each) for each in images.patterns]
            hub = [each for each in hub if each.startswith(r"docker\.io/")]
            rules += [_image_rule("ALLOW", each.replace(r"docker\.io/", named, 1)) for each in hub]
    else:
        rules += [_image_rule("ALLOW", ".*"), _image_rule("DENY", LOCAL_REGISTRY + "/.*")]
        known = [each.partition("/")[0] for each in [*images.registries, mirror] if each]
        rules += [_image_rule("ALLOW", re.escape(each) + "/.*") for each in known]
    if mirror:
        rules.append(
            dict(
                _image_rule("CONVERT", r"docker\.io/(.*)"),
                updates={"identifier": "docker-image://" + mirror + "/${1}"},
            )
        )
    rules.append(_image_rule("DENY", "(.*/)?" + _names.IMAGES + "/.*"))
    return {"rules": rules}


def _rule(action: str, expression: str) -> Dict[str, Any]:
    selector = {"identifier": "^" + expression + "$", "match_type": "REGEX"}
    return {"action": action, "selector": selector}


def _image_rule(action: str, expression: str) -> Dict[str, Any]:
    return _rule(action, "docker-image://" + expression)


def without_frontend(text: str) -> str:
    """A Dockerfile without its `# syntax=`, its lines numbered as before.

    The engine's own frontend then reads it, which nobody can pull something else in place of.
    """
    head, moved = [], 0
    lines = text.split("\n")
    for line in lines:
        if not re.match(r"\s*#\s*[A-Za-z][A-Za-z0-9]*\s*=", line):
            break
        if re.match(r"(?i)\s*#\s*syntax\s*=", line):
            moved += 1
        else:
            head.append(line)
    # Directives end at the first comment that is none, so those that stay come first.
    return "\n".join(head + ["#"] * moved + lines[len(head) + moved :])


def mounts_cache(text: str) -> bool:
    """Whether a Dockerfile, or one of its steps, may use a cache mount.

    An author who hides one only keeps their own preview's results from being told apart.
    """
    text = text.lower()
    return "--mount" in text and "cache" in text


def _steps(progress: str) -> Iterator[str]:
    """The steps that BuildKit tells of; those of an image's ONBUILD are in no Dockerfile."""
    return (line for line in progress.split("\n") if re.match(r"#\d+ \[", line))


# -- limits ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def confined(app: str, trusted: bool, memory: int, pids: int) -> Iterator[str]:
    """A cgroup for builds, by the name to give to BuildKit; "" where there can't be.

    All previews of an app at one level of trust share it, and it is gone with the last of their
    builds: BuildKit keeps a step's result by the cgroup's name too, so one a preview would have
    each preview build everything anew. It takes root, on the machine of the engine.
    """
    group = "{0}-build-{1}-{2}".format(_names.IMAGES, app, _trust(trusted))
    held = -1
    if os.geteuid() == 0 and _engine_is_here():
        with contextlib.suppress(OSError):
            held = _enter_group(group, memory, pids)
    try:
        yield "/" + group if held >= 0 else ""
    finally:
        if held >= 0:
            with contextlib.suppress(OSError):
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_group(group)
            os.close(held)


def _enter_group(group: str, memory: int, pids: int) -> int:
    """Make the cgroup, or join those that use it. What is returned holds it until it is closed."""
    unified = os.path.exists(os.path.join(CGROUPS, "cgroup.controllers"))
    place = os.path.join(CGROUPS, "" if unified else "memory", group)
    held = -1
    while held < 0:
        # Whoever was last may be removing it just now.
        with contextlib.suppress(FileNotFoundError):
            os.makedirs(place, exist_ok=True)
            held = _hold(place)
    limits = [
        ("memory/memory.memsw.limit_in_bytes", -1),
        ("memory/memory.limit_in_bytes", memory),
        ("memory/memory.memsw.limit_in_bytes", memory),
        ("pids/pids.max", pids),
        ("cpu/cpu.shares", 512),
    ]
    if unified:
        limits = [
            ("memory.max", memory),
            ("memory.swap.max", 0),
            ("pids.max", pids),
            ("cpu.weight", 50),
        ]
    try:
        for key, value in limits:
            controller, file = os.path.split(key)
            path = os.path.join(CGROUPS, controller, group)
            os.makedirs(path, exist_ok=True)
            # Swap is not counted everywhere, and a share of the CPU is a courtesy.
            must = file.startswith(("memory.max", "memory.limit", "pids"))
            if must or os.path.exists(os.path.join(path, file)):
                with open(os.path.join(path, file), "w") as handle:
                    handle.write(str(value))
    except OSError:
        os.close(held)
        raise
    return held


def _hold(place: str) -> int:
    """Lock a folder against being removed; -1 where it was, and stands there no more."""
    held = os.open(place, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(held), os.stat(place)):
            return held
    os.close(held)
    return -1


def _remove_group(group: str) -> None:
    """Remove a cgroup from every hierarchy; what was killed in it may take a moment to be gone."""
    for folder in [CGROUPS, *(entry.path for entry in os.scandir(CGROUPS))]:
        for path in (os.path.join(folder, group, "buildkit"), os.path.join(folder, group)):
            deadline = time.monotonic() + 2
            while os.path.isdir(path) and time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    os.rmdir(path)
                    break
                time.sleep(0.05)


def _engine_is_here() -> bool:
    host = os.environ.get("DOCKER_HOST", "")
    return not os.environ.get("DOCKER_CONTEXT") and (
        host in ("", "unix:///var/run/docker.sock", "unix:///run/docker.sock")
    )


# -- making ---------------------------------------------------------------------------------------


def _check(request: Request) -> None:
    """Refuse what no plan of ours holds."""
    try:
        _names.parse(request.name)
    except _names.NameRefused as refused:
        raise BuildFailed(str(refused)) from None
    own = "{0}/{1}/{2}/[^/@]+".format(
        "[^@]+" if request.push else "", _names.IMAGES, request.name
    ).lstrip("/")
    for service in request.services:
        ours = re.fullmatch(own, service.image)
        usable = all(map(_IMAGE.fullmatch, filter(None, (service.image, service.prebuilt))))
        if not usable or (service.source != "pull" and not ours):
            raise BuildFailed("{0!r} is no image of {1}.".format(service.image, request.name))
        if service.source == "pull":
            pulled = service.image
            reason = _images(request).refused(pulled)
        else:
            pulled = service.prebuilt
            reason = OF_A_PREVIEW if is_of_a_preview(pulled) else None
        if reason:
            raise BuildFailed(
                "services.{0}: image {1} is refused: {2}.".format(service.name, pulled, reason)
            )
        for arg in service.build.get("args") or {}:
            if not _WORD.fullmatch(arg) or steers_builder(arg):
                raise BuildFailed(
                    "services.{0}: {1!r} is no build argument.".format(service.name, arg)
                )


def _images(request: Request) -> Images:
    named = tuple(each["registry"] for each in request.registries)
    return Images(request.base_images, named)


class _Maker:
    def __init__(self, request: Request, work: str) -> None:
        self.request = request
        self.work = work
        self.deadline = time.monotonic() + request.timeout
        self.images: Dict[str, Dict[str, Any]] = {}
        self.hows: Dict[str, str] = {}
        self.digests: Dict[str, str] = {}
        self.cgroup = ""
        self.disk: Optional[Tuple[str, int]] = None
        self.env = self._environment()

    def make(self, check: bool) -> Result:
        services = self.request.services
        jobs = list({service.image: service for service in reversed(services)}.values())[::-1]
        self._look(jobs)
        self.hows = {job.image: self._how(job) for job in jobs}
        if check:
            told = {s.name: Made(s.image, "", self.hows[s.image], "", 0.0) for s in services}
            return Result(told, True)
        request, bounded = self.request, True
        app = _names.parse(request.name)[0]
        with confined(app, request.trusted, request.memory, request.pids) as self.cgroup:
            if request.builder:
                self.cgroup = ""
            ways = set(self.hows.values())
            if "built" in ways:
                bounded = bool(self.cgroup or request.builder)
            outcomes, said = self._all(jobs, watch_disk=bool(ways & {"built", "pulled"}))
        failed = [each for each in outcomes if isinstance(each, BuildFailed)]
        if failed:
            message = "\n".join(dict.fromkeys(str(each) for each in failed))
            raise BuildFailed(
                message, [line for each in failed for line in each.log][: _build_log.LINES]
            )
        done = self._finish([each for each in outcomes if isinstance(each, Made)])
        made = {image.ref: image for image in done}
        named = {service.name: made[service.image] for service in services}
        return Result(named, bounded, said)

    def _look(self, jobs: Iterable[Wanted]) -> None:
        """See what there is already."""
        previous = [p.get("image_id", "") for p in self.request.previous.values()]
        # Names of others, too, that something is pulled by: who has one of them keeps it.
        pulled = [self._by_mirror(j.prebuilt or j.image) for j in jobs if j.source != "build"]
        named = [job.image for job in jobs] + pulled
        self._inspect(list(dict.fromkeys(each for each in named + previous if each)))

    def _finish(self, made: List[Made]) -> List[Made]:
        """The images as they are at the end, none of which does harm."""
        before = self.images
        self._inspect([image.ref for image in made])
        found = [self._identified(image, before) for image in made]
        for image in found:
            self._refuse_harmful(image)
        return found

    def _all(self, jobs: List[Wanted], watch_disk: bool) -> Tuple[List[Outcome], str]:
        """What came of each image, and what the command beside them has printed."""
        beside = self.request.meanwhile
        needed = {s.image for s in self.request.services if beside and s.name in beside.services}
        jobs = sorted(jobs, key=lambda job: job.image not in needed)
        with ThreadPoolExecutor(AT_ONCE) as pool, ThreadPoolExecutor(2) as other:
            disk = other.submit(self._know_disk) if watch_disk else None
            futures = [pool.submit(self._attempt, job) for job in jobs]
            awaited = [f for f, job in zip(futures, jobs) if job.image in needed]
            said = beside and other.submit(self._beside, beside, awaited)
            outcomes = [future.result() for future in futures]
            if disk:
                disk.result()
            return outcomes, said.result() if said else ""

    def _beside(self, command: Meanwhile, needed: List["Future[Outcome]"]) -> str:
        """Run it, unless one of its images cannot be had or used: that is told at the end."""
        made = [each.result() for each in needed]
        refs = [each.ref for each in made if isinstance(each, Made)]
        pulled = [ref for ref in refs if not self._found(ref)]
        images = dict(self.images, **(self._inspected(pulled) if pulled else {}))
        configs = [_found(images, ref).get("Config") for ref in refs]
        if len(configs) < len(made) or any(c is None or _harm(c) for c in configs):
            return ""
        ended = limited(
            command.argv,
            env=dict(os.environ),
            cwd="/",
            seconds=command.timeout,
            stdin=command.stdin.encode(),
            keep=256 << 10,
        )
        return "" if ended.rc else ended.out.decode("utf-8", "replace")

    def _identified(self, made: Made, before: Mapping[str, Any]) -> Made:
        found = _must_be(self._found(made.ref), made.ref)
        digest = self.digests.get(made.ref) or next(iter(found.get("RepoDigests") or []), "")
        same = made.how == "pulled" and before.get(made.ref, {}).get("Id") == found["Id"]
        how = "present" if same else made.how
        return made._replace(id=found["Id"], digest=digest, how=how)

    def _attempt(self, job: Wanted) -> Union[Made, BuildFailed]:
        began = time.monotonic()
        try:
            made = self._have(job)
        except BuildFailed as failed:
            return failed
        except PathRefused as refused:
            return BuildFailed("services.{0}.build: {1}.".format(job.name, refused))
        except _registry.RegistryError as error:
            return BuildFailed("services.{0}: {1}".format(job.name, error))
        return made._replace(seconds=round(time.monotonic() - began, 2))

    def _have(self, job: Wanted) -> Made:
        """Have one image as planned."""
        how = self.hows[job.image]
        if how == "built":
            self._build(job, ["--load", "--tag", job.image])
        elif how == "retagged":
            self._tag(self._last(job), job.image)
        elif how == "pulled":
            self._pull(job)
        if how != "kept" and job.source != "pull":
            self._name_former(job.image)
        return Made(job.image, "", how, "", 0.0)

    def _how(self, job: Wanted) -> str:
        if job.source == "prebuilt":
            return "pulled"
        if job.source == "pull":
            return "present" if self._found(job.image) else "pulled"
        last = self._last(job)
        if not last or self.request.fresh:
            return "built"
        return "kept" if self._found(job.image).get("Id") == last else "retagged"

    def _last(self, job: Wanted) -> str:
        """The id of an image there is that was built from the same content."""
        for service in self.request.services:
            last = self.request.previous.get(service.name) or {}
            if (
                service.image == job.image
                and last.get("digest")
                and last["digest"] == service.build.get("digest")
                and self._is_there(job, last.get("image_id", ""))
            ):
                return last["image_id"]
        return ""

    def _is_there(self, job: Wanted, image_id: str) -> bool:
        return bool(self._found(image_id))

    # -- one image ----------------------------------------------------------------------------

    def _build(self, job: Wanted, output: List[str]) -> None:
        """Build an image; ``output`` tells buildx where to put it."""
        folder = tempfile.mkdtemp(dir=self.work)
        request, build = self.request, job.build
        checkout = Checkout(request.checkout)
        context = checkout.path("", build.get("context") or ".")
        checkout.must(context, "folder")
        argv = ["docker", "buildx", "build", "--progress", "plain", *output]
        argv += ["--builder", request.builder or "default"]
        dockerfile = self._dockerfile(job, checkout, context, folder)
        argv += ["--file", dockerfile]
        if build.get("target"):
            argv += ["--target={0}".format(build["target"])]
        for name, value in (build.get("args") or {}).items():
            if value is not None:
                argv += ["--build-arg", "{0}={1}".format(name, value)]
        for name, path in (build.get("additional_contexts") or {}).items():
            named = checkout.path("", path)
            checkout.must(named, "folder")
            argv += ["--build-context", "{0}={1}".format(name, self._at(named))]
        argv += self._secrets(build.get("secrets") or [], folder)
        # Without a value: taken from the environment, so that no list of processes shows it.
        for name in self._proxies():
            argv += ["--build-arg", name]
        argv += ["--build-arg", "BUILDKIT_CACHE_MOUNT_NS=" + self._namespace()]
        if self.cgroup:
            argv += ["--cgroup-parent", self.cgroup]
        if request.fresh:
            argv.append("--pull")
        if request.fresh or (request.secrets and not request.trusted):
            argv.append("--no-cache")
        with open(dockerfile, encoding="utf-8", newline="") as stream:
            apart = mounts_cache(stream.read())
        ended = self._solve(job, argv, context, apart)
        if not apart and any(map(mounts_cache, _steps(ended.err))):
            self._forget(job)
            self._solve(job, argv, context, apart=True)

    def _forget(self, job: Wanted) -> None:
        """Remove what was built just now."""
        self._ask(["docker", "image", "rm", job.image])

    def _solve(self, job: Wanted, argv: List[str], context: str, apart: bool) -> Ended:
        """Let BuildKit build it; `apart`, no result of another preview's steps is taken."""
        if apart:
            # BuildKit does not tell cache mounts apart when it looks for a step's result: what one
            # preview left in its own would reach the images of all. But it tells hosts apart.
            place = ".".join(reversed(self._namespace().split("/")))
            argv = argv + ["--add-host", place + ".invalid:127.0.0.1"]
        argv = argv + [self._at(context)]
        for _attempt in range(ATTEMPTS):
            ended = self._run(argv, self.deadline, 4 << 20, grace=5.0, watch=self._disk_is_full)
            if ended.rc == 0 or not _build_log.LOST.search(ended.err):
                break
        if ended.rc != 0 or ended.timed_out or ended.stopped:
            limit = "preview_build_timeout", self.request.timeout
            raise self._failed("Building {0}".format(job.name), ended, *limit)
        return ended

    def _dockerfile(self, job: Wanted, checkout: Checkout, context: str, folder: str) -> str:
        """The Dockerfile and what it ignores, as files of ours."""
        name = job.build.get("dockerfile") or "Dockerfile"
        text = job.build.get("dockerfile_inline")
        if text is None:
            path = checkout.path(context, name)
            if not checkout.kind(path):
                raise BuildFailed(
                    "services.{0}.build.dockerfile: there is no {1} in the commit.".format(
                        job.name, path
                    )
                )
            text = checkout.text(path, _dockerfile.SIZE_MAX)
            if checkout.kind(path + ".dockerignore") == "file":
                ignored = checkout.read(path + ".dockerignore", _dockerfile.SIZE_MAX)
                name = os.path.basename(name)
                with open(os.path.join(folder, name + ".dockerignore"), "wb") as handle:
                    handle.write(ignored)
        refused = _dockerfile.refused_frontends(text, name, self.request.frontends)
        if refused:
            raise BuildFailed("services.{0}.build: {1}".format(job.name, refused[0]))
        if all(map(_dockerfile.is_own, _dockerfile.syntaxes(text))):
            text = without_frontend(text)
        own = os.path.join(folder, os.path.basename(name))
        with open(own, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
        return own

    def _namespace(self) -> str:
        return "{0}/{1}".format(self.request.name, _trust(self.request.trusted))

    def _secrets(self, asked: Iterable[Any], folder: str) -> List[str]:
        granted = dict(self.request.secrets) if self.request.trusted else {}
        wanted = [{"source": each} if isinstance(each, str) else each for each in asked]
        if self.request.ca:
            granted["preview_ca"] = self.request.ca
            wanted.append({"source": "preview_ca"})
        argv = []
        for number, secret in enumerate(wanted):
            name = secret["source"]
            if name in granted and _SECRET.fullmatch(secret.get("target") or name):
                path = os.path.join(folder, "secret-{0}".format(number))
                _write_private(path, granted[name])
                argv += ["--secret", "id={0},src={1}".format(secret.get("target") or name, path)]
        return argv

    def _pull(self, job: Wanted) -> None:
        """Pull an image; one that CI pushes is waited for."""
        wanted = job.prebuilt or job.image
        through = self._by_mirror(wanted)
        had = bool(self._found(through))
        limit = time.monotonic() + self.request.images_timeout
        while True:
            ended = self._run(["docker", "pull", through], limit, watch=self._disk_is_full)
            if ended.rc == 0:
                break
            if job.source != "prebuilt" or not _build_log.NOT_YET.search(ended.err):
                allowed = "preview_images_timeout", self.request.images_timeout
                raise self._failed("Pulling {0}".format(wanted), ended, *allowed)
            if time.monotonic() + POLL > limit or ended.timed_out:
                raise self._did_not_appear(wanted)
            time.sleep(POLL)
        digest = re.search(r"^Digest: (sha256:[0-9a-f]{64})$", ended.out.decode(), re.MULTILINE)
        if digest:
            self.digests[job.image] = _by_digest(wanted, digest.group(1))
        if through != job.image:
            self._tag(through, job.image)
            if not had:
                self._ask(["docker", "image", "rm", through])

    def _did_not_appear(self, image: str) -> BuildFailed:
        return BuildFailed(
            "{0} did not appear within {1:g} seconds. Has CI built and pushed it? Look at its job,"
            " or let preview_images_timeout wait longer.".format(image, self.request.images_timeout)
        )

    def _by_mirror(self, image: str) -> str:
        name, tag = image_name(image)
        mirror = re.sub(r"\Ahttps?://|/\Z", "", self.request.mirror)
        if not mirror or not name.startswith("docker.io/"):
            return image
        return mirror + name[len("docker.io") :] + (tag or ":latest")

    def _tag(self, source: str, image: str) -> None:
        ended = self._ask(["docker", "image", "tag", source, image])
        if ended.rc != 0:
            raise self._failed("Naming {0}".format(image), ended)

    def _name_former(self, image: str) -> None:
        """Give what had this name before another one of the preview's, by which it is removed."""
        former = self._found(image).get("Id", "")
        if former:
            now = self._ask(["docker", "image", "inspect", "--format", "{{.Id}}", image])
            if now.out.decode().strip() != former:
                self._tag(former, _registry.without_tag(image) + ":" + _former(former))

    def _refuse_harmful(self, image: Made) -> None:
        """What an image says of itself reaches its containers, where nobody screens it again."""
        try:
            _refuse(image.ref, self._found(image.ref).get("Config") or {})
        except BuildFailed:
            if image.how != "present":
                self._ask(["docker", "image", "rm", "--force", image.ref])
            raise

    # -- the engine ---------------------------------------------------------------------------

    def _inspect(self, images: List[str]) -> None:
        self.images = self._inspected(images)

    def _inspected(self, images: List[str]) -> Dict[str, Dict[str, Any]]:
        """What the engine says of these images, by id and by name."""
        ended = self._ask(["docker", "image", "inspect", *images], keep=INSPECTED)
        if ended.rc != 0 and "Cannot connect to the Docker daemon" in ended.err:
            raise self._failed("Asking the engine", ended)
        try:
            answer = json.loads(ended.out or b"[]")
        except ValueError:  # its beginning is cut off
            raise BuildFailed(
                "what the engine says of {0} is longer than {1} MiB and cannot be read. Make the"
                " labels and variables of these images shorter.".format(
                    ", ".join(images), INSPECTED >> 20
                )
            ) from None
        return {
            name: found
            for found in answer
            for name in [found["Id"], *(found.get("RepoTags") or [])]
        }

    def _found(self, image: str) -> Dict[str, Any]:
        return _found(self.images, image)

    def _at(self, path: str) -> str:
        return os.path.join(os.path.abspath(self.request.checkout), path)

    def _ask(self, argv: List[str], keep: int = 256 << 10) -> Ended:
        ended = self._run(argv, time.monotonic() + ANSWER, keep)
        if ended.timed_out:
            raise BuildFailed(
                "The engine did not answer `{0}` within {1:g} seconds. Is its machine overloaded?"
                " Look with `docker info` there.".format(" ".join(argv[:3]), ANSWER)
            )
        return ended

    def _run(
        self,
        argv: List[str],
        until: float,
        keep: int = 256 << 10,
        grace: float = 0,
        watch: Callable[[], str] = lambda: "",
    ) -> Ended:
        try:
            return limited(
                argv,
                env=self.env,
                cwd=self.work,
                seconds=until - time.monotonic(),
                keep=keep,
                grace=grace,
                watch=watch,
            )
        except FileNotFoundError:
            raise BuildFailed("there is no `docker` on this machine.") from None

    def _environment(self) -> Dict[str, str]:
        """What docker may know. Its configuration is this run's own: logins, and no other."""
        config = os.path.join(self.work, "docker")
        theirs = _docker.client_folder()
        os.mkdir(config, 0o700)
        kept = _read_json(os.path.join(theirs, "config.json"))
        mine = {
            "auths": {
                _auths_key(each["registry"]): {"auth": _registry.basic(each)}
                for each in self.request.registries
            },
            "cliPluginsExtraDirs": [
                *kept.get("cliPluginsExtraDirs", []),
                os.path.join(theirs, "cli-plugins"),
            ],
            "currentContext": kept.get("currentContext", ""),
        }
        _write_private(os.path.join(config, "config.json"), json.dumps(mine))
        if os.path.isdir(os.path.join(theirs, "contexts")):
            os.symlink(os.path.join(theirs, "contexts"), os.path.join(config, "contexts"))
        policy = source_policy(self.request.frontends, _images(self.request), self.request.mirror)
        _write_private(os.path.join(self.work, "policy.json"), json.dumps(policy))
        env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        env.setdefault("PATH", os.defpath)
        env.update(
            # buildx would run git inside the context, where a folder can pass for a repository.
            BUILDX_GIT_INFO="false",
            BUILDX_NO_DEFAULT_ATTESTATIONS="1",
            # Teardown reads there which records the builder keeps.
            BUILDX_CONFIG=os.path.join(theirs, "buildx")
            if self.request.builder
            else os.path.join(self.request.folder, _docker.BUILDX),
            DOCKER_CLI_HINTS="false",
            DOCKER_CONFIG=config,
            EXPERIMENTAL_BUILDKIT_SOURCE_POLICY=os.path.join(self.work, "policy.json"),
            GIT_DIR="/dev/null",
            HOME=self.work,
            LC_ALL="C",
            NO_COLOR="1",
        )
        env.update(self._proxies())
        return env

    def _proxies(self) -> Dict[str, str]:
        found = {}
        for name, value in self.request.proxy.items():
            if value:
                found[name] = found[name.upper()] = value
        return found

    def _know_disk(self) -> None:
        """Where the engine keeps its data, if it is here, and how much a build must leave free."""
        if not _engine_is_here() or self.request.builder:
            return
        ended = self._ask(["docker", "info", "--format", "{{.DockerRootDir}}"])
        root = ended.out.decode().strip()
        if ended.rc == 0 and os.path.isdir(root):
            left = max(shutil.disk_usage(root).free - self.request.disk, DISK_LEFT)
            self.disk = root, left

    def _disk_is_full(self) -> str:
        if self.disk and shutil.disk_usage(self.disk[0]).free < self.disk[1]:
            return (
                "it has filled {0} GiB of the engine's disk (preview_build_disk), or all but the"
                " last one.".format(self.request.disk >> 30)
            )
        return ""

    # -- saying why not -----------------------------------------------------------------------

    def _failed(
        self,
        what: str,
        ended: Ended,
        setting: str = "",
        seconds: float = ANSWER,
        push: bool = False,
    ) -> BuildFailed:
        """Why something did not work; `seconds`, by this setting, are what it might take."""
        text = redact(ended.err, _hidden(self.request))
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        if ended.timed_out or ended.stopped:
            why = ended.stopped or _build_log.too_late(lines, setting, seconds)
            return BuildFailed(
                "{0} failed: {1}".format(what, why), _build_log.steps(lines)[-_build_log.LINES :]
            )
        sentence, log = _build_log.explain(lines, push)
        return BuildFailed("{0} failed: {1}".format(what, sentence), log)


class _Pusher(_Maker):
    """For a cluster: what is built by the engine is pushed, once it has been looked at; the engine
    forgets it. All else is in a registry already."""

    def __init__(self, request: Request, work: str) -> None:
        super().__init__(request, work)
        self.there = _registry.Registries(request.registries, request.ca, request.proxy)

    def _look(self, jobs: Iterable[Wanted]) -> None:
        """What there is, is asked for where it is needed: nothing of it is on the engine."""

    def _finish(self, made: List[Made]) -> List[Made]:
        return made

    def _how(self, job: Wanted) -> str:
        if job.source == "pull":
            return "left"
        if job.source == "prebuilt":
            return "present"
        last = "" if self.request.fresh else _digest(self._last(job))
        if not last:
            return "built"
        return "kept" if self.there.digest(job.image) == last else "retagged"

    def _is_there(self, job: Wanted, image_id: str) -> bool:
        """Whether the image that a cluster runs by this id is in the repository."""
        last = _digest(image_id)
        return bool(last and self.there.digest(_by_digest(job.image, last)))

    def _have(self, job: Wanted) -> Made:
        how, name = self.hows[job.image], job.image
        if how == "left":
            return Made(name, "", how, "", 0.0)
        if how == "present":
            name = job.prebuilt
            digest = self._awaited(name)
        else:
            before = self._before(name)
            digest = self._pushed(job) if how == "built" else _digest(self._last(job))
            if before == digest:
                how = "kept"
            elif before:
                # So that `down` finds it: a manifest without a tag is in no list.
                self.there.tag(_by_digest(name, before), _former(before))
            if how == "retagged":
                self._name(job, digest)
        return Made(job.image, digest, how, "{0}@{1}".format(name.partition("@")[0], digest), 0.0)

    def _name(self, job: Wanted, digest: str) -> None:
        self.there.tag(_by_digest(job.image, digest), job.image.rpartition(":")[2])

    def _before(self, image: str) -> str:
        """The digest that has this name already. Whether one may push is told by pushing."""
        try:
            return self.there.digest(image)
        except _registry.Refused:
            return ""

    def _awaited(self, image: str) -> str:
        """The digest of an image that CI pushes."""
        limit = time.monotonic() + self.request.images_timeout
        while True:
            digest = self.there.digest(image)
            if digest:
                return digest
            if time.monotonic() + POLL > limit:
                raise self._did_not_appear(image)
            time.sleep(POLL)

    def _pushed(self, job: Wanted) -> str:
        """Build an image, look at it, push it. Its digest."""
        self._build(job, ["--load", "--tag", job.image])
        try:
            found = _found(self._inspected([job.image]), job.image)
            _refuse(job.image, _must_be(found, job.image).get("Config") or {})
            ended = self._run(["docker", "push", job.image], self.deadline)
            said = ended.out.decode("utf-8", "replace")
            digest = re.search(r"digest: (sha256:[0-9a-f]{64}) ", said)
            if ended.rc != 0 or not digest:
                limit = "preview_build_timeout", self.request.timeout
                raise self._failed("Pushing {0}".format(job.image), ended, *limit, push=True)
            return digest.group(1)
        finally:
            self._forget(job)


class _BuilderPusher(_Pusher):
    """For a cluster, where a builder was named: it pushes by itself, and no engine takes part.

    What it has pushed has no name until it has been looked at.
    """

    def _pushed(self, job: Wanted) -> str:
        output = "type=image,name={0},push-by-digest=true,push=true".format(
            _registry.without_tag(job.image)
        )
        told = tempfile.mkdtemp(dir=self.work) + "/metadata.json"
        self._build(job, ["--output", output, "--metadata-file", told])
        digest = str(_read_json(told).get("containerimage.digest"))
        image = _by_digest(job.image, digest)
        try:
            _refuse(job.image, self.there.config(image))
        except BuildFailed:
            self.there.delete(image)
            raise
        self._name(job, digest)
        return digest

    def _forget(self, job: Wanted) -> None:
        """Nothing: it has no name, and may be what is deployed."""


def _maker(request: Request) -> Type[_Maker]:
    if not request.push:
        return _Maker
    return _BuilderPusher if request.builder else _Pusher


def _former(digest: str) -> str:
    """The tag of what had a commit's name before."""
    return "former-" + digest[7:19]


def _by_digest(image: str, digest: str) -> str:
    return "{0}@{1}".format(_registry.without_tag(image), digest)


def _digest(image_id: str) -> str:
    """The digest in the id by which a cluster tells what it runs, "" where it is none."""
    found = re.search(r"@(sha256:[0-9a-f]{64})\Z", image_id)
    return found.group(1) if found else ""


def _refuse(image: str, config: Mapping[str, Any]) -> None:
    """Refuse an image that says harmful things of itself."""
    reason = _harm(config)
    if reason:
        raise BuildFailed("{0} {1}".format(image, reason))


def _trust(trusted: bool) -> str:
    return "trusted" if trusted else "untrusted"


def _found(images: Mapping[str, Dict[str, Any]], image: str) -> Dict[str, Any]:
    name, tag = image_name(image)
    for prefix in ("docker.io/library/", "docker.io/"):
        name = name[len(prefix) :] if name.startswith(prefix) else name
    return images.get(image) or images.get(name + (tag or ":latest")) or {}


def _must_be(found: Dict[str, Any], image: str) -> Dict[str, Any]:
    """What the engine says of an image that was just made."""
    if not found:
        raise BuildFailed(
            "{0} is gone from the engine though it was just made. Does something else remove"
            " images there, such as `docker image prune`? Start again.".format(image)
        )
    return found


def _harm(config: Mapping[str, Any]) -> str:
    """Why no container may be made of an image that says this of itself."""
    return _forged_label(config) or _harmful_check(config) or _too_many(config)


def _forged_label(config: Mapping[str, Any]) -> str:
    labels = config.get("Labels") or {}
    forged = sorted(label for label in labels if label.startswith(_names.PREFIX))
    if not forged:
        return ""
    return (
        "carries the label {0}: labels that begin so are the platform's. Remove LABEL {0} from it,"
        " or from the image it builds upon.".format(forged[0])
    )


def _harmful_check(config: Mapping[str, Any]) -> str:
    check = config.get("Healthcheck") or {}
    for option, least in (
        ("Interval", CHECK_MIN),
        ("StartInterval", CHECK_MIN / 2),
        ("Timeout", 0.0),
        ("StartPeriod", 0.0),
    ):
        seconds = check.get(option, 0) / 1e9
        if seconds and not least <= seconds <= DURATION_MAX:
            return (
                "has a HEALTHCHECK whose {0} is {1:g}s, and it must be from {2:g}s to {3:g}s."
                " Correct it in its Dockerfile, or in that of the image it builds upon.".format(
                    option, seconds, least, DURATION_MAX
                )
            )
    return ""


def _too_many(config: Mapping[str, Any]) -> str:
    """Each volume is one more on the engine for each container, each port one in all its lists."""
    for what, instruction, most in (
        ("Volumes", "VOLUME", VOLUMES_MAX),
        ("ExposedPorts", "EXPOSE", PORTS_MAX),
    ):
        count = len(config.get(what) or {})
        if count > most:
            return "has {0} of what {1} names, and at most {2} are taken. Remove some.".format(
                count, instruction, most
            )
    return ""


def _hidden(request: Request) -> List[str]:
    values = [*request.secrets.values(), *(each["password"] for each in request.registries)]
    for proxy in request.proxy.values():
        values += re.findall(r"//[^/@]*:([^/@]+)@", proxy or "")
    return in_every_form(values)


def _auths_key(name: str) -> str:
    """The key under which docker looks for a login."""
    host = name.partition("/")[0]
    hub = ("docker.io", "index.docker.io", "registry-1.docker.io")
    return "https://index.docker.io/v1/" if host in hub else host


def _write_private(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(text)


def _read_json(path: str) -> Dict[str, Any]:
    try:
        with open(path) as handle:
            found = json.load(handle)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
