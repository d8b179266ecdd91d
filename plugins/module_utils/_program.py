# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One of our programs on a host: asked by standard input, it answers in one line of JSON.

A module of Ansible's is packed, sent and compiled anew in each task, which takes longer than most
of what a stage has to do. This code is sent once: a host keeps it, compiled, in Ansible's own
folder for temporary files, named by its content.

A program is the function ``run(params, check)`` of the file that bears its name; ``params`` have
been validated by its action plugin. It returns a task's result: ``changed``; or ``failed`` and
``msg``; and ``warnings``, sentences to show. What it raises is a fault of ours.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from types import ModuleType
from typing import Dict, NamedTuple

MISSING, TOO_OLD = 66, 67
"""``START`` ends so where the host has not got the code, or its Python is older than 3.8."""

PREFIX = "ephemera-preview-code-"
"""So each folder of code is called, and then by what is in it."""

_PACKAGE = __name__.rpartition(".")[0]

_FOLDER = """\
import os, stat, sys
if sys.version_info < (3, 8):
    sys.exit({too_old})
code = os.path.expanduser(os.path.expandvars(sys.argv[1]))
def is_ours():
    try:
        found = os.lstat(code)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
""".format(too_old=TOO_OLD)

# The folder of the code, the program's name, and the folder that it works on: by this a take-over
# of the lease knows what to end. Code of which a part is gone is no good, and goes.
START = (
    _FOLDER
    + """\
if not is_ours():
    sys.exit({missing})
os.utime(code)
sys.dont_write_bytecode = False
sys.path[:] = [code] + [path for path in sys.path if path]
try:
    from {package} import _program
    program = _program.load(sys.argv[2])
except ImportError as error:
    import shutil
    shutil.rmtree(code, ignore_errors=True)
    print(error, file=sys.stderr)
    sys.exit({missing})
_program.run(program)
""".format(missing=MISSING, package=_PACKAGE)
)

# The folder of the code, which comes by standard input. Whoever is first wins; of other versions,
# those go that nobody has used for a week.
INSTALL = (
    _FOLDER
    + """\
import json, shutil, tempfile, time
parent, name = os.path.split(code)
os.makedirs(parent, 0o700, exist_ok=True)
draft = tempfile.mkdtemp(prefix=name + ".", dir=parent)
try:
    for path, text in json.load(sys.stdin.buffer).items():
        path = os.path.join(draft, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
    try:
        os.rename(draft, code)
    except OSError:
        if not is_ours():
            raise
finally:
    shutil.rmtree(draft, ignore_errors=True)
for other in os.listdir(parent):
    path = os.path.join(parent, other)
    try:
        used = os.lstat(path).st_mtime
    except OSError:
        continue
    if other.startswith("{prefix}") and other != name and used < time.time() - 7 * 86400:
        shutil.rmtree(path, ignore_errors=True)
""".format(prefix=PREFIX)
)


class Code(NamedTuple):
    """What a host keeps: the folder's ``name``, and its ``files``, their text by their path."""

    name: str
    files: Dict[str, str]


def code() -> Code:
    """All that programs are made of: this folder, as the package that it is here."""
    here = os.path.dirname(os.path.abspath(__file__))
    packages = _PACKAGE.split(".")
    # Not namespaces: a host may have other parts of those, which would take their place.
    files = {"/".join([*packages[: n + 1], "__init__.py"]): "" for n in range(len(packages))}
    for name in sorted(os.listdir(here)):
        if name.endswith(".py"):
            with open(os.path.join(here, name), encoding="utf-8") as stream:
                files["/".join([*packages, name])] = stream.read()
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return Code(PREFIX + digest[:16], files)


def load(name: str) -> ModuleType:
    """The program of this name."""
    return importlib.import_module("{0}._{1}".format(_PACKAGE, name))


def run(program: ModuleType) -> None:
    """Run a program as standard input says."""
    request = json.load(sys.stdin.buffer)
    params = request["params"]
    for option in request["paths"]:
        if params[option]:
            params[option] = os.path.expanduser(os.path.expandvars(params[option]))
    json.dump(program.run(params, request["check"]), sys.stdout)
