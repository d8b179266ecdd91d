"""What teardown takes for a preview's own; its work on a real engine is in tests/integration."""

from __future__ import annotations

import json

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _docker, _run
from ansible_collections.ephemera.preview.plugins.module_utils import _teardown as teardown


def observed(owner="", labels=(), **of):
    seen = _docker.empty("shop-pr-1") | {"images": [{"ref": "i", "id": "1"}], "folder": True}
    seen["containers"] = [
        {"name": f"c{i}", "labels": {"ephemera.preview/owner": label}}
        for i, label in enumerate(labels)
    ]
    return seen | {"state": {"owner": owner} if owner else {}} | of


@pytest.mark.parametrize(
    ("seen", "kept", "left_alone"),
    [
        (observed("me", ["me"]), ["container c0", "image i", "folder"], []),
        (observed("", ["me"]), ["container c0", "image i", "folder"], []),
        (observed("", []), ["image i", "folder"], []),
        (observed("you", ["you"]), [], ["container c0", "image i", "folder"]),
        (observed("", ["you"]), [], ["container c0", "image i", "folder"]),
        (observed("you", []), [], ["image i", "folder"]),
        (observed("me", ["me", "you"]), ["container c0", "image i", "folder"], ["container c1"]),
        (
            observed(foreign=[{"kind": "volume", "name": "shop-pr-1_x"}]),
            ["image i", "folder"],
            ["volume shop-pr-1_x"],
        ),
    ],
)
def test_only_what_is_its_owners_is_removed(seen, kept, left_alone):
    ours, foreign = teardown.mine(seen, "me")
    said = [line.replace("state folder previews/shop-pr-1", "folder") for line in foreign]
    mine = [
        line.replace("state folder previews/shop-pr-1", "folder")
        for line in _docker.leftovers(ours)
    ]
    assert (mine, said) == (kept, left_alone)


def test_a_named_builder_keeps_the_builds_of_all(tmp_path, monkeypatch):
    """Notes that lie in the user's own folder are a preview's by the folder that was built."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    notes = tmp_path / "buildx" / "refs" / "mine" / "mine0"
    notes.mkdir(parents=True)
    built = {
        "ours": json.dumps({"LocalPath": "/state/previews/shop-pr-1/source/abc"}),
        "neighbours": json.dumps({"LocalPath": "/state/previews/shop-pr-12/source/abc"}),
        "somebodys": json.dumps({"LocalPath": "/home/me/shop"}),
        "remote": json.dumps({"LocalPath": None}),
        "broken": "{",
    }
    for name, text in built.items():
        (notes / name).write_text(text)
    params = {"name": "shop-pr-1", "state_dir": "/state", "builder": "mine"}
    assert teardown.Teardown(params).records() == [str(notes / "ours")]


def test_what_is_said_is_read_whole_or_not_at_all(monkeypatch):
    """Cut, it would show nothing of what was there, and that nothing is left."""
    monkeypatch.setattr(_run, "SAID", 1000)
    work = teardown.Teardown({"name": "shop-pr-1", "state_dir": "/state"})
    assert len(work.run(["printf", "%0999d", "1"]).out) == 999
    with pytest.raises(_docker.EngineError, match="MiB"):
        work.run(["printf", "%01000d", "1"])


def test_without_an_engine_what_it_may_have_built_is_not_taken_for_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    name = "shop-pr-1"
    folder = tmp_path / "previews" / name
    params = {"name": name, "state_dir": str(tmp_path), "builder": "", "push": True}

    def look(**other):
        return teardown.Teardown({**params, "repositories": [], **other}).look()["previews"][name]

    assert not look()["folder"]
    folder.mkdir(parents=True)
    assert look()["folder"]
    assert look(builder="apart", repositories=["r.example.org/web"])["folder"]
    note = folder / ".buildx/refs/default/default/note"
    note.parent.mkdir(parents=True)
    note.touch()
    for built in ({}, {"repositories": ["r.example.org/web"]}, {"push": False}):
        with pytest.raises(_docker.EngineError):
            look(**built)
    note.unlink()
    with pytest.raises(_docker.EngineError):
        look(repositories=["r.example.org/web"])


GONE = 'ERROR: 2 errors occurred:\n\t* lease "ref_a": not found\n\t* lease "ref_b": not found\n'


@pytest.mark.parametrize(
    ("prune", "forget", "left"),
    [
        ("", "", []),
        ("", GONE, []),
        ("", 'ERROR: unknown command: "history"', []),
        ("", GONE + "\t* rpc error: code = Unavailable\n", ["records of its builds"]),
        ("x509: unknown authority", "", ["cache mounts of its builds"]),
        ("no builder", "no builder", ["cache mounts of its builds", "records of its builds"]),
    ],
)
def test_what_a_builder_keeps_is_told(tmp_path, monkeypatch, prune, forget, left):
    """What it says of the two removals, and what is made of that; no engine is asked here."""
    (tmp_path / "prune").write_text(prune)
    (tmp_path / "history").write_text(forget)
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\nsaid={tmp_path}/$2\ncat "$said" >&2\n[ ! -s "$said" ]\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    params = {"name": "shop-pr-1", "state_dir": "/state", "builder": "mine"}
    work = teardown.Teardown(params)
    note = tmp_path / "note"
    note.touch()
    work.noted = {str(note)}
    assert work.clean() == left
    assert len(work.errors) == len(left)
    assert note.exists() == ("records of its builds" in left), "for the next attempt"
