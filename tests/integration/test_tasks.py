"""How many tasks a run has: each costs more than the objects that it applies."""

from __future__ import annotations

import sys
from pathlib import Path

from conftest import InCluster, Platform


def compose(services: int) -> str:
    """An app of so many services, each with objects of its own of each kind."""
    lines = "".join(
        f"""
  s{number}:
    image: busybox:1.37
    command: [httpd, -f, -p, "8080", -h, /www]
    {"expose" if number else "ports"}: ["8080"]
    configs: [{{source: page, target: /www/index.html}}]
    environment: {{NUMBER: "{number}"}}
    volumes: ["v{number}:/data"]
    x-preview: {{size: small}}"""
        for number in range(services)
    )
    volumes = "".join(f"\n  v{number}:" for number in range(services))
    page = "configs:\n  page: {content: hello}"
    return f"x-preview: {{web: s0}}\nservices:{lines}\n{page}\nvolumes:{volumes}\n"


def test_five_services_take_no_more_tasks_than_one(anywhere: Platform) -> None:
    counted = []
    for number, services in ((1, 1), (2, 5)):
        files = {"compose.yaml": compose(services)}
        commit = anywhere.repository.pull_request(number, "Services", files=files)
        counted.append(anywhere.up(number, commit).ok().tasks)
        assert anywhere.get(number) == (200, "hello")
    assert counted[0] == counted[1]


def test_with_nothing_to_do_a_cluster_is_asked_without_another_python(
    in_cluster: InCluster, tmp_path: Path
) -> None:
    """Unless Ansible's own is not the one of the app's host."""
    commit = in_cluster.repository.pull_request(1, "Services", files={"compose.yaml": compose(1)})
    in_cluster.up(1, commit).ok()
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    for python in (sys.executable, str(other)):
        # Where another one is started, there is code for it.
        kept = tmp_path / f"code-{len(python)}"
        settings = {"ansible_remote_tmp": str(kept), "ansible_python_interpreter": python}
        again = in_cluster.up(1, commit, **settings).ok()
        assert (again.changed, again.result["outcome"]) == (0, "unchanged")
        assert bool(list(kept.glob("ephemera-preview-code-*"))) == (python != sys.executable)
