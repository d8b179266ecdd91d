# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a checkout that nobody trusts: what a path leads to, without ever following a link."""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from typing import Iterator, NamedTuple, Optional, Tuple


class PathRefused(Exception):
    """A path that can't be used. The message is the reason, without a full stop."""


class Bounds(NamedTuple):
    """How much of a folder is hashed: files, bytes, levels."""

    files: int = 100000
    size: int = 2 << 30
    depth: int = 64


BOUNDS = Bounds()


class Checkout:
    """The files below one folder. Paths are relative, with ``/``; "" is the folder itself."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, base: str, value: str) -> str:
        """``value``, written in a file in the folder ``base``, relative to the checkout."""
        joined = posixpath.normpath(posixpath.join(base or ".", value))
        if joined.startswith("/") or joined.split("/")[0] == "..":
            raise PathRefused("it leads out of the repository")
        return "" if joined == "." else joined

    def kind(self, path: str) -> str:
        """``file``, ``folder``, or "" where nothing is. Links and special files are refused."""
        at = self.root
        parts = [part for part in path.split("/") if part]
        mode = stat.S_IFDIR
        for i, part in enumerate(parts):
            if not stat.S_ISDIR(mode):
                raise PathRefused("{0} is no folder".format("/".join(parts[:i])))
            at = os.path.join(at, part)
            try:
                mode = os.lstat(at).st_mode
            except FileNotFoundError:
                return ""
            except (OSError, ValueError) as error:
                raise PathRefused(
                    "it can't be looked at: {0}".format(getattr(error, "strerror", "") or "no path")
                ) from None
            if stat.S_ISLNK(mode):
                raise PathRefused(
                    "{0} is a symbolic link. Name the file it stands for".format(
                        "/".join(parts[: i + 1])
                    )
                )
        if stat.S_ISDIR(mode):
            return "folder"
        if stat.S_ISREG(mode):
            return "file"
        raise PathRefused("it is no regular file")

    def must(self, path: str, kind: str) -> None:
        """Refuse a path that is not of this kind (``file``, ``folder``, or "" for either)."""
        found = self.kind(path)
        if not found:
            raise PathRefused("it does not exist in the repository")
        if kind and found != kind:
            raise PathRefused("it is a {0}, not a {1}".format(found, kind))

    def read(self, path: str, most: int) -> bytes:
        """The bytes of a regular file; one with more than ``most`` is refused."""
        self.must(path, "file")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(os.path.join(self.root, path), flags)
        except OSError as error:
            raise PathRefused("it can't be read: {0}".format(error.strerror)) from None
        with os.fdopen(fd, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise PathRefused("it is no regular file")
            data = stream.read(most + 1)
        if len(data) > most:
            raise PathRefused("it is larger than {0} KiB".format(most >> 10))
        return data

    def text(self, path: str, most: int) -> str:
        """The same as text in UTF-8."""
        try:
            return self.read(path, most).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise PathRefused("it is not UTF-8 text") from None

    def files(self, path: str, most: int) -> Iterator[Tuple[str, bytes]]:
        """Each regular file at a path or below it, by its own path; more than ``most`` bytes in
        all are refused, and links."""
        path = path.rstrip("/")
        if self.kind(self.path("", path)) == "file":
            yield path, self.read(path, most)
            return
        left = most
        for name, _full, mode in self._below(self.path("", path), BOUNDS.depth):
            if not stat.S_ISREG(mode):
                raise PathRefused("{0} is no regular file".format(name))
            data = self.read(posixpath.join(path, name), left)
            left -= len(data)
            yield posixpath.join(path, name), data

    def digest(self, path: str, bounds: Bounds = BOUNDS) -> str:
        """One value for all that lies at a path: names, contents, executable bits, link targets."""
        total = hashlib.sha256()
        files = size = 0
        for name, full, mode in self._below(path, bounds.depth):
            files += 1
            if files > bounds.files:
                raise PathRefused(
                    "it holds more than {0} files. List what a build does not need "
                    "in .gitignore".format(bounds.files)
                )
            content = hashlib.sha256()
            if stat.S_ISLNK(mode):
                content.update(os.readlink(full).encode("utf-8", "surrogateescape"))
            elif stat.S_ISREG(mode):
                for block in self._blocks(full):
                    size += len(block)
                    if size > bounds.size:
                        raise PathRefused("it holds more than {0} MiB".format(bounds.size >> 20))
                    content.update(block)
            else:
                continue
            kind = "l" if stat.S_ISLNK(mode) else "x" if mode & 0o100 else "-"
            entry = name.encode("utf-8", "surrogateescape")
            total.update(b"%d:%s" % (len(entry), entry))
            total.update(kind.encode() + content.digest())
        return total.hexdigest()

    def _below(self, path: str, depth: int) -> Iterator[Tuple[str, str, int]]:
        start = os.path.join(self.root, path) if path else self.root
        mode = os.lstat(start).st_mode
        if not stat.S_ISDIR(mode):
            yield "", start, mode
            return
        pending = [("", start, depth)]
        while pending:
            prefix, folder, left = pending.pop()
            if not left:
                raise PathRefused("it is nested too deep")
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
            for entry in ordered:
                name = prefix + entry.name
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    if entry.name != ".git":
                        pending.append((name + "/", entry.path, left - 1))
                else:
                    yield name, entry.path, mode

    def _blocks(self, full: str) -> Iterator[bytes]:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(full, flags), "rb") as stream:
            while True:
                block = stream.read(1 << 20)
                if not block:
                    return
                yield block


def compose_file(checkout: Checkout, wanted: Optional[str]) -> str:
    """Which file is the definition: the one that is set, else the first that Compose looks for."""
    names = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"]
    if wanted:
        path = checkout.path("", wanted)
        checkout.must(path, "file")
        return path
    for name in names:
        if checkout.kind(name):
            checkout.must(name, "file")
            return name
    raise PathRefused(
        "there is none of {0} at the root of the repository. Add one, or set preview_compose_file "
        "to where it is".format(", ".join(names))
    )
