"""Real git repositories with pull requests, as a forge would serve them.

A bare repository holds the app's code on `main` and each pull request at `refs/pull/N/head`.
Commits are written straight into it, with fixed dates and identity: the same content gives the
same SHA, and nobody's git configuration is read or changed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHOP = EXAMPLES / "shop"
BRANCHES = EXAMPLES / "branches"

_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Shop developers",
    "GIT_AUTHOR_EMAIL": "developers@example.com",
    "GIT_AUTHOR_DATE": "2025-01-01T12:00:00Z",
    "GIT_COMMITTER_NAME": "Shop developers",
    "GIT_COMMITTER_EMAIL": "developers@example.com",
    "GIT_COMMITTER_DATE": "2025-01-01T12:00:00Z",
}


@dataclass(frozen=True)
class Repository:
    """A bare repository."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> Repository:
        """Make `path` a bare repository; one that is there already is kept."""
        path.mkdir(parents=True, exist_ok=True)
        repository = cls(path)
        repository.git("init", "--quiet", "--bare", "--initial-branch=main", ".")
        return repository

    @property
    def url(self) -> str:
        return self.path.as_uri()

    def head(self, ref: str) -> str:
        """The SHA of the commit `ref` points to."""
        return self.git("rev-parse", "--verify", f"{ref}^{{commit}}")

    def commit(
        self,
        ref: str,
        message: str,
        *,
        parent: str | None = None,
        tree: Path | None = None,
        patch: str | None = None,
        files: Mapping[str, str | bytes | None] | None = None,
    ) -> str:
        """Write one commit, point `ref` to it and return its SHA.

        It starts from `parent` (a ref or SHA; none: an empty tree). `tree` replaces everything by
        a folder's content as its .gitignore lets it through, `patch` is applied, and `files` are
        written last (content, or None to delete).
        """
        with tempfile.TemporaryDirectory() as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch, "index"))}
            if parent is not None:
                self.git("read-tree", parent, **index)
            if tree is not None:
                self.git("--work-tree", str(tree), "add", "--all", str(tree), **index)
            if patch is not None:
                self.git("apply", "--cached", "-", stdin=patch, **index)
            for name, content in (files or {}).items():
                if content is None:
                    self.git("update-index", "--force-remove", name, **index)
                else:
                    blob = self.git("hash-object", "-w", "--stdin", stdin=content)
                    self.git(
                        "update-index", "--add", "--cacheinfo", f"100644,{blob},{name}", **index
                    )
            written = self.git("write-tree", **index)
        parents = [] if parent is None else ["-p", self.head(parent)]
        sha = self.git("commit-tree", written, *parents, stdin=message + "\n")
        self.git("update-ref", ref, sha)
        return sha

    def pull_request(self, number: int, message: str, **change: Any) -> str:
        """One more commit on pull request `number`, which starts from main; see `commit`."""
        ref = pull_ref(number)
        exists = self.git("for-each-ref", "--format=%(refname)", ref)
        return self.commit(ref, message, parent=ref if exists else "refs/heads/main", **change)

    def git(self, *arguments: str, stdin: str | bytes = "", **environment: str) -> str:
        """Run git in this repository and return what it printed."""
        done = subprocess.run(
            ["git", "--git-dir", str(self.path), *arguments],
            cwd=self.path,
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            env=_ENVIRONMENT | environment,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise RuntimeError(f"git {' '.join(arguments)} failed in {self.path}: {said}")
        return done.stdout.decode().strip()


def pull_ref(number: int) -> str:
    """Where GitHub, Gitea and Forgejo serve a pull request's newest commit."""
    return f"refs/pull/{number}/head"


def shop(path: Path) -> tuple[Repository, dict[int, str]]:
    """The example app with its two pull requests; returns their commits by number.

    Making it again at the same place brings it back to this state. Each patch in examples/branches
    is `<number>-<name>.patch`; what stands above its diff is the commit's message.
    """
    repository = Repository.create(path)
    repository.commit("refs/heads/main", "A small shop", tree=SHOP)
    commits = {}
    for file in sorted(BRANCHES.glob("*.patch")):
        number = int(file.name.split("-")[0])
        message, diff = file.read_text().split("diff --git", 1)
        commits[number] = repository.commit(
            pull_ref(number), message.strip(), parent="refs/heads/main", patch="diff --git" + diff
        )
    return repository, commits


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the example app's repository.")
    parser.add_argument("path", type=Path, help="folder of the bare repository, made if missing")
    dummy, commits = shop(parser.parse_args().path.resolve())
    for number, sha in commits.items():
        print(number, sha)


if __name__ == "__main__":
    main()
