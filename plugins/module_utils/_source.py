# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exactly one commit of a repository that nobody trusts, as a plain folder of files.

Git runs what configuration tells it to run: hooks, filters, monitors, transports. So it reads no
configuration but the command line's and that of the bare repository made here, works on no
folder but that one, and is never started inside what came out of a repository.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import tempfile
import time
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils._redact import redact
from ansible_collections.ephemera.preview.plugins.module_utils._run import Ended, limited

MEBIBYTE = 1 << 20
DEPTH = 64  # folders within folders
FETCHES = 20  # whose packs are kept for the next one to build upon
HISTORY = 50  # commits among which one is looked for when its reference has moved on
REF = "refs/preview/wanted"

# The command line wins over every configuration file.
_CONFIG = {
    "core.askPass": "",
    "core.attributesFile": "/dev/null",
    "core.autocrlf": "false",
    "core.eol": "lf",
    "core.fsmonitor": "false",
    "core.hooksPath": "/dev/null",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.symlinks": "true",
    "core.packedGitLimit": "256m",
    "credential.helper": "",
    "fetch.recurseSubmodules": "false",
    "fetch.unpackLimit": "1",
    "gc.auto": "0",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": "60",
    "init.defaultBranch": "main",
    "maintenance.auto": "false",
    "pack.threads": "2",
    "safe.bareRepository": "explicit",
    "submodule.recurse": "false",
    "transfer.bundleURI": "false",
    "transfer.fsckObjects": "true",
    # Old histories are full of these; they harm nobody.
    "fetch.fsck.badDateOverflow": "ignore",
    "fetch.fsck.badTimezone": "ignore",
    "fetch.fsck.missingEmail": "ignore",
    "fetch.fsck.missingNameBeforeEmail": "ignore",
    "fetch.fsck.missingSpaceBeforeDate": "ignore",
    "fetch.fsck.missingSpaceBeforeEmail": "ignore",
    "fetch.fsck.zeroPaddedFilemode": "ignore",
}
# Wins over every .gitattributes: a file is exported as the bytes that its object id stands for.
_ATTRIBUTES = "* -text -crlf -eol -ident -filter -working-tree-encoding -export-subst\n"
_PASSED_ON = (
    "PATH CURL_CA_BUNDLE GIT_SSL_CAINFO GIT_SSL_CAPATH SSL_CERT_FILE SSL_CERT_DIR "
    "http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY no_proxy NO_PROXY"
).split()
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS
)

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_PATH = r"[A-Za-z0-9._~/%+@=,:-]*"
_WEB = re.compile(r"(?P<scheme>https?)://(?P<host>%s)(?P<port>:[0-9]{1,5})?/%s" % (_HOST, _PATH))
_SSH = re.compile(
    r"(?:ssh://(?:[A-Za-z0-9._-]+@)?(?P<host>%s)(?::[0-9]{1,5})?/%s"
    r"|[A-Za-z0-9._-]+@(?P<scp>%s):[A-Za-z0-9._~/+@=,]%s)" % (_HOST, _PATH, _HOST, _PATH)
)
_FILE = re.compile(r"(?:file://)?/[^\x00-\x1f\x7f]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_USER = re.compile(r"[A-Za-z0-9._@+-]{1,100}")
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|\[::1\]")

_HELPER = """\
#!/bin/sh
# Answers for one server only, whoever asks.
case "$1" in
{names}) echo {user} ;;
{passwords}) cat /dev/fd/{fd} ;;
*) exit 1 ;;
esac
"""


_TEMPORARY = "ephemera-preview-check-"


class SourceRefused(Exception):
    """The commit can't be had. The message says what, where and what to do; it holds no token."""


class Origin(NamedTuple):
    """Where a commit is taken from: `checkout`, a folder of CI's, or else `url`.

    `proxy` has `http_proxy`, `https_proxy` and `no_proxy`; `ca` is PEM text, trusted besides the
    system's.
    """

    url: Optional[str] = None
    ref: Optional[str] = None
    checkout: Optional[str] = None
    user: str = "x-access-token"
    token: Optional[str] = None
    key_file: Optional[str] = None
    host_keys: Optional[str] = None
    proxy: Dict[str, str] = {}
    ca: Optional[str] = None


class Limits(NamedTuple):
    """`seconds` for everything; `size` in bytes of a fetch and of the exported files."""

    seconds: float = 300
    size: int = 2048 * MEBIBYTE
    files: int = 200000
    memory: int = 4096 * MEBIBYTE


class Exported(NamedTuple):
    """A commit as files in the folder `path`. `tree` is the id of its root tree, `missing` says in
    sentences what it lacks."""

    commit: str
    tree: str
    path: str
    git_dir: str
    changed: bool
    missing: List[str]


def run(params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """The program of the module ``source``, whose options ``params`` are."""
    origin = Origin(**{name: params[name] for name in Origin._fields})
    limits = Limits(seconds=params["timeout"], size=params["max_size"] << 20)
    dest, commit, temporary = params["dest"], params["commit"], ""
    if check and not exported(dest, commit):
        dest = temporary = _temporary_folder()
    try:
        result = export(dest, commit, origin, limits, params["keep"])
    except (SourceRefused, OSError) as refused:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
        return {"failed": True, "msg": str(refused)}
    return dict(result._asdict(), temporary=temporary, warnings=result.missing)


def _temporary_folder() -> str:
    """A new one; those that nobody has removed for a day are."""
    parent = tempfile.gettempdir()
    for name in os.listdir(parent):
        if not name.startswith(_TEMPORARY):
            continue
        path = os.path.join(parent, name)
        try:
            state = os.lstat(path)
        except FileNotFoundError:  # another run has just removed it
            continue
        mine = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid()
        if mine and state.st_mtime < time.time() - 86400:
            shutil.rmtree(path, ignore_errors=True)
    return tempfile.mkdtemp(prefix=_TEMPORARY)


def export(dest: str, commit: str, origin: Origin, limits: Limits, keep: str = "") -> Exported:
    """Bring `commit` to `<dest>/source/<commit>`, through the bare repository `<dest>/source.git`.

    The tree of `keep` stays, the commit that is deployed: containers hold its files. Those of other
    commits go.

    Raises SourceRefused. Everything is made in a folder of this run's own and then renamed: a
    killed run, or a git that outlived one, leaves what stood there before.
    """
    scheme = _check(commit, origin)
    done = exported(dest, commit)
    if done:
        return done
    git_dir, path, marker = _places(dest, commit)
    _make_private(dest)
    _sweep(dest)
    work = tempfile.mkdtemp(prefix=".source-", dir=dest)
    try:
        git = _Git(work, os.path.join(work, "source.git"), scheme, origin, commit, limits)
        if not (git.prepare(git_dir) and git.has(commit)):
            git.fetch()
        tree, missing = git.check_tree()
        files = git.write_files()
        missing += _lfs_missing(files)
        _write(os.path.join(git.git_dir, "exported"), "{0} {1}\n".format(commit, tree))
        # The marker goes first and comes last: it never stands beside another commit's tree.
        _remove(marker)
        _settle(path, files, keep)
        _replace(git_dir, git.git_dir)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Exported(commit, tree, path, git_dir, True, missing)


def exported(dest: str, commit: str) -> Optional[Exported]:
    """The commit, where an earlier run has brought it to `dest`."""
    git_dir, path, marker = _places(dest, commit)
    marked = _read(marker).split()
    if len(marked) != 2 or marked[0] != commit or not os.path.isdir(path):
        return None
    return Exported(commit, marked[1], path, git_dir, False, _lfs_missing(path))


def _places(dest: str, commit: str) -> Tuple[str, str, str]:
    git_dir = os.path.join(dest, "source.git")
    return git_dir, os.path.join(dest, "source", commit), os.path.join(git_dir, "exported")


def object_ids(git_dir: str, commit: str, paths: Iterable[str]) -> Dict[str, Optional[str]]:
    """The ids of what lies at `paths` of an exported commit ("" is its root), None where nothing.

    Symbolic links are not followed: one has an id of its own. Raises SourceRefused.
    """
    wanted = list(paths)
    if any(not _COMMIT.fullmatch(commit) or "\n" in path for path in wanted):
        raise SourceRefused("a commit of 40 hexadecimal digits and paths of one line are needed")
    with tempfile.TemporaryDirectory(prefix="ephemera-preview-") as work:
        git = _Git(work, git_dir, "none", Origin(), commit, Limits(seconds=60))
        asked = "".join("{0}:{1}\n".format(commit, path) for path in wanted)
        ended = git.run("cat-file", "--batch-check=%(objectname)", stdin=asked.encode())
    if ended.rc != 0:
        raise git.refused(ended)
    answers = ended.out.decode("utf-8", "replace").splitlines()
    return {
        path: answers[i] if _COMMIT.fullmatch(answers[i]) else None for i, path in enumerate(wanted)
    }


class _Git:
    """Git on one bare repository of ours."""

    def __init__(
        self, work: str, git_dir: str, scheme: str, origin: Origin, commit: str, limits: Limits
    ) -> None:
        self.work = work
        self.git_dir = git_dir
        self.scheme = scheme
        self.origin = origin
        self.commit = commit
        self.limits = limits
        self.deadline = time.monotonic() + limits.seconds
        self.where = origin.checkout or origin.url or git_dir
        # An empty folder: there is no repository around the working directory to be discovered.
        self.empty = os.path.join(work, "empty")
        os.mkdir(self.empty)

    def run(
        self,
        *arguments: str,
        git_dir: Optional[str] = None,
        env: Optional[Dict[str, str]] = None,
        stdin: bytes = b"",
        keep: int = 64 << 10,
        out_size: Optional[int] = None,
        pass_fds: Tuple[int, ...] = (),
    ) -> Ended:
        argv = ["git", "--git-dir", git_dir or self.git_dir]
        for key, value in _CONFIG.items():
            argv += ["-c", "{0}={1}".format(key, value)]
        try:
            ended = limited(
                argv + list(arguments),
                env=dict(self._environment(), **(env or {})),
                cwd=self.empty,
                seconds=self.deadline - time.monotonic(),
                memory=self.limits.memory,
                file_size=self.limits.size,
                out_size=out_size,
                keep=keep,
                stdin=stdin,
                pass_fds=pass_fds,
            )
        except FileNotFoundError:
            raise SourceRefused(
                "there is no `git` on this machine. Install it (Debian: apt-get install git)."
            ) from None
        if ended.timed_out:
            raise SourceRefused(
                "{0}: git was not done within {1:g} seconds. Is the server slow or a proxy in the"
                " way? preview_source_timeout allows more.".format(self.where, self.limits.seconds)
            )
        return ended

    def _environment(self) -> Dict[str, str]:
        env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        env.setdefault("PATH", os.defpath)
        env.update(
            GIT_ALLOW_PROTOCOL=self.scheme,
            GIT_ASKPASS="/bin/false",
            GIT_ATTR_NOSYSTEM="1",
            GIT_CONFIG_GLOBAL="/dev/null",
            GIT_CONFIG_NOSYSTEM="1",
            GIT_CONFIG_SYSTEM="/dev/null",
            GIT_NO_LAZY_FETCH="1",
            GIT_NO_REPLACE_OBJECTS="1",
            GIT_TERMINAL_PROMPT="0",
            HOME=self.empty,
            LC_ALL="C",
            SSH_ASKPASS="/bin/false",
            XDG_CONFIG_HOME=self.empty,
        )
        env.update({name: value for name, value in self.origin.proxy.items() if value})
        if self.origin.ca:
            env["GIT_SSL_CAINFO"] = os.path.join(self.work, "ca.pem")
            _write(env["GIT_SSL_CAINFO"], _system_certificates() + self.origin.ca)
        return env

    def must(self, *arguments: str, **options: Any) -> str:
        """Run git, or refuse with what it says. Its output."""
        ended = self.run(*arguments, **options)
        if ended.rc != 0:
            raise self.refused(ended)
        return ended.out.decode("utf-8", "replace").strip()

    # -- the bare repository ------------------------------------------------------------------

    def prepare(self, kept: str) -> bool:
        """A bare repository to fetch into. Whether it has what an earlier run fetched to `kept`."""
        packs = os.path.join(kept, "objects", "pack")
        if os.path.isdir(packs) and len(os.listdir(packs)) < 3 * FETCHES:
            # Git replaces files and never writes into them, so links do for a copy.
            shutil.copytree(kept, self.git_dir, copy_function=os.link)
            _remove(os.path.join(self.git_dir, "exported"))
            return True
        self._init(self.git_dir)
        return False

    def _init(self, git_dir: str) -> None:
        self.must("init", "--quiet", "--bare", "--template=", git_dir=git_dir)
        os.makedirs(os.path.join(git_dir, "info"), exist_ok=True)
        _write(os.path.join(git_dir, "info", "attributes"), _ATTRIBUTES)

    def has(self, commit: str) -> bool:
        return self._commit_at(commit) == commit

    def _commit_at(self, name: str) -> Optional[str]:
        ended = self.run("rev-parse", "--verify", "--quiet", name + "^{commit}")
        return ended.out.decode().strip() if ended.rc == 0 else None

    # -- fetching -----------------------------------------------------------------------------

    def fetch(self) -> None:
        origin = self.origin
        if origin.checkout:
            self._fetch_checkout(origin.checkout)
        else:
            self._transfer(origin.url or "", origin.ref or self.commit, 1)
        if self._commit_at(REF) == self.commit:
            return
        if origin.checkout or not origin.ref:
            raise SourceRefused("{0} sent no commit {1}.".format(self.where, self.commit))
        self._fetch_history(origin.url or "", origin.ref)

    def _fetch_history(self, url: str, ref: str) -> None:
        """Moved on since the event, or pushed away by force? The history of the ref tells."""
        self._transfer(url, ref, HISTORY)
        head = self._commit_at(REF)
        if not self.has(self.commit):
            raise SourceRefused(
                "{0}: commit {1} is not among the last {2} of {3}, which is now at {4}: it was"
                " pushed away by force or never belonged there. Run again with the new"
                " commit.".format(url, self.commit, HISTORY, ref, head)
            )

    def _fetch_checkout(self, checkout: str) -> None:
        """Fetch from another's checkout without reading its configuration.

        Code of a pull request may have run there, and `.git/config` names programs. So a
        repository of ours borrows its objects, and git's own transfer checks every one of them.
        """
        objects = _checkout_objects(checkout)
        shim = os.path.join(self.work, "shim.git")
        self._init(shim)
        _write(os.path.join(shim, "objects", "info", "alternates"), objects + "\n")
        if self.run("update-ref", "refs/heads/wanted", self.commit, git_dir=shim).rc != 0:
            raise SourceRefused(
                "{0} does not hold commit {1}. Let CI check out the pull request's head itself"
                " (GitHub Actions: `ref: ${{{{ github.event.pull_request.head.sha }}}}`), or leave"
                " preview_checkout out.".format(checkout, self.commit)
            )
        self._transfer("file://" + shim, "refs/heads/wanted", 1)

    def _transfer(self, url: str, what: str, depth: int) -> None:
        with tempfile.TemporaryFile() as secret:
            env, fds = self._credentials(secret)
            ended = self.run(
                "fetch",
                "--quiet",
                "--depth={0}".format(depth),
                "--no-tags",
                "--no-recurse-submodules",
                "--end-of-options",
                url,
                "+{0}:{1}".format(what, REF),
                env=env,
                pass_fds=fds,
            )
        if ended.rc == 0:
            return
        if _missing_ref(ended.err):
            heads = self._any_heads(url)
            if heads is False:
                raise SourceRefused("{0} is empty: it has no branch yet.".format(url))
        raise self.refused(ended)

    def _any_heads(self, url: str) -> Optional[bool]:
        """Whether the repository has any branch; None where it can't be told."""
        with tempfile.TemporaryFile() as secret:
            env, fds = self._credentials(secret)
            ended = self.run("ls-remote", "--heads", "--end-of-options", url, env=env, pass_fds=fds)
        return bool(ended.out.strip()) if ended.rc == 0 else None

    def _credentials(self, secret: Any) -> Tuple[Dict[str, str], Tuple[int, ...]]:
        """What lets git in, by file: never in an argument, a URL or the environment."""
        origin = self.origin
        if self.scheme == "ssh":
            return {"GIT_SSH_COMMAND": self._ssh(), "GIT_SSH_VARIANT": "ssh"}, ()
        web = _WEB.fullmatch(origin.url or "")
        if self.scheme == "file" or web is None or not origin.token:
            return {}, ()
        # A file without a name: a killed run leaves no token behind.
        secret.write(origin.token.encode() + b"\n")
        secret.seek(0)
        server = web["host"] + (web["port"] or "")
        # Newer versions of git encode the user's name in their question.
        users = sorted({origin.user, origin.user.replace("@", "%40").replace("+", "%2B")})
        questions = [
            "Password for '{0}://{1}@{2}': ".format(web["scheme"], u, server) for u in users
        ]
        helper = os.path.join(self.work, "askpass")
        _write(
            helper,
            _HELPER.format(
                names=shlex.quote("Username for '{0}://{1}': ".format(web["scheme"], server)),
                user=shlex.quote(origin.user),
                passwords=" | ".join(shlex.quote(question) for question in questions),
                fd=secret.fileno(),
            ),
        )
        os.chmod(helper, 0o700)
        return {"GIT_ASKPASS": helper}, (secret.fileno(),)

    def _ssh(self) -> str:
        options = [
            "BatchMode=yes",
            "ClearAllForwardings=yes",
            "ConnectTimeout=20",
            "ControlMaster=no",
            "ControlPath=none",
            "IdentityAgent=none",
            "PermitLocalCommand=no",
            "StrictHostKeyChecking=yes",
            "UpdateHostKeys=no",
        ]
        command = ["ssh", "-F", "/dev/null"]
        if self.origin.host_keys:
            known = os.path.join(self.work, "known_hosts")
            _write(known, self.origin.host_keys.rstrip("\n") + "\n")
            options += ["UserKnownHostsFile=" + known, "GlobalKnownHostsFile=/dev/null"]
        if self.origin.key_file:
            options += ["IdentitiesOnly=yes"]
            command += ["-i", self.origin.key_file]
        for option in options:
            command += ["-o", option]
        return " ".join(shlex.quote(word) for word in command)

    # -- exporting ----------------------------------------------------------------------------

    def check_tree(self) -> Tuple[str, List[str]]:
        """The root tree's id, and what it lacks. Refuses what would fill the disk.

        A few hundred objects can name a billion files: git itself sets no limit.
        """
        tree = self.must("rev-parse", "--verify", "--quiet", self.commit + "^{tree}")
        listing = self.limits.files * 150
        ended = self.run(
            "ls-tree", "-r", "-z", "-l", "--full-tree", tree, keep=listing, out_size=listing
        )
        entries = ended.out.split(b"\0")[:-1]
        if len(entries) > self.limits.files or len(ended.out) >= listing:
            raise SourceRefused(
                "{0}: commit {1} has more than {2} files, which is the limit.".format(
                    self.where, self.commit, self.limits.files
                )
            )
        if ended.rc != 0:
            raise self.refused(ended)
        size, missing = 0, []
        for entry in entries:
            meta, _tab, path = entry.partition(b"\t")
            mode, _kind, _id, length = meta.split()
            name = path.decode("utf-8", "replace")
            if mode == b"160000":
                missing.append("submodule {0!r} is left empty: it is not fetched".format(name))
            else:
                size += int(length)
            if path.count(b"/") > DEPTH or len(path) > 1024:
                raise SourceRefused(
                    "{0}: commit {1} has the path {2!r}: more than {3} folders deep or longer than"
                    " 1024 bytes.".format(self.where, self.commit, name[:80] + "…", DEPTH)
                )
        if size > self.limits.size:
            raise SourceRefused(
                "{0}: the files of commit {1} take {2} MiB; preview_source_max_size allows"
                " {3}.".format(
                    self.where, self.commit, size // MEBIBYTE, self.limits.size // MEBIBYTE
                )
            )
        return tree, missing

    def write_files(self) -> str:
        files = os.path.join(self.work, "files")
        os.mkdir(files, 0o755)
        env = {"GIT_INDEX_FILE": os.path.join(self.work, "index"), "GIT_WORK_TREE": files}
        self.must("read-tree", self.commit, env=env)
        self.must("checkout-index", "--all", "--quiet", env=env)
        return files

    # -- saying why not -----------------------------------------------------------------------

    def refused(self, ended: Ended) -> SourceRefused:
        """What git answered, in a sentence of ours where we know the answer."""
        facts = {
            "where": self.where,
            "ref": self.origin.ref or self.commit,
            "commit": self.commit,
            "host": _host(self.origin.url or ""),
            "size": self.limits.size // MEBIBYTE,
            "token": "the token (preview_source_token) was not accepted"
            if self.origin.token
            else "no token is set (preview_source_token)",
        }
        hidden = [self.origin.token] if self.origin.token else []
        text = redact(ended.err, hidden)[-8192:]
        for pattern, sentence in _SENTENCES:
            if re.search(pattern, text):
                message = sentence.format(**facts)
                break
        else:
            message = "{0}: git failed with exit code {1}.".format(self.where, ended.rc)
        said = [line.strip() for line in text.splitlines() if line.strip()]
        if said:
            message += " Git says: " + " / ".join(said[-3:])[-600:]
        return SourceRefused(redact(message, hidden))


_SENTENCES: Tuple[Tuple[str, str], ...] = (
    (
        r"couldn't find remote ref",
        "{where} has no {ref}. Is the pull request's number right, and is it still open?",
    ),
    (
        r"not our ref|unadvertised object|does not allow request for",
        "{where} does not hand out commit {commit}: it was pushed away by force, or is on no"
        " branch. Run again with a commit of today.",
    ),
    (
        r"Authentication failed|returned error: 401|could not read (?:Username|Password)",
        "{where} answered 401: {token}. Give a token that may read this repository.",
    ),
    (
        r"returned error: 403|remote: Forbidden|HTTP 403",
        "{where} answered 403: {token} for this repository. Give it the right to read contents"
        " (and, with single sign-on, authorise it for the organisation).",
    ),
    (
        r"(?s)repository '[^']*' not found|returned error: 404|Repository not found"
        r"|does not appear to be a git repository",
        "{where} is not there, or hidden from us: {token}. Check preview_repository, and that the"
        " token or key may read it: forges hide private repositories behind 404.",
    ),
    (
        r"returned error: 30\d|unable to update url base from redirection",
        "{where} redirects elsewhere, and a token is sent to no other place than the one that was"
        " named. Was the repository renamed or moved? Write its new address into"
        " preview_repository.",
    ),
    (
        r"returned error: 429",
        "{where} answered 429: too many requests for now. Wait, or ask with a token of its own.",
    ),
    (
        r"returned error: 5\d\d",
        "{where}: the server has trouble of its own. Try again later.",
    ),
    (
        r"Host key verification failed|No \S+ host key is known|REMOTE HOST IDENTIFICATION",
        "{where}: the host key of {host} is not among the known ones. Compare what `ssh-keyscan"
        " {host}` prints with what the forge publishes, and put it into"
        " preview_source_host_keys.",
    ),
    (
        r"Permission denied \(|Load key|no such identity",
        "{where}: {host} did not accept the deploy key. Is its public half entered there, and does"
        " preview_source_key_file name a private key that only its owner can read?",
    ),
    (
        r"cannot run ssh|ssh: not found|ssh: command not found",
        "there is no `ssh` on this machine. Install it (Debian: apt-get install openssh-client).",
    ),
    (
        r"Could not resolve (?:host|proxy)|Name or service not known|Temporary failure in name",
        "{where}: the name {host} does not resolve here. Check preview_repository and this"
        " machine's DNS.",
    ),
    (
        r"Failed to connect|Connection refused|Connection timed out|No route to host"
        r"|Network is unreachable|Operation timed out|Operation too slow|Couldn't connect",
        "{where}: {host} can't be reached. Is a firewall between, or preview_proxy not set?",
    ),
    (
        r"SSL certificate problem|server (certificate )?verification failed|SSL: ",
        "{where}: the certificate of {host} is not trusted here. Name your own CA's file in"
        " preview_ca_file.",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        "{where}: this machine's disk is full. Make room where preview_state_dir lies.",
    ),
    (
        r"File too large|signal 25",
        "{where} is larger than {size} MiB. preview_source_max_size allows more.",
    ),
    (
        r"[Oo]ut of memory|mmap failed|Cannot allocate memory|unable to create thread",
        "{where}: git needed more memory than it is given. The repository holds very large files.",
    ),
    (
        r"dubious ownership",
        "{where} belongs to another user, so git does not open it. Let the user who runs Ansible"
        " own it, or use another address.",
    ),
    (
        r"possible repository corruption on the remote side|lazy fetching disabled",
        "{where} lacks objects of commit {commit}: it is broken or a partial clone. Clone without"
        " --filter, or leave preview_checkout out.",
    ),
    (
        r"fsck error|invalid path|unable to create file|File name too long|in a pack index"
        r"|error in object|hasDot|invalid value of",
        "{where}: commit {commit} holds what a repository must not, such as a path named .git.",
    ),
)


def _missing_ref(text: str) -> bool:
    return "couldn't find remote ref" in text or "Remote branch" in text


def _check(commit: str, origin: Origin) -> str:
    """The protocol to use. Raises SourceRefused for what is no commit, URL or reference."""
    if not _COMMIT.fullmatch(commit):
        raise SourceRefused(
            "{0!r} is no commit: its 40 hexadecimal digits are needed, no branch and no"
            " shortened form.".format(commit)
        )
    if origin.ref is not None and not _is_ref(origin.ref):
        raise SourceRefused(
            "{0!r} is no reference: one like refs/pull/42/head is needed.".format(origin.ref)
        )
    if not _USER.fullmatch(origin.user):
        raise SourceRefused("{0!r} is no user name that git can send.".format(origin.user))
    if origin.token and not re.fullmatch(r"[\x21-\x7e]+", origin.token):
        raise SourceRefused("the token (preview_source_token) has spaces or control characters.")
    if origin.checkout:
        return "file"
    url = origin.url or ""
    shown = re.sub(r"://[^/@]*@", "://********@", url)
    web = _WEB.fullmatch(url)
    if web is not None:
        if web["scheme"] == "http" and origin.token and not _LOOPBACK.fullmatch(web["host"]):
            raise SourceRefused("{0}: a token is sent over https only.".format(shown))
        return web["scheme"]
    if re.match(r"https?://[^/]*@", url):
        raise SourceRefused(
            "{0} has a name or password in it, which would end up in logs. Leave it out, and set"
            " preview_source_token.".format(shown)
        )
    ssh = _SSH.fullmatch(url)
    if ssh is not None:
        if origin.key_file and not os.path.isfile(origin.key_file):
            raise SourceRefused(
                "there is no deploy key at {0} on this machine.".format(origin.key_file)
            )
        return "ssh"
    if _FILE.fullmatch(url):
        return "file"
    raise SourceRefused(
        "{0!r} is no repository's address: https://…, ssh://…, user@host:path or the absolute path"
        " of a folder is needed.".format(shown)
    )


def _is_ref(ref: str) -> bool:
    """git check-ref-format, and under refs/."""
    return (
        re.fullmatch(r"refs(/[^\x00-\x20\x7f~^:?*\[\\/]+)+", ref) is not None
        and re.search(r"\.\.|@\{|\.lock(/|\Z)|/\.|\.(/|\Z)", ref) is None
        and len(ref) <= 255
    )


def _host(url: str) -> str:
    web, ssh = _WEB.fullmatch(url), _SSH.fullmatch(url)
    return web["host"] if web else (ssh["host"] or ssh["scp"]) if ssh else "this machine"


def _checkout_objects(checkout: str) -> str:
    """The folder of objects of a checkout, when nothing in it leads elsewhere."""
    git_dir = os.path.join(os.path.abspath(checkout), ".git")
    objects = os.path.join(git_dir, "objects")
    for folder in (git_dir, objects):
        if os.path.islink(folder) or not os.path.isdir(folder):
            raise SourceRefused(
                "{0} is no folder: preview_checkout needs an ordinary checkout, no worktree,"
                " submodule or link.".format(folder)
            )
    if re.search(r"[\x00-\x1f\x7f]", objects):
        raise SourceRefused("{0!r}: a path with control characters.".format(checkout))
    for name in ("alternates", "http-alternates"):
        if os.path.lexists(os.path.join(objects, "info", name)):
            raise SourceRefused(
                "{0} borrows objects from another repository (objects/info/{1}), which is not"
                " followed. Clone without --reference and --shared, or leave preview_checkout"
                " out.".format(checkout, name)
            )
    for folder, folders, files in os.walk(objects):
        for name in folders + files:
            path = os.path.join(folder, name)
            if os.path.islink(path) or not (os.path.isdir(path) or os.path.isfile(path)):
                raise SourceRefused(
                    "{0} is neither file nor folder; what code that ran in CI has put there is not"
                    " followed. Use a fresh checkout.".format(path)
                )
    return objects


def _system_certificates() -> str:
    named = os.environ.get("GIT_SSL_CAINFO") or os.environ.get("SSL_CERT_FILE") or ""
    return next(filter(None, map(_read, (named, *_BUNDLES))), "")


def _make_private(folder: str) -> None:
    """Make a folder, and those above it that are missing, for this user alone."""
    umask = os.umask(0o077)
    try:
        os.makedirs(folder, exist_ok=True)
    finally:
        os.umask(umask)


def _sweep(dest: str) -> None:
    """Remove what a killed run left."""
    for name in os.listdir(dest):
        if name.startswith(".source-"):
            shutil.rmtree(os.path.join(dest, name), ignore_errors=True)


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as handle:
            return handle.read(1 << 20)
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    with open(path, "w") as handle:
        handle.write(text)


def _remove(path: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)


def _settle(path: str, files: str, keep: str) -> None:
    """Put the tree `files` at `path`, and remove what lies beside it but the tree of `keep`."""
    parent, name = os.path.split(path)
    if not os.path.isdir(parent):
        os.mkdir(parent, 0o700)
    for other in os.listdir(parent):
        if other not in (name, keep):
            # By name at once, so that what a killed run leaves is never half a tree.
            os.rename(os.path.join(parent, other), files + ".old." + other)
    # One that is there is whole, and containers may hold its very files.
    if not os.path.isdir(path):
        os.rename(files, path)


def _replace(path: str, new: str) -> None:
    """Put the folder `new` in the place of `path`, whose old content goes to where `new` was."""
    old = new + ".old"
    if os.path.lexists(path):
        os.rename(path, old)
    os.rename(new, path)


def _lfs_missing(files: str) -> List[str]:
    attributes = os.path.join(files, ".gitattributes")
    if os.path.islink(attributes) or "filter=lfs" not in _read(attributes):
        return []
    return ["files kept in Git LFS are exported as pointers: LFS is not fetched"]
