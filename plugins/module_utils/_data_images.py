# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of images of data services that everybody uses, and that say it nowhere. Pure."""

from __future__ import annotations

from typing import Any, List, Mapping, NamedTuple, Optional, Sequence


class DataImage(NamedTuple):
    """One of them.

    :ivar port: where it listens.
    :ivar probe: Compose's health check. It asks the TCP port, since PostgreSQL's and MySQL's first
        start answer on a socket before they accept connections.
    :ivar user: the user and group that its entry point gives root up for, by its Dockerfile.
    :ivar alpine: the same of its tags on Alpine.
    :ivar folder: the variable that names its folder, where that must be its own.
    :ivar homes: where that folder is by itself, by the versions of the image.
    """

    port: int
    probe: List[str]
    user: int = 999
    alpine: int = 999
    folder: str = ""
    homes: Sequence[str] = ()


_POSTGRES = DataImage(
    5432,
    ["CMD-SHELL", 'pg_isready -q -h 127.0.0.1 -U "$${POSTGRES_USER:-postgres}"'],
    alpine=70,
    folder="PGDATA",
    homes=("/var/lib/postgresql/data", "/var/lib/postgresql/18/docker"),
)
_IMAGES = {
    "postgres": _POSTGRES,
    "postgis": _POSTGRES,
    "redis": DataImage(6379, ["CMD", "redis-cli", "ping"]),
    "valkey": DataImage(6379, ["CMD", "valkey-cli", "ping"]),
    "mysql": DataImage(3306, ["CMD-SHELL", "mysqladmin ping -h 127.0.0.1 --silent"]),
    "mariadb": DataImage(3306, ["CMD-SHELL", "mariadb-admin ping -h 127.0.0.1 --silent"]),
    "mongo": DataImage(
        27017, ["CMD", "mongosh", "--quiet", "--eval", "db.adminCommand('ping').ok"]
    ),
    "rabbitmq": DataImage(
        5672, ["CMD", "rabbitmq-diagnostics", "-q", "check_port_connectivity"], alpine=100
    ),
}


def known(service: Mapping[str, Any]) -> Optional[DataImage]:
    """What is known of a service's image, by the last part of its name."""
    name, dummy, tag = str(service.get("image", "")).rsplit("/", 1)[-1].partition(":")
    found = _IMAGES.get(name.split("@")[0])
    return found._replace(user=found.alpine) if found and "alpine" in tag else found


def held(image: DataImage, targets: Sequence[str]) -> Optional[str]:
    """Which of the places where volumes are mounted holds the image's data, if one does."""
    holding = [
        target
        for target in targets
        if any((home + "/").startswith(target.rstrip("/") + "/") for home in image.homes)
    ]
    # What is mounted below another hides it.
    return max(holding, key=len) if holding else None
