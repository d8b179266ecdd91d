# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a stage may take: what its lease is kept for."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils._arguments import HOOKS, STAGES
from ansible_collections.ephemera.preview.plugins.plugin_utils import _stage

UNPLANNED = ("teardown", "source", "plan")


def service(**hooks: int) -> dict[str, Any]:
    wishes = {hook: {"timeout": hooks[hook]} if hook in hooks else None for hook in HOOKS}
    return {"name": "web", **wishes}


PREVIEW = {
    "settings": {
        "preview_source_timeout": 1,
        "preview_compose_timeout": 7,
        "preview_build_timeout": 10,
        "preview_images_timeout": 20,
        "preview_verify_timeout": 100,
    },
    "services": [
        service(migrate=1000, seed=3),
        service(migrate=2000, after_deploy=4000),
        service(),
    ],
    "observed": {
        "state": {
            "wanted": {
                "services": {
                    "web": {"hooks": {"migrate": {"timeout": 9}, "before_down": {"timeout": 50}}},
                    "worker": {"hooks": {"before_down": {"timeout": 60}}},
                    "cache": {"hooks": {}},
                }
            }
        }
    },
}


@pytest.mark.parametrize(
    ("stage", "seconds"),
    [
        ("source", 8),
        ("plan", 0),
        ("build", 30),
        ("database", 200),
        ("migrate", 3000),
        ("seed", 3),
        ("deploy", 100),
        ("verify", 4100),
        ("teardown", 110),
    ],
)
def test_a_lease_is_kept_as_long_as_a_stage_may_take(stage: str, seconds: int) -> None:
    assert stage in STAGES
    # A preview is planned after its source is there, and not at all before it goes.
    known = {k: v for k, v in PREVIEW.items() if k != "services" or stage not in UNPLANNED}
    assert _stage.limit(known, stage) == seconds


def test_what_was_never_deployed_has_nothing_to_wait_for_as_it_goes() -> None:
    known = {"settings": PREVIEW["settings"], "observed": {"state": {}}}
    assert _stage.limit(known, "teardown") == 0
