"""The smallest app that has all that a preview has, for tests that need an app and not the shop."""

from __future__ import annotations

import argparse
from pathlib import Path

from repositories import Repository

# The smallest app with all that a preview has: a build, a port, a data service with a volume,
# a migration and a seed that leave a trace in it.
TINY: dict[str, str | bytes | None] = {
    "Dockerfile": (
        'FROM busybox:1.37\nCOPY www /www\nCMD ["httpd", "-f", "-p", "8080", "-h", "/www"]\n'
    ),
    "www/health": "ok\n",
    "www/index.html": "hello from main\n",
    "compose.yaml": """\
services:
  web:
    build: .
    init: true
    stop_grace_period: 1s
    ports: ["8080:8080"]
    environment:
      GREETING: "${PREVIEW_NAME:-laptop}"
    volumes: ["data:/data"]
    depends_on:
      cache: {condition: service_started}
    x-preview:
      health: /health
      migrate: [sh, -c, "echo migrated >> /data/log"]
      seed: [sh, -c, "echo seeded >> /data/log"]
  cache:
    image: redis:8
    volumes: ["cache_data:/data"]
volumes:
  data: {}
  cache_data: {}
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a repository with one pull request, 7.")
    parser.add_argument("path", type=Path, help="folder of the bare repository, made if missing")
    repository = Repository.create(parser.parse_args().path.resolve())
    repository.commit("refs/heads/main", "The tiny app", files=TINY)
    page = {"www/index.html": "hello from pull request 7\n"}
    print(repository.pull_request(7, "Greet from a pull request", files=page), end="")


if __name__ == "__main__":
    main()
