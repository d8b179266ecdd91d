# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is seen of a Dockerfile before it is built."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _dockerfile
from ansible_collections.ephemera.preview.plugins.module_utils._checks import Images
from hypothesis import given
from hypothesis import strategies as st


def problems(text: str, **options: Any) -> list[str]:
    return _dockerfile.problems(text, "Dockerfile", options.pop("args", {}), **options)


@pytest.mark.parametrize(
    "head",
    [
        "# syntax=evil/frontend\n",
        "#syntax = evil/frontend:1 # note\n",
        "# SYNTAX=evil/frontend\r\n",
        "\ufeff# syntax=evil/frontend\n",
        "#!/usr/bin/env x\n# syntax=evil/frontend\n",
        "# escape=`\n# syntax=evil/frontend\n",
        "# check=skip=all\n# syntax=evil/frontend\n",
        "// syntax=evil/frontend\n",
        '{"syntax": "evil/frontend"}',
        '{"Syntax": "evil/frontend"}',
        '#!/x\n{"a": 1,\n "syntax": "evil/frontend"}',
        "# syntax=docker/dockerfile-upstream:master\n",
        "# syntax=docker/dockerfile:2\n",
        "# syntax=docker/dockerfile:1/../evil\n",
        "# syntax=evil.org/docker/dockerfile:1\n",
        "# syntax=docker/dockerfile:1@sha256:0\n",
        "# syntax=docker/dockerfile:1-labs\n",
        "# syntax=docker/dockerfile:1.7-labs\n",
        "# syntax=docker/dockerfile:1.1-experimental\n",
        "# syntax=docker/dockerfile:1.0.2-experimental@sha256:" + "0" * 64 + "\n",
        "# syntax=docker/dockerfile:1.\n",
    ],
)
def test_other_frontends_are_refused(head: str) -> None:
    (only,) = problems(head + ("\nFROM scratch\n" if "{" not in head else ""))
    assert only.startswith("Dockerfile: # syntax=") and "preview_build_frontends" in only


@pytest.mark.parametrize(
    "head",
    [
        "",
        "# syntax=docker/dockerfile:1\n",
        "# syntax=docker/dockerfile:1.7.1\n",
        "# syntax=docker.io/docker/dockerfile:1.4\n",
        "# syntax=docker/dockerfile:1@sha256:" + "0" * 64 + "\n",
        "# plain comment\n",
        "FROM x\n# syntax=evil/frontend\n",
    ],
)
def test_the_usual_frontends_pass(head: str) -> None:
    assert problems(head + "FROM scratch\n") == []


def test_a_setting_lists_more_frontends() -> None:
    lists = ("acme/front:*", "docker/dockerfile:1-labs")
    for frontend in ("acme/front:3", "acme/front:3.1", "docker.io/docker/dockerfile:1-labs"):
        assert problems(f"# syntax={frontend}\nFROM a", frontends=lists) == []
        other = f"# syntax={frontend}@sha256:{'0' * 64}\nFROM a"
        assert problems(other, frontends=lists), "what is pulled is what is listed"
    assert problems("# syntax=acme/front:3-evil\nFROM a", frontends=lists)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("FROM a:1\nLABEL ephemera.preview/owner=x\n", 2),
        ("FROM a:1\nLABEL a=b \\\n  # c\n  'ephemera.preview/name'=x\n", 2),
        ("FROM a:1\nONBUILD label Ephemera.Preview/owner=x\n", 2),
        ("# escape=`\nFROM a:1\nLABEL a=b `\n ephemera.preview/name=x\n", 3),
        ("FROM a:1\nRUN <<EOF\nEOF\nLABEL ephemera.preview/owner=x\n", 4),
        ("FROM a:1\nRUN <<X\nLABEL ephemera.preview/owner=x\nX\n", 3),
    ],
)
def test_our_labels_are_refused(text: str, line: int) -> None:
    (only,) = problems(text)
    assert only.startswith(f"Dockerfile:{line}: LABEL ephemera.preview/")


@pytest.mark.parametrize(
    "text",
    [
        "FROM ephemera-preview/shop-pr-41/web:1\n",
        "FROM --platform=linux/amd64 docker.io/ephemera-preview/x AS b\n",
        "ARG BASE=ephemera-preview/x\nFROM ${BASE}\n",
        "ARG BASE\nFROM $BASE:1\n",
        "FROM a:1\nCOPY --from=ephemera-preview/x / /\n",
        "FROM a:1\nRUN --mount=type=bind,from=ephemera-preview/x,target=/x true\n",
        "FROM a:1\nRUN \\\n  --mount=from=ephemera-preview/x true\n",
    ],
)
def test_images_of_previews_are_no_base(text: str) -> None:
    (only,) = problems(text, args={"BASE": "ephemera-preview/y"})
    assert "previews don't share images" in only


def test_a_list_of_images_holds_for_bases() -> None:
    text = """\
ARG V=3.12
FROM python:${V} AS base
FROM base
COPY --from=base /a /a
COPY --from=0 /a /a
COPY --from=tools /a /a
RUN cat <<EOF
from os import path
EOF
FROM scratch
FROM evil:1
FROM ${UNKNOWN}
"""
    assert problems(text, contexts=["tools"]) == []
    found = problems(text, contexts=["tools"], images=Images(("python:3.*",)))
    assert [each.split(" is refused")[0] for each in found] == [
        "Dockerfile:11: image evil:1",
        "Dockerfile:12: image ${UNKNOWN}",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "#" + " " * 250000 + "x",
        "# syntax=a" + " " * 250000 + "x",
        "\n" * 250000,
        "RUN <<A\n" * 30000,
        "FROM " + "--a " * 60000,
        "FROM a AS b\n" * 20000,
        "\\\n" * 120000,
        '{"a":' * 40000,
        "FROM " + "${A:-" * 40000,
        "LABEL " * 40000,
        "# escape\n" * 25000,
    ],
    ids=range(11),
)
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    problems(text)
    assert time.process_time() - started < 10


def doubling(words: str, times: int = 25) -> str:
    return "".join(words.format(i + 1, i) + "\n" for i in range(times))


@pytest.mark.parametrize(
    "text",
    [
        doubling("ARG A{0}=$A{1}$A{1}") + "FROM $A25\n",
        "FROM a\n" + "ENV A=aa$A$A\n" * 25,
        "FROM a\n" + "ENV A ${A}${A}\n" * 25,
        "FROM a\n" + 'ONBUILD ENV A="$A $A"\n' * 25,
        "FROM a\n" + 'ENV "A"=$A$A\n' * 25,
        "FROM a\n" + 'ENV A=xx\nENV "A"=$A$A\n' * 25,
        "FROM a\n" + 'ARG foo "A"=$A$A\n' * 25,
        "FROM a\nARG A=" + "x" * 4000 + "\nENV B=${A//x/$A}\nENV C=${B//x/$A}\n",
        "FROM a\nRUN true \\\\\n" + "ENV A=aa$A$A\n" * 25,
        "# a comment\n# escape=`\nFROM a\nRUN true `\n" + "ENV A=aa$A$A\n" * 25,
        "FROM a\nRUN <<X\n" + "ENV A=aa$A$A\n" * 25 + "X\n",
        "FROM a\nENV A=" + "x" * 200000 + "\n" + "RUN true\n" * 500,
        "RUN true\n" * 6000,
    ],
    ids=range(13),
)
def test_what_would_take_all_memory(text: str) -> None:
    started = time.process_time()
    (only,) = problems(text)
    assert "filled in it is longer than 8 MiB by line" in only or "instructions" in only
    assert time.process_time() - started < 10


def test_what_is_long_and_takes_little() -> None:
    text = "ARG V=3\nFROM python:$V\nENV PATH=/opt/app/bin:$PATH LD=$PATH:$LD\nENV A b c\n"
    script = 'RUN for f in *.txt; do echo "${f//.txt/.md}" "${f%.*}" $HOME/bin >>$out; done\n'
    assert problems("".join(text + script * 20 for _stage in range(30))) == []


@given(st.text(alphabet="FROMARGLABEL \\\n#`<{}$=:/-abc\"'", max_size=200))
def test_any_text_gives_sentences(text: str) -> None:
    assert all(isinstance(each, str) for each in problems(text, images=Images(("a",))))
