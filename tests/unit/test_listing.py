"""The list of previews: what a row says of what was observed."""

from __future__ import annotations

from ansible_collections.ephemera.preview.plugins.module_utils import _docker, _listing


def seen(**changes):
    container = {"service": "web", "state": "running", "health": "", "oneoff": False, "labels": {}}
    base = _docker.empty("shop-pr-42")
    base["state"] = {
        "app": "shop",
        "number": 42,
        "commit": "0123456789abcdef",
        "status": "ready",
        "created": 1000,
        "url": "http://x",
        "services": {"web": {"completes": False}, "init": {"completes": True}},
    }
    base["containers"] = [container, dict(container, service="init", state="exited")]
    return dict(base, **changes)


def test_a_ready_preview():
    row = _listing.row(seen(), now=1000 + 7200)
    assert (row["status"], row["running"], row["containers"], row["age"]) == ("ready", 1, 1, 7200)
    assert _listing.table([row])[1].split() == [
        "shop-pr-42", "42", "0123456789ab", "ready", "1/1", "2h", "-", "http://x",
    ]  # fmt: skip


def test_when_it_expires():
    state = seen()["state"] | {"expires": 1000 + 3 * 86400}
    for now, left in ((1000, "3d"), (1000 + 86401, "1d"), (1000 + 3 * 86400, "expired")):
        row = _listing.row(seen(state=state), now)
        assert (row["expires"], row["left"]) == (state["expires"], state["expires"] - now)
        assert _listing.table([row])[1].split()[6] == left
    assert _listing.row(seen(), 2000)["expires"] == 0


def test_ready_with_a_dead_container_is_degraded():
    broken = seen()
    broken["containers"][0]["state"] = "restarting"
    assert _listing.row(broken, now=2000)["status"] == "degraded"


def test_what_no_run_recorded_is_leftovers():
    labels = {"ephemera.preview/app": "shop", "ephemera.preview/number": "42"}
    volume = {"name": "shop-pr-42_db", "labels": labels}
    row = _listing.row(seen(state={}, containers=[], volumes=[volume]), now=2000)
    assert (row["status"], row["app"], row["number"], row["age"]) == ("leftovers", "shop", 42, None)


def test_ages():
    assert [_listing.age(s) for s in (-3, 0, 59, 60, 3599, 3600, 86399, 86400, 900000)] == [
        "0s", "0s", "59s", "1m", "59m", "1h", "23h", "1d", "10d",
    ]  # fmt: skip


def test_columns_are_aligned_and_nothing_is_said_plainly():
    rows = [_listing.row(seen(), 2000), dict(_listing.row(seen(), 2000), name="x")]
    lines = _listing.table(rows)
    at = lines[0].index("STATUS")
    assert all(line[at:].startswith("ready") for line in lines[1:])
    assert _listing.table([]) == ["No previews."]
