# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Variables in Compose files and .env files, held against Compose itself."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _interpolate, _yaml
from ansible_collections.ephemera.preview.plugins.module_utils._interpolate import (
    DotenvError,
    Missing,
    TemplateError,
    Variables,
)
from definitions import compose_program
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KNOWN = {"A": "one", "B": "", "LONG_1": "$A ${B}", "_x": "under"}


def substitute(text: str) -> tuple[str, list[Missing]]:
    missing: list[Missing] = []
    return _interpolate.substitute(text, KNOWN.get, missing), missing


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("$A", "one"),
        ("${A}s", "ones"),
        ("$$A", "$A"),
        ("$_x-", "under-"),
        ("${B:-d}", "d"),
        ("${B-d}", ""),
        ("${N:-d}", "d"),
        ("${N-}", ""),
        ("${N:+x}", ""),
        ("${A:+x}", "x"),
        ("${B+x}", "x"),
        ("${N:-${A}}", "one"),
        ("${N:-${M:-deep}}/${A}", "deep/one"),
        ('${N:-{"a": 1}}', '{"a": 1}'),
        ("${A:?needed}", "one"),
        ("${N:-a$$b}", "a$b"),
        ("$LONG_1", "$A ${B}"),
        ("${A:-${N}}", "one"),
    ],
)
def test_substitute(text: str, value: str) -> None:
    assert substitute(text) == (value, [])


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("$N/${M}", [Missing("N"), Missing("M")]),
        ("${N:?set it}", [Missing("N", "set it")]),
        ("${B:?}", [Missing("B")]),
        ("${B?}", []),
        ("${N:-${M}}", [Missing("M")]),
        ("${N?${A}}", [Missing("N", "one")]),
    ],
)
def test_what_has_no_value_is_named(text: str, missing: list[Missing]) -> None:
    assert substitute(text)[1] == missing


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("$", "$ is no variable; write $$"),
        ("a$1", "$1 is no variable"),
        ("${}", "${} is no variable"),
        ("${A", "${A is not closed"),
        ("${A:-{}", "${A is not closed"),
        ("${A b}", "can't be read"),
        ("${A:b}", "can't be read"),
        ("${N:-a\nb}", "spans lines"),
        ("${A:-" * 20 + "}" * 20, "${A:-"),
        ("${N:-" * 20 + "}" * 20, "deeper than 16"),
    ],
)
def test_what_is_no_expression_is_refused(text: str, says: str) -> None:
    if text.startswith("${A:-${A:-"):
        assert substitute(text)[0] == "one"
        return
    with pytest.raises(TemplateError, match=re.escape(says)):
        substitute(text)


def test_growth_is_bounded() -> None:
    big = {"BIG": "x" * 60000}
    with pytest.raises(TemplateError, match="longer than 256 KiB"):
        _interpolate.substitute("$BIG" * 60000, big.get, [])
    filled = _interpolate.fill(["${BIG}"] * 5000, big.get)
    ((path, reason),) = filled.broken
    assert path == (17,) and "longer than 1024 KiB" in reason


def compose_config(tmp: Path, service: dict[str, Any], env: dict[str, str]) -> dict[str, Any]:
    """What Compose itself makes of a service, given variables as its environment."""
    document = {"services": {"s": dict(service, image="i")}}
    (tmp / "compose.yaml").write_text(_yaml.emit(document))
    argv = [compose_program(), "-f", "compose.yaml", "-p", "p", "--env-file", "/dev/null"]
    done = subprocess.run(
        [*argv, "config", "--format", "json"],
        cwd=tmp,
        env=dict(env, HOME=str(tmp)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return _interpolate.unescape(json.loads(done.stdout)["services"]["s"])


# No "{}" and no "{$": Compose miscounts braces there, where ours reads what was meant.
pieces = st.sampled_from(
    [
        "$A", "${A}", "$$", "${B:-x}", "${B-x}", "${N:-d}", "${N}", "$N", "${A:+y}", "${N:+y}",
        "${N-${A}}", "${B:-${N:-${A}}}", "${A:-${N}}", "${N:-{x}}", "${A?e}", "${A:?e f}", "}", "{",
        "a", " ", ":", "-", "é", "${N:-a-b:c?d+e}", "${N:-$$}", "${N:-}", "${LONG_1}", "${B+z}",
        '"', "'", "\\", "/", "${n:-low}", "${A}}", "#", "\n", "${N:-a}${N:-b}", "${A:-a}${N:-b}",
    ]
)  # fmt: skip
templates = st.lists(pieces, max_size=6).map("".join)
slow = settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@slow
@given(st.lists(templates, min_size=10, max_size=60))
def test_texts_are_filled_in_as_compose_does(tmp_path: Path, texts: list[str]) -> None:
    ours = {}
    for i, text in enumerate(texts):
        try:
            ours[f"K{i}"] = substitute(text)[0]
        except TemplateError:
            continue
    given_texts = {key: texts[int(key[1:])] for key in ours}
    theirs = compose_config(tmp_path, {"environment": given_texts}, KNOWN).get("environment", {})
    assert theirs == ours


DOTENV = """\
# comment
PLAIN=value # comment
  export QUOTED="a \\"b\\" $$x ${PLAIN} \\n \\$A"
SINGLE='$A ${B} \\' "'
YAMLISH: yes
EMPTY=
HASH=a#b
MULTI="one
two"
A.b-c[0]=x
AFTER='x' # comment
INHERIT
SPACED = v
"""


def test_dotenv() -> None:
    found = {entry.name: entry for entry in _interpolate.dotenv(DOTENV)}
    values = {
        name: _interpolate.evaluate(entry, {"PLAIN": "value", "x": "!"}.get, [])
        for name, entry in found.items()
    }
    assert values == {
        "PLAIN": "value",
        "QUOTED": 'a "b" $x value \n $A',
        "SINGLE": "$A ${B} ' \"",
        "YAMLISH": "yes",
        "EMPTY": "",
        "HASH": "a#b",
        "MULTI": "one\ntwo",
        "A.b-c[0]": "x",
        "AFTER": "x",
        "INHERIT": None,
        "SPACED": "v",
    }
    assert found["AFTER"].line == 11 and found["SPACED"].line == 13


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("A=1\nB C=1\n", 2, "no name"),
        ("A='x\n", 1, "not closed"),
        ("\n\n%=1\n", 3, "no assignment"),
        ("=1\n", 1, "no name"),
    ],
)
def test_a_broken_dotenv_names_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(DotenvError, match=says) as caught:
        _interpolate.dotenv(text)
    assert caught.value.line == line


names = st.sampled_from(["A", "B", "N", "Q", "R_1", "x.y", "d-e"])
quoted = st.text(alphabet="ab $A{}:-#\\ntr01\té", max_size=12)
values = (
    st.text(alphabet="ab #:=\\é'\"\t", max_size=10)
    | templates.map(lambda t: t.replace("\n", " "))
    | quoted.map(lambda t: f'"{t}"')
    | quoted.map(lambda t: f"'{t}'")
)
lines = st.one_of(
    st.tuples(st.sampled_from(["", "export ", "  "]), names, st.sampled_from("=:"), values).map(
        "".join
    ),
    names,
    st.sampled_from(["", "# c", "   # d=1", "A = 1", "A= 1 "]),
)


def file_of(lines: list[str]) -> str:
    # Compose trips over a bare name without a newline at the end of a file.
    return "".join(line + "\n" for line in lines)


@slow
@given(st.lists(st.lists(lines, max_size=8).map(file_of), min_size=5, max_size=25))
def test_env_files_are_read_as_compose_reads_them(tmp_path: Path, texts: list[str]) -> None:
    ours: dict[str, str] = {}
    files = []
    for i, text in enumerate(texts):
        values: dict[str, str] = dict(ours)
        try:
            for entry in _interpolate.dotenv(text):
                value = _interpolate.evaluate(entry, {**values, **KNOWN}.get, [])
                if value is not None:
                    values[entry.name] = value
        except DotenvError:
            continue
        ours = values
        (tmp_path / f"{i}.env").write_text(text)
        files.append(f"{i}.env")
    theirs = compose_config(tmp_path, {"env_file": files}, KNOWN).get("environment", {})
    assert theirs == ours


def test_a_grant_wins_over_files_and_a_later_file_over_an_earlier() -> None:
    variables = Variables({"A": "granted"})
    variables.read("A=file\nB=first\nC=${A}-${B}\n", ".env")
    variables.read("B=second\nD=$B\n", ".env.preview")
    assert [variables.get(name) for name in "ABCDE"] == [
        "granted", "second", "granted-first", "second", None,
    ]  # fmt: skip


def test_names_that_steer_programs_have_no_effect() -> None:
    variables = Variables({})
    variables.read("COMPOSE_FILE=/x\nDOCKER_HOST=tcp://x\ncompose_y=1\nA=1\n", ".env")
    assert [variables.get(n) for n in ("COMPOSE_FILE", "DOCKER_HOST", "compose_y")] == [None] * 3
    assert variables.ignored == [".env:1: COMPOSE_FILE", ".env:2: DOCKER_HOST", ".env:3: compose_y"]


def test_a_file_value_that_lacks_a_variable_is_no_value() -> None:
    variables = Variables({})
    variables.read("PATHS=$HOME/x\nUSES=${PATHS}\nFINE=${HOME:-/root}\n", ".env")
    assert variables.get("PATHS") is None and variables.get("USES") is None
    assert variables.unresolved["PATHS"] == [Missing("HOME")]
    assert variables.get("FINE") == "/root"


def test_a_dotenv_that_doubles_itself_ends() -> None:
    text = "A0=" + "x" * 1000 + "\n" + "".join(f"A{i}=$A{i - 1}$A{i - 1}\n" for i in range(1, 60))
    with pytest.raises(DotenvError, match="KiB|too long"):
        Variables({}).read(text, ".env")


@given(st.text(alphabet="A=:$ {}'\"\\\n#-?+é\texport", max_size=80))
@settings(max_examples=1000)
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    for attempt in (lambda: Variables(KNOWN).read(text, "f"), lambda: substitute(text)):
        try:
            attempt()
        except (DotenvError, TemplateError) as error:
            assert str(error)
