# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that more than one plugin takes, as argument specs have them."""

from __future__ import annotations

from typing import Any, Dict, Tuple

PROXY: Dict[str, Any] = {
    "type": "dict",
    "default": {},
    "options": {
        "http_proxy": {"type": "str", "no_log": True},
        "https_proxy": {"type": "str", "no_log": True},
        "no_proxy": {"type": "str"},
    },
}
"""The doc fragment ``proxy`` describes it."""

FRONTENDS: Tuple[str, ...] = ("docker/dockerfile:1", "docker/dockerfile:1.*")
"""The default of what a Dockerfile may name as its syntax."""

REPOSITORY: Dict[str, Dict[str, Any]] = {
    "checkout": {"type": "path"},
    "token": {"type": "str", "no_log": True},
    "user": {"type": "str", "default": "x-access-token"},
    "key_file": {"type": "path", "no_log": False},
    "host_keys": {"type": "str", "no_log": False},
    "proxy": PROXY,
    "ca": {"type": "str"},
}
"""How a repository is reached: ``_source.Origin``. The doc fragment ``repository`` describes it."""

SIZES: Tuple[str, ...] = ("small", "medium", "large")
"""The default of what ``x-preview.size`` may name."""

HOOKS: Tuple[str, ...] = ("migrate", "seed", "after_deploy", "before_down")
"""What a service may wish to have run in a container of its own, and when."""

STAGES: Tuple[str, ...] = (
    "teardown", "source", "plan", "build", "database", "migrate", "seed", "deploy", "verify",
)  # fmt: skip
"""The stages of a run."""

STAGE: Dict[str, Any] = {"type": "str", "choices": list(STAGES)}
"""The stage that a task begins. The doc fragment ``stage`` describes it."""

DEFINITION: Dict[str, Dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "file": {"type": "str"},
    "project": {"type": "str", "required": True},
    "variables": {"type": "dict", "default": {}},
    "secrets": {"type": "dict", "default": {}},
    "profiles": {"type": "list", "elements": "str", "default": ["*"]},
    "allow": {"type": "list", "elements": "str", "default": []},
    "images": {"type": "list", "elements": "str", "default": []},
    "registries": {"type": "list", "elements": "str", "default": []},
    "frontends": {"type": "list", "elements": "str", "default": list(FRONTENDS)},
    "build_secrets": {"type": "list", "elements": "str", "default": []},
    "sizes": {"type": "list", "elements": "str", "default": list(SIZES)},
    "git_dir": {"type": "path"},
    "commit": {"type": "str"},
    "names": {"type": "dict"},
    "timeout": {"type": "int", "default": 30},
    "compose": {"type": "path"},
}
"""What the program ``definition`` takes, from the actions ``app_info`` and ``plan``."""
