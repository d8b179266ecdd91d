"""The account of examples/kubernetes/rbac.yaml in a cluster for tests, as which tests, scenarios
and the demo make previews: never as the cluster's administrator."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "kubernetes"
NAME = "ephemera-preview"  # as the examples have it


def example(file: str, name: str = NAME) -> str:
    """A file of examples/kubernetes, about an account of that name."""
    text = (EXAMPLES / file).read_text(encoding="utf-8")
    return re.sub(rf"\b{NAME}\b", name, text)


def make(facts: dict[str, Any], kubeconfig: Path, name: str = NAME) -> None:
    """Have that account, and write a kubeconfig by which one is it for twelve hours.

    :param facts: how the cluster is reached, as `cluster facts` says.
    """

    def kubectl(*arguments: str, **options: Any) -> str:
        command = [facts["kubectl"], "--kubeconfig", facts["kubeconfig"], *arguments]
        return subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, **options
        ).stdout

    kubectl("apply", "--filename", "-", input=example("rbac.yaml", name))
    token = kubectl("create", "token", "previews", "--namespace", name, "--duration", "12h").strip()
    known = json.loads(kubectl("config", "view", "--raw", "--minify", "--output", "json"))
    known["users"] = [{"name": "previews", "user": {"token": token}}]
    known["contexts"][0]["context"]["user"] = "previews"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(json.dumps(known))
