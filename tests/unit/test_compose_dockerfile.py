# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is seen of a Dockerfile before it is built."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _dockerfile
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
        "# syntax=docker/dockerfile:1.7-labs\n",
        "# syntax=docker.io/docker/dockerfile:1.4\n",
        "# syntax=docker/dockerfile:1@sha256:" + "0" * 64 + "\n",
        "# plain comment\n",
        "FROM x\n# syntax=evil/frontend\n",
    ],
)
def test_the_usual_frontends_pass(head: str) -> None:
    assert problems(head + "FROM scratch\n") == []


def test_a_setting_lists_more_frontends() -> None:
    assert problems("# syntax=acme/front:3\nFROM a", frontends=("acme/front:*",)) == []


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
    found = problems(text, contexts=["tools"], images=("python:3.*",))
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
    started = time.monotonic()
    problems(text)
    assert time.monotonic() - started < 3


@given(st.text(alphabet="FROMARGLABEL \\\n#`<{}$=:/-abc\"'", max_size=200))
def test_any_text_gives_sentences(text: str) -> None:
    assert all(isinstance(each, str) for each in problems(text, images=("a",)))
