"""The life of a preview on a Docker host, seen from outside."""

from __future__ import annotations

from conftest import Platform, docker, holdings


def test_up_serves_migrated_and_seeded_and_down_leaves_nothing(platform: Platform) -> None:
    before = holdings()
    commit = platform.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})

    up = platform.up(1, commit).ok()
    assert up.result["outcome"] == "ready"
    assert platform.get(1) == (200, "one\n")
    assert platform.exec(1, "web", "cat", "/data/log") == "migrated\nseeded"

    again = platform.up(1, commit).ok()
    assert (again.changed, again.result["outcome"]) == (0, "unchanged")

    platform.down(1).ok()
    assert holdings() == before
    assert not (platform.state / "previews" / platform.name(1)).exists()
    assert platform.get(1)[0] == 404

    assert platform.down(1).ok().changed == 0


def test_a_new_commit_redeploys_keeps_the_data_and_migrates_again(platform: Platform) -> None:
    first = platform.repository.pull_request(1, "One", files={"www/index.html": "one\n"})
    second = platform.repository.pull_request(1, "Two", files={"www/index.html": "two\n"})
    platform.up(1, first).ok()
    docker("exec", f"{platform.name(1)}-cache-1", "redis-cli", "set", "kept", "yes")
    platform.up(1, second).ok()
    assert platform.get(1) == (200, "two\n")
    assert platform.exec(1, "web", "cat", "/data/log") == "migrated\nseeded\nmigrated"


def test_two_pull_requests_live_side_by_side(platform: Platform) -> None:
    commits = {
        number: platform.repository.pull_request(
            number, f"Change {number}", files={"www/index.html": f"{number}\n"}
        )
        for number in (1, 12)
    }
    for number, commit in commits.items():
        platform.up(number, commit).ok()
    assert platform.get(1) == (200, "1\n")
    assert platform.get(12) == (200, "12\n")
    platform.down(1).ok()
    assert platform.get(12) == (200, "12\n")


def test_a_change_of_trust_starts_from_nothing(platform: Platform) -> None:
    commit = platform.repository.pull_request(1, "A change", files={"www/index.html": "one\n"})
    platform.up(1, commit, preview_trusted=False).ok()
    platform.exec(1, "web", "sh", "-c", "echo planted > /data/planted")
    platform.up(1, commit, preview_trusted=True).ok()
    assert platform.exec(1, "web", "ls", "/data") == "log"
    assert platform.exec(1, "web", "cat", "/data/log") == "migrated\nseeded"
