# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""YAML of an unknown author: limits, and the same reading as Compose's."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml
from ansible_collections.ephemera.preview.plugins.module_utils import _yaml
from ansible_collections.ephemera.preview.plugins.module_utils._refusal import Refused
from hypothesis import given, settings
from hypothesis import strategies as st

LAUGHS = f"a: &a [{', '.join(['lol'] * 9)}]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(params=["C", "Python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both parsers PyYAML may have."""
    if request.param == "Python":
        monkeypatch.delattr(yaml, "CSafeLoader")
    return str(request.param)


def load(text: str | bytes, **limits: int) -> Any:
    data = text.encode() if isinstance(text, str) else text
    return _yaml.load(data, "compose.yaml", _yaml.LIMITS._replace(**limits)).value


def problem(text: str | bytes, **limits: int) -> str:
    with pytest.raises(Refused) as caught:
        load(text, **limits)
    (only,) = caught.value.problems
    return only


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("22:22", "22:22"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("~", None),
        ("", None),
        ("8000", 8000),
        ("0440", 288),
        ("0o440", 288),
        ("0x1F", 31),
        ("1_000", 1000),
        ("-3", -3),
        ("3.8", 3.8),
        ("1e3", 1000.0),
        ("2024-01-01", "2024-01-01"),
        ("'8000'", "8000"),
        ("!!str 8000", "8000"),
        ("!!int '8000'", 8000),
        (".inf", ".inf"),
        ("9" * 30, "9" * 30),
        ("089", "089"),
        ("=", "="),
    ],
)
def test_scalars_are_read_as_compose_reads_them(parser: str, text: str, value: Any) -> None:
    found = load(f"key: {text}\n")["key"]
    assert found == value and type(found) is type(value)


def test_aliases_and_merge_keys_become_plain_data_with_their_lines(parser: str) -> None:
    text = """\
base: &base
  image: a
  tty: true
more: &more {tty: false, init: true}
web:
  <<: [*base, *more]
  image: b
deep:
  <<:
    <<: *base
    user: root
"""
    document = _yaml.load(text.encode(), "compose.yaml")
    assert document.value["web"] == {"image": "b", "tty": True, "init": True}
    assert document.value["deep"] == {"image": "a", "tty": True, "user": "root"}
    assert document.lines[("web", "image")] == 7
    assert document.lines[("web", "tty")] == 3
    assert document.lines[("web", "init")] == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\n---\nb: 2\n", "compose.yaml:2: a second document begins"),
        ("a: 1\nb: 2\na: 3\n", "compose.yaml:3: the key a stands here twice."),
        ("a: !reset null\n", "compose.yaml:1: the tag !reset is refused"),
        ("a: !override {b: 1}\n", "compose.yaml:1: the tag !override is refused"),
        ("a: !override\n  - b\n", "compose.yaml:1: the tag !override is refused"),
        ("a: !!python/object/apply:os.system [id]\n", "!!python/object/apply:os.system is refused"),
        ("a: !!binary aGk=\n", "the tag !!binary is refused"),
        ("a: !!int x\n", "x is no !!int"),
        ("a: !vault |\n  x\n", "the tag !vault is refused"),
        ("a: &x [*x]\n", "*x stands within itself"),
        ("a: *x\n", "x"),
        ("a: [1\n", "is not YAML"),
        ("\tx: 1\n", "is not YAML"),
        ('a: "\\e"\n', "control character"),
        ('a: "\\uD800"\n', ""),
        ('a: "\\UFFFFFFFF"\n', ""),
        ("1: x\n", "a key must be a text"),
        ("[a]: x\n", "a key must be a text"),
        ("true: x\n", "a key must be a text"),
        ("k" * 300 + ": x\n", "a key is longer than 256 characters"),
        ("<<: 1\n", "<< takes a mapping"),
        ("<<: [1]\n", "<< takes a mapping"),
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("%YAML 3.0\n---\na: 1\n", "is not YAML"),
    ],
)
def test_what_is_no_single_plain_document_is_refused(parser: str, text: str, says: str) -> None:
    assert says in problem(text)


@pytest.mark.parametrize("data", [b"\xff\xfea\x00", b"a: \xff\n", "a: é\n".encode("latin-1")])
def test_other_encodings_are_refused(data: bytes) -> None:
    assert "is not UTF-8 text" in problem(data)


def test_limits(parser: str) -> None:
    assert "larger than 256 KiB" in problem(b"a" * (256 * 1024 + 1))
    assert "nested deeper than 32 levels" in problem("[" * 40 + "]" * 40)
    assert "nested deeper than 3 levels" in problem("a: &x [[1]]\nb: [*x]\n", depth=3)
    assert load("a: &x [1, 2]\nb: *x\n", nodes=9) == {"a": [1, 2], "b": [1, 2]}
    assert "more than 8 values" in problem("a: &x [1, 2]\nb: *x\n", nodes=8)
    text = f"x: &x {'t' * 200000}\n" + "".join(f"k{i}: *x\n" for i in range(10))
    assert "1024 KiB" in problem(text)


@pytest.mark.parametrize(
    "bomb",
    [
        LAUGHS,
        "[" * 10000,
        "[" * 10000 + "]" * 10000,
        "{a: " * 10000,
        "- " * 10000,
        "? " * 10000,
        "a: &a\n" + "".join(f"k{i}: &k{i} [*a, *a]\n" for i in range(20000)),
        "x: " + "&a " * 5000,
        "".join(f"{' ' * (i % 900)}a{i}:\n" for i in range(1000)),
        "a: '" + "\\" * 250000,
        "!" * 250000,
        "<<: {" * 5000,
        "a: &a {b: c}\n" + "z: {<<: [" + "*a, " * 9000 + "]}",
    ],
    ids=range(13),
)
def test_bombs_end_at_once(parser: str, bomb: str) -> None:
    started = time.monotonic()
    problem(bomb[: 256 * 1024])
    assert time.monotonic() - started < 5


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)


@given(plain)
def test_what_is_emitted_is_read_back(value: Any) -> None:
    assert yaml.safe_load(_yaml.emit(value)) == value


@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,? \n\t<\\0é\U0001f600", max_size=60))
@settings(max_examples=1000)
def test_no_text_does_anything_but_load_or_be_refused(text: str) -> None:
    try:
        value = load(text)
    except Refused as refusal:
        assert all(p.startswith("compose.yaml") for p in refusal.problems)
    else:
        json.dumps(value)
        assert load(_yaml.emit(value)) == value or "<<" in text


@given(st.binary(max_size=60))
def test_no_bytes_do_either(data: bytes) -> None:
    try:
        load(data)
    except Refused as refusal:
        assert refusal.problems
