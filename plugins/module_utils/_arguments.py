# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that several modules take, as their argument specs have them."""

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
