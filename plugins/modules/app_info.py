#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work, by module_utils/_definition.py on the host.

from __future__ import annotations

DOCUMENTATION = r"""
module: app_info
short_description: Read an app's definition out of a pull request
version_added: "0.1.0"
description:
  - Reads the Compose file of a checkout as hostile data, and returns it in Compose's normal form
    together with the app's wishes under C(x-preview).
  - What is not known to be harmless is refused, all of it in one message that says where it
    stands and what to do. See C(docs/compose.md) in the collection for every key.
  - Nothing outside the checkout is opened, nothing of it is run, and nothing is changed.
author: ephemera.preview contributors (@ephemera-preview)
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
requirements:
  - PyYAML
  - jsonschema >= 3.2
  - Docker Compose 2
options:
  path:
    description: The folder of the checkout.
    type: path
    required: true
  file:
    description:
      - The Compose file, relative to O(path).
      - Without it, V(compose.yaml), V(compose.yml), V(docker-compose.yml) and
        V(docker-compose.yaml) are looked for, in this order.
    type: str
  project:
    description: The name of the Compose project.
    type: str
    required: true
  variables:
    description:
      - Variables the file may use, by name. They win over C(.env.preview) and C(.env) beside the
        file. No other variable has a value.
    type: dict
    default: {}
  secrets:
    description:
      - The same as O(variables), for values that no message may show.
      - They are part of the result where the file uses them, so a task that gives any needs
        C(no_log).
    type: dict
    default: {}
  profiles:
    description:
      - Services that are only of other profiles are left out before they are screened. V(*) keeps
        all.
    type: list
    elements: str
    default: ["*"]
  allow:
    description:
      - Exceptions from what is refused, as the refusal names them.
    type: list
    elements: str
    default: []
  images:
    description:
      - Images that may be pulled, with C(*) for any text, such as V(postgres:*). None means any but
        those of registries on the platform's own machines.
    type: list
    elements: str
    default: []
  registries:
    description: Registries on the platform's own machines that may be used nonetheless.
    type: list
    elements: str
    default: []
  frontends:
    description: What a Dockerfile may name after C(# syntax=), with C(*) for a version's numbers.
    type: list
    elements: str
    default: ["docker/dockerfile:1", "docker/dockerfile:1.*"]
  build_secrets:
    description: The ids of secrets that builds may use.
    type: list
    elements: str
    default: []
  sizes:
    description: The names of sizes a service may wish for.
    type: list
    elements: str
    default: [small, medium, large]
  git_dir:
    description:
      - The repository that holds the checkout's commit. With it digests come from git's object
        ids, without it from the files.
    type: path
  commit:
    description: The checkout's commit. Required with O(git_dir).
    type: str
  names:
    description:
      - The preview's names, as M(ephemera.preview.name_info) returns them. With them the file may
        use C(PREVIEW_<SERVICE>_URL) of each of its services, such as C(PREVIEW_API_URL).
    type: dict
  timeout:
    description: Seconds Compose may take.
    type: int
    default: 30
  compose:
    description: The Compose program. Without it, it is looked for where Docker keeps its plugins.
    type: path
seealso:
  - module: ephemera.preview.name_info
"""

EXAMPLES = r"""
- name: Read the definition of the shop at this commit
  ephemera.preview.app_info:
    # As ephemera.preview.source has registered them.
    path: "{{ source.path }}"
    git_dir: "{{ source.git_dir }}"
    commit: "{{ source.commit }}"
    project: shop-pr-42
    variables:
      PREVIEW_URL: https://shop-pr-42.preview.example.org
  register: app

- name: Show which service a reviewer gets
  ansible.builtin.debug:
    msg: "{{ app.x_preview.web }}"
"""

RETURN = r"""
file:
  description: The Compose file that was read, relative to the checkout.
  returned: success
  type: str
  sample: compose.yaml
services:
  description:
    - The services in Compose's normal form, every C($) doubled. Only keys that previews know are
      in it, all variables are filled in, and C(env_file) has become part of C(environment).
    - Every path is relative to the checkout, except C(dockerfile), which is relative to C(context).
  returned: success
  type: dict
  sample:
    web:
      build: {context: ".", dockerfile: Dockerfile}
      ports: [{target: 8000, protocol: tcp}]
volumes:
  description: The named volumes.
  returned: success
  type: dict
  sample: {db: {}}
configs:
  description: The configs, each with C(file), relative to the checkout, or C(content).
  returned: success
  type: dict
  sample: {nginx: {file: ./nginx.conf}}
secrets:
  description: The secrets, each with C(file), relative to the checkout, or C(content).
  returned: success
  type: dict
  sample: {}
x_preview:
  description: The app's wishes, with every default filled in. Times are in seconds.
  returned: success
  type: dict
  contains:
    web:
      description: The service the preview's URL leads to.
      type: str
      sample: web
    services:
      description: The wishes of every service.
      type: dict
      sample:
        web:
          migrate: {command: [alembic, upgrade, head], timeout: 300}
          seed: null
          after_deploy: null
          before_down: null
          health:
            path: /health
            deep: null
            status: [200]
            interval: 1
            timeout: 5
            start_period: 0
            retries: 60
          expose: {port: 8000}
          size: small
          exactly_one: false
notes:
  description: What was left out of the file, and why.
  returned: success
  type: list
  elements: str
  sample:
    - "compose.yaml: container_name is left out (db, web): containers are named by the platform;
      services reach each other by service name."
digests:
  description: For each service that is built, one value for all that its build is made of.
  returned: success
  type: dict
  sample: {web: 0f5c1d4f2f1e6f37a3ac3e6f7a0f6b1d4f2f1e6f37a3ac3e6f7a0f6b1d4f2f1e}
problems:
  description: Everything that was refused, a sentence each.
  returned: when the definition is refused
  type: list
  elements: str
  sample:
    - "compose.yaml:7: services.web.privileged: true is refused: it opens the host to the
      container. No setting allows it."
"""
