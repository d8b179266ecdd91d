"""Reports: what people, forges and CI read of a run."""

from __future__ import annotations

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _announce

PREVIEW = {
    "name": "shop-pr-42",
    "app": "shop",
    "number": 42,
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "url": "https://shop-pr-42.preview.example.com",
    "host": "shop-pr-42.preview.example.com",
    "web": "web",
    "notes": ["services.web.restart is ignored"],
    "services": [
        {
            "name": "web",
            "health": {"path": "/healthz"},
            "expose": {"url": "https://shop-pr-42.preview.example.com"},
        },
        {"name": "db", "health": None, "expose": None},
    ],
}
PROGRESS = {"stages": [{"name": "source", "start": 10, "end": 12}, {"name": "build", "start": 12}]}


def report(outcome, **failure):
    return _announce.report(PREVIEW, PROGRESS, outcome, failure, now=20)


def test_a_ready_preview_has_links_services_and_timings():
    of = report("ready")
    assert of["links"]["health"] == PREVIEW["url"] + "/healthz"
    assert of["links"]["docs"] == PREVIEW["url"] + "/docs"
    assert of["services"] == {"web": PREVIEW["url"]}
    assert of["stages"] == [{"name": "source", "seconds": 2}, {"name": "build", "seconds": 8}]
    assert _announce.lines(of)[0] == f"shop-pr-42 is ready: {PREVIEW['url']}"


def test_a_failure_names_stage_sentence_and_log_and_gives_no_links():
    of = report("failed", msg="web exits at start.", log=[f"line {n}" for n in range(50)])
    assert of["failure"]["stage"] == "build"
    assert of["failure"]["log"] == [f"line {n}" for n in range(30, 50)]
    assert of["links"] == {}
    assert "failed at stage build: web exits at start." in _announce.lines(of)[0]


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J\x1b[31mred",
        "::set-output name=x::y",
        "##[group]x",
        "  ::error::x",
        "a\x07b\x00c",
        "app: ##vso[task.setvariable variable=PATH]/tmp/evil",
        "x ##[set-output name=url]https://evil.example",
        "\x9b2J\u202egnp.exe",
    ],
)
def test_log_text_steers_neither_terminal_nor_ci(hostile):
    safe = _announce.harmless(hostile)
    assert not set(safe) & set("\x1b\x07\x00\x9b\u202e")
    assert "##[" not in safe and "##vso[" not in safe
    # Runners know a command at the start of a line, white space apart.
    assert not safe.lstrip().startswith(("::", "##["))
    told = _announce.lines(report("failed", msg="m", log=[hostile]))
    assert not any(line.lstrip().startswith(("::", "##[")) for line in told)


def test_a_log_cannot_end_its_code_block():
    text = _announce.markdown(report("failed", msg="m", log=["```", "# not a heading", "````"]))
    fence = next(line for line in text.splitlines() if line.startswith("`"))
    assert len(fence.removesuffix("text")) == 5
    assert text.count(fence.removesuffix("text") + "\n") >= 1


def test_step_outputs_are_one_line_each():
    out = _announce.step_outputs(report("ready"))
    assert out.splitlines() == [
        "outcome=ready",
        "name=shop-pr-42",
        f"url={PREVIEW['url']}",
        f"host={PREVIEW['host']}",
    ]
