"""What teardown takes for a preview's own; its work on a real engine is in tests/integration."""

from __future__ import annotations

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import _docker
from ansible_collections.ephemera.preview.plugins.modules import teardown


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
