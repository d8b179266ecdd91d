# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets taken out of what is shown, before anything is cut: half a secret is found no more."""

from __future__ import annotations

import json
from typing import Any, Iterable, List, Mapping, Sequence, Set

from ansible_collections.ephemera.preview.plugins.module_utils._refusal import plain

SHORTEST = 4
"""So many characters a secret has to have: what is shorter stands in every second word."""

_HIDDEN = "********"


def in_every_form(values: Iterable[str]) -> List[str]:
    """Secrets in each form in which programs quote them, the longest first so that none hides in
    another."""
    return sorted(
        {form for value in values if len(value) >= SHORTEST for form in _forms(value)},
        key=len,
        reverse=True,
    )


def _forms(secret: str) -> Set[str]:
    """A secret as it is, and as Compose, Go, Python and our own refusals write it."""
    return {
        secret,
        secret.replace("$", "$$"),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        plain(secret, len(secret)),
    }


def redact(value: Any, secrets: Sequence[str]) -> Any:
    """The same structure with every secret in its strings replaced, also where its end is cut off
    and ``...`` stands for it."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, _HIDDEN)
        *cut, end = value.split("...")
        return "...".join([*(_without_beginning(part, secrets) for part in cut), end])
    if isinstance(value, Mapping):
        return {k: redact(v, secrets) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact(v, secrets) for v in value]
    return value


def _without_beginning(text: str, secrets: Sequence[str]) -> str:
    """A text whose end was cut off, without the beginning of a secret that it ends with."""
    for secret in secrets:
        for length in range(min(len(secret), len(text)), SHORTEST - 1, -1):
            if text.endswith(secret[:length]):
                return text[:-length] + _HIDDEN
    return text
