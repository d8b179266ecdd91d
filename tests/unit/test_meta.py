# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the collection says of itself: its metadata, changelog, READMEs and sample inventories."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import fragment_loader
from ansible.template import Templar
from ansible.utils.plugin_docs import get_docstring
from ansible.vars.manager import VariableManager
from ansible_collections.ephemera.preview.plugins.module_utils import _doctor, _settings

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def stems(folder: str, ends: str = "*.py") -> set[str]:
    return {path.stem for path in (ROOT / folder).glob(ends)}


def test_the_action_group_holds_every_module() -> None:
    assert set(load("meta/runtime.yml")["action_groups"]["preview"]) == stems("plugins/modules")
    assert stems("plugins/action") <= stems("plugins/modules")


def described(options: dict[str, Any]) -> dict[str, Any]:
    """What options take, without words about them; a secret is one in an argument spec only."""
    said = {}
    for name, option in options.items():
        kept = {k: v for k, v in option.items() if k in ("type", "elements", "default", "choices")}
        kept["required"] = option.get("required", False)
        kept["options"] = described(option.get("options") or option.get("suboptions") or {})
        said[name] = kept
    return said


@pytest.mark.parametrize("name", sorted(stems("plugins/action")))
def test_the_documentation_of_an_action_is_its_argument_spec(name: str) -> None:
    plugin = f"ansible_collections.ephemera.preview.plugins.action.{name}"
    arguments = importlib.import_module(plugin).ActionModule.arguments
    module = ROOT / "plugins" / "modules" / f"{name}.py"
    documented = get_docstring(str(module), fragment_loader)[0]
    assert described(documented["options"]) == described(arguments)


def test_the_changelog_lists_all_there_is() -> None:
    listed: dict[str, dict[str, str]] = {}
    for release in load("changelogs/changelog.yaml")["releases"].values():
        kinds = {"modules": release.get("modules", []), **release.get("plugins", {})}
        for kind, found in {**kinds, **release.get("objects", {})}.items():
            told = {each["name"]: each["description"] for each in found}
            listed.setdefault(kind, {}).update(told)
    assert set(listed["modules"]) == stems("plugins/modules")
    assert set(listed["playbook"]) == stems("playbooks", "*.yml")
    for kind in ("filter", "lookup", "inventory", "test"):
        assert set(listed.get(kind, {})) == stems(f"plugins/{kind}"), kind
    assert listed["role"] == {
        role: load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]["main"][
            "short_description"
        ]
        for role in ROLES
    }


def test_an_execution_environment_holds_what_the_doctor_asks_for() -> None:
    needed = load("meta/execution-environment.yml")["dependencies"]
    assert needed == {"python": "meta/requirements.txt", "system": "meta/bindep.txt"}
    python = (ROOT / "meta/requirements.txt").read_text()
    for library in _doctor.LIBRARIES.values():
        assert re.search(rf"(?m)^{library.pip}>=\d.*,<\d", python), library.pip
    packages = re.findall(r"(?m)^([a-z][a-z0-9-]*)", (ROOT / "meta/bindep.txt").read_text())
    assert {"git", "openssh-client", "openssh-clients", "docker-compose-plugin"} <= set(packages)


def test_dependencies_have_a_lower_and_an_upper_end() -> None:
    wanted = load("galaxy.yml")["dependencies"]
    assert set(wanted) == {"community.docker", "community.postgresql", "kubernetes.core"}
    assert all(re.fullmatch(r">=\d+\.\d+\.\d+,<\d+\.0\.0", each) for each in wanted.values())
    text = "\n".join(path.read_text() for path in (ROOT / "roles").rglob("tasks/*.yml"))
    assert set(re.findall(r"^ *((?:community|kubernetes)\.\w+)\.\w+:", text, re.M)) <= set(wanted)


# -- roles --------------------------------------------------------------------------------------


def markdown(text: Any) -> str:
    """A description of argument_specs as a README writes it."""
    whole = " ".join(text) if isinstance(text, list) else str(text)
    return re.sub(r"C\(([^)]*)\)", r"`\1`", " ".join(whole.split()))


def default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "required"
    if "default" not in option:
        return ""
    value = option["default"]
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_tells_its_arguments_as_they_are(role: str) -> None:
    specs = load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    wanted = {
        (name, option["type"], default(option), markdown(option["description"]))
        for spec in specs.values()
        for name, option in spec.get("options", {}).items()
    }
    page = (ROOT / "roles" / role / "README.md").read_text(encoding="utf-8")
    row = r"(?m)^\| `(\w+)` \| (\w+) \| ([^|]*?) \| (.*) \|$"
    assert set(re.findall(row, page)) == wanted


@pytest.mark.parametrize("role", ROLES)
def test_a_role_takes_the_defaults_that_it_tells(role: str) -> None:
    specs = load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    told = {
        name: option["default"]
        for spec in specs.values()
        for name, option in spec.get("options", {}).items()
        if "default" in option and name.startswith(f"{role}_")
    }
    file = ROOT / "roles" / role / "defaults" / "main.yml"
    assert (load(str(file)) if file.exists() else {}) == told


# -- sample inventories -------------------------------------------------------------------------


def settings_of(inventory: str, **others: Any) -> Iterator[dict[str, Any]]:
    """The settings of each app, as Ansible itself reads and fills them in."""
    loader = DataLoader()
    loader.set_basedir(str(ROOT / "inventories" / inventory))
    found = InventoryManager(loader, sources=[str(ROOT / "inventories" / inventory)])
    variables = VariableManager(loader, found)
    for host in found.get_hosts("preview_apps"):
        held = {**variables.get_vars(host=host), **others}
        templar = Templar(loader, variables=held)
        yield {
            name: templar.template(value)
            for name, value in held.items()
            if name.startswith(_settings.PREFIX)
        }


# What `tests/testbed/cluster facts` tells, as far as the demo reads it.
CLUSTER = {
    "kubeconfig": "/kubeconfig",
    "registry": "localhost:5000",
    "registry_username": "preview",
    "registry_password": "p" * 16,
    "ingress_class": "traefik",
    "ingress_namespace": "traefik",
    "ingress_http": 8080,
}


@pytest.mark.parametrize(
    "inventory", ["demo/docker.yml", "demo/kubernetes.yml", "docker", "kubernetes"]
)
def test_a_sample_inventory_is_taken_as_it_is(inventory: str) -> None:
    example = ROOT / "inventories" / inventory / "group_vars/all/vault.yml.example"
    vault = yaml.safe_load(example.read_text()) if example.exists() else {}
    others = dict.fromkeys(vault, "v" * 32) | {"cluster": CLUSTER}
    apps = list(settings_of(inventory, **others))
    assert apps and all(_settings.resolve(app)["preview_repository"] for app in apps)


@pytest.mark.parametrize("inventory", ["docker", "kubernetes"])
def test_what_a_sample_inventory_suggests_can_be_taken(inventory: str) -> None:
    """Lines that are commented out are to be used as they stand."""
    file = ROOT / "inventories" / inventory / "group_vars/all/previews.yml"
    page = file.read_text(encoding="utf-8")
    blocks = re.findall(r"(?m)^# (preview_\w+:.*(?:\n#   .*)*)$", page)
    assert len(blocks) > 8
    for block in blocks:
        given = yaml.safe_load(block.replace("\n# ", "\n"))
        for name, value in given.items():
            assert _settings.TABLE[name].kind.read(value)
