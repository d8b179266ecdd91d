"""How long previews in a cluster take, against kubectl doing the same work.

Both start from nothing and apply the same manifests, those that `up` plans, of images that are
pushed and that the node has; they take turns in one run, and medians are compared.
Usage: bench_kubernetes.py [--rounds N] [--markdown]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import EMPTY, Clock, options, show

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".collections")]

from ansible_collections.ephemera.preview.plugins.module_utils import (  # noqa: E402
    _kubernetes_apply,
    _manifests,
)
from clusters import a_cluster, an_account  # noqa: E402
from conftest import InCluster, an_app_in_cluster, docker  # noqa: E402
from tiny import TINY  # noqa: E402

# In the order of `up`; what is well when is asked as a person would, and the last answer is a
# reviewer's. A migration and a seed go when they are done.
PLAIN_UP = """\
set -eu
namespace=$2 host=$3 port=$4
cd "$1"
for step in */; do
    kubectl apply --server-side --filename "$step/objects.json"
    while read -r kind name; do
        case $kind in
        Job)
            kubectl wait --namespace "$namespace" --for=condition=complete --timeout=60s "job/$name"
            kubectl delete --namespace "$namespace" --wait=false "job/$name"
            ;;
        *) kubectl rollout status --namespace "$namespace" --timeout=60s "$kind/$name" ;;
        esac
    done <"$step/awaited"
done
until curl --silent --fail --output /dev/null --header "Host: $host:$port" \\
    "http://127.0.0.1:$port/health"; do
    sleep 0.1
done
"""
PLAIN_DOWN = 'kubectl delete namespace "$1"'
# Not named by the app, whose traces have to be gone in the end.
IMAGE = "bench/web:1"
AWAITED = ("Deployment", "StatefulSet", "Job")


class Plain(NamedTuple):
    """A preview by kubectl: its steps in a folder, its namespace, and what asks for it."""

    folder: Path
    namespace: str
    host: str


class Bench:
    def __init__(self, folder: Path, platform: InCluster) -> None:
        self.folder = folder
        self.platform = platform
        self.facts = platform.cluster.facts
        self.clock = Clock()
        self.image = platform.cluster.push(self.built(), IMAGE, folder)
        docker("rmi", IMAGE)
        platform.settings["preview_images"] = {"web": self.image}
        self.empty = folder / "empty.yml"
        self.empty.write_text(EMPTY)

    def built(self) -> str:
        """The tiny app's image, by the engine."""
        context = self.folder / "context"
        for name, content in TINY.items():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            (context / name).write_text(str(content))
        docker("build", "--quiet", "--tag", IMAGE, str(context))
        return IMAGE

    def pull_request(self, number: int) -> str:
        page = {"www/index.html": f"hello from pull request {number}\n"}
        return self.platform.repository.pull_request(number, "Greet", files=page)

    def plain(self, number: int) -> Plain:
        """A preview for kubectl, of the manifests that `up` plans for it."""
        kept = self.folder / f"manifests-{number}.json"
        self.platform.play(
            str(Path(__file__).with_name("manifests.yml")),
            "--check",
            preview_number=number,
            preview_commit=self.pull_request(number),
            manifests=str(kept),
        ).ok()
        planned = json.loads(kept.read_text())
        preview = planned["preview"]
        built = {each["image"]: self.image for each in preview["services"] if not each["data"]}
        pull_secret = _manifests.pull_secret(preview, self.platform.settings["preview_registries"])
        folder = self.folder / f"plain-{number}"
        for index, objects in enumerate(steps(planned["made"], pull_secret)):
            step = folder / f"{index:02}"
            step.mkdir(parents=True)
            items = [_kubernetes_apply.pinned(each, built) for each in objects]
            listed = {"apiVersion": "v1", "kind": "List", "items": items}
            (step / "objects.json").write_text(json.dumps(listed))
            awaited = [
                f"{each['kind']} {each['metadata']['name']}\n"
                for each in objects
                if each["kind"] in AWAITED
            ]
            (step / "awaited").write_text("".join(awaited))
        return Plain(folder, preview["names"]["namespace"], f"{preview['name']}.localhost")

    def script(self, what: str, script: str, *arguments: object) -> None:
        command = ["sh", "-c", script, "plain", *map(str, arguments)]
        folder = Path(self.facts["kubectl"]).parent
        environment = os.environ | {
            "KUBECONFIG": self.facts["kubeconfig"],
            "PATH": f"{os.environ['PATH']}:{folder}",
        }
        self.clock.time(
            what,
            lambda: subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL),
        )

    def play(self, what: str, name: str, **settings: Any) -> None:
        played = self.clock.time(what, lambda: self.platform.play(name, **settings)).ok()
        self.clock.tasks[what] = played.tasks

    def nothing(self) -> None:
        self.clock.time("empty play", lambda: self.platform.play(str(self.empty)).ok())

    def round(self, number: int) -> None:
        plain = self.plain(number + 100)
        of_ours = {"preview_number": number, "preview_commit": self.pull_request(number)}
        port = self.facts["ingress_http"]
        with self.removed(number, plain):
            self.script("kubectl up", PLAIN_UP, *plain, port)
            self.play("up", "up", **of_ours)
            for _again in range(3):
                self.play("no change", "up", **of_ours)
                self.nothing()

    @contextmanager
    def removed(self, number: int, plain: Plain) -> Iterator[None]:
        """Both are removed in the end, which is timed, too."""
        try:
            yield
        finally:
            self.script("kubectl down", PLAIN_DOWN, plain.namespace)
            self.play("down", "down", preview_number=number)

    def run(self, rounds: int) -> None:
        print("a round that is not timed: the node gets its images", file=sys.stderr, flush=True)
        self.round(rounds + 1)
        self.clock.times.clear()
        for number in range(1, rounds + 1):
            print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
            self.round(number)

    def rows(self) -> list[tuple[str, ...]]:
        clock, start = self.clock, self.clock.median("empty play")
        compared = (
            ("up", "kubectl up", 0, ""),
            ("up", "kubectl up", start, "1.3"),
            ("no change", "empty play", 0, "1.5"),
            ("down", "kubectl down", 0, ""),
        )
        return [
            (
                f"{ours} less an empty play" if less else ours,
                f"{clock.median(ours) - less:.2f} s",
                plain,
                f"{clock.median(plain):.2f} s",
                f"{(clock.median(ours) - less) / clock.median(plain):.2f}",
                goal,
                str(clock.tasks[ours]),
            )
            for ours, plain, less, goal in compared
        ]


def steps(made: dict[str, Any], pull_secret: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """What is applied together, in the order of `up`."""
    namespace, *limits = made["base"]
    yield [namespace]
    yield [*limits, *made["secret"], *made["claims"], pull_secret]
    yield from waves(made, "data")
    for hook in ("migrate", "seed"):
        yield from made["hooks"].get(hook, {}).values()
    yield from waves(made, "others")


def waves(made: dict[str, Any], of: str) -> Iterator[list[dict[str, Any]]]:
    """The objects of services, those together that are started together."""
    for wave in made[of]:
        yield [each for name in wave for each in made["services"][name]]


def main() -> None:
    chosen = options(__doc__)
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        a_cluster() as cluster,
        an_account(cluster, (folder := Path(name))) as account,
        an_app_in_cluster(account, folder) as platform,
    ):
        bench = Bench(folder, platform)
        bench.run(chosen.rounds)
        heading = ("ours", "median", "against", "median", "ratio", "goal", "tasks")
        show([heading, *bench.rows()], markdown=chosen.markdown)


if __name__ == "__main__":
    main()
