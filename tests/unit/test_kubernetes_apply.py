# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is applied to a cluster: tests/integration/test_kubernetes.py."""

from __future__ import annotations

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils._kubernetes_apply import roomier


@pytest.mark.parametrize(
    ("limit", "used", "together"),
    [
        ("14", "3", "17"),
        ("2000m", "1500m", "3500m"),
        ("2000m", "3", "5"),
        ("500m", "0", "500m"),
        (str(1 << 30), "1610612736", str((1 << 30) + 1610612736)),
        (str(4 << 30), "6Gi", str(10 << 30)),
        (str(1 << 20), "2k", str((1 << 20) + 2000)),
        (str(1 << 20), "1.5Gi", str((1 << 20) + (3 << 29))),
    ],
)
def test_a_quota_has_room_for_what_is_in_use_beside_what_is_wanted(limit, used, together):
    quota = {"kind": "ResourceQuota", "spec": {"hard": {"pods": "14", "limits": limit}}}
    assert roomier(quota, {"limits": used, "of another": "5"}) == {
        "kind": "ResourceQuota",
        "spec": {"hard": {"pods": "14", "limits": together}},
    }
