#!/usr/bin/python

# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# An action plugin of the same name does the work, by module_utils/_build.py on the host.

from __future__ import annotations

DOCUMENTATION = r"""
module: build
short_description: Have every image of a preview where it runs
version_added: "0.1.0"
description:
  - Builds the services' images by BuildKit, several at once, pulls those that are ready-made, and
    waits for those that CI pushes. Content that has not changed is not built again.
  - A build gets nothing of the platform but what is listed here. It can't use the image of another
    preview, a frontend that is not listed, an entitlement, the host's network or the cache mounts
    of another preview, and C(ADD) of an address is refused.
  - For a cluster, with O(push), images are wanted in their registries. What is built is pushed
    there once it has been looked at; what CI pushes is waited for; what is ready-made is left to
    the cluster.
  - Why not M(community.docker.docker_image_build), once a service? It builds one image a call,
    without a time limit, a login of its own, a source policy or a cgroup.
author: ephemera.preview contributors (@ephemera-preview)
extends_documentation_fragment:
  - ephemera.preview.stage
  - ansible.builtin.action_common_attributes
  - ephemera.preview.proxy
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    platforms: posix
requirements:
  - Docker Engine 25, with buildx; with O(push) and O(builder) only docker and buildx, which ask
    no engine
options:
  name:
    description: The preview's name. Its cache mounts and its images bear it.
    type: str
    required: true
  folder:
    description: The preview's own folder. What a run needs for a moment lies in it, secrets too.
    type: path
    required: true
  checkout:
    description: The folder of the commit's files.
    type: path
    required: true
  services:
    description:
      - The services, as the preview's plan has them. Each has a C(name), the C(image) as it is
        called here, and a C(source).
      - Where C(source) is V(build), C(build) is Compose's C(build) in normal form, with paths
        relative to O(checkout), and C(digest), a value for all its content.
      - Where it is V(pull), C(image) is ready-made. Where it is V(prebuilt), C(prebuilt) is the
        image that CI pushes.
    type: list
    elements: dict
    required: true
  previous:
    description:
      - What was deployed last, C(digest) and C(image_id) by service. With O(push) the latter is
        the id by which the cluster knows it, which ends in C(@sha256:) and its digest.
    type: dict
    default: {}
  fresh:
    description: Build again though nothing has changed, from base images pulled anew.
    type: bool
    default: false
  trusted:
    description:
      - Whether the author may see O(secrets). Who may not gets none, shares no cache mount with who
        may, and builds without results of earlier builds where there are any O(secrets), since
        they may hold what a secret opened.
    type: bool
    default: true
  registries:
    description: Registries to log in to, for this run only. Each has a C(password) or a
      C(password_command).
    type: list
    elements: dict
    default: []
    suboptions:
      registry:
        description: The registry's name.
        type: str
        required: true
      username:
        description: The user's name.
        type: str
        required: true
      password:
        description: The password or token.
        type: str
      password_command:
        description: The argument list of a command on the controller that prints it.
        type: list
        elements: str
  mirror:
    description: A mirror to pull Docker Hub's images through.
    type: str
    default: ""
  ca:
    description: Certificates, as PEM text, that a RUN may mount as the secret C(preview_ca).
    type: str
    default: ""
  secrets:
    description: Build secrets by name, for the builds that ask for them.
    type: dict
    default: {}
  frontends:
    description:
      - The frontends that C(# syntax=) may name, with C(*) for a version's numbers.
        C(docker/dockerfile:1) is the engine's own and is not pulled.
    type: list
    elements: str
    default: ["docker/dockerfile:1", "docker/dockerfile:1.*"]
  base_images:
    description: Patterns of the images that may be used, with C(*) for any text. Without any, all
      but those of a registry that is named by an address, V(localhost) or a name without a domain
      and is none of O(registries).
    type: list
    elements: str
    default: []
  timeout:
    description: How many seconds all builds together may take.
    type: int
    default: 1200
  images_timeout:
    description: How many seconds to wait for images that CI pushes.
    type: int
    default: 600
  memory:
    description:
      - How many MiB all RUNs of the app's builds may use at one time. This and O(pids) take root on
        the engine's machine, and the engine's own builder; see RV(limited).
    type: int
    default: 4096
  pids:
    description: How many processes all RUNs of the app's builds may have at one time.
    type: int
    default: 4096
  disk:
    description: How many GiB of the engine's disk may be filled while builds run.
    type: int
    default: 20
  builder:
    description: A buildx builder, by name. By default the engine's own. With O(push) it pushes by
      itself what it has built, and may be a remote one, of a machine without an engine.
    type: str
    default: ""
  push:
    description: Whether a cluster runs the images, and pulls them by the names they are given here.
    type: bool
    default: false
  preview:
    description:
      - The preview, as the role C(ephemera.preview.plan) registers it, to start its data services
        beside the builds, as soon as their images are here. Where it has any containers already,
        they are left alone, as the version that serves may use them.
    type: dict
"""

EXAMPLES = r"""
- name: Have the images of a preview
  ephemera.preview.build:
    name: shop-pr-42
    folder: /var/lib/ephemera-preview/previews/shop-pr-42
    checkout: "{{ source.path }}"
    services:
      - name: web
        image: ephemera-preview/shop-pr-42/web:5f3c9d2f0b7e
        source: build
        build:
          context: .
          dockerfile: Dockerfile
          digest: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      - name: db
        image: postgres:17
        source: pull
  register: build
"""

RETURN = r"""
images:
  description: The images, by service.
  returned: success
  type: dict
  contains:
    ref:
      description: The image's name and tag.
      type: str
    id:
      description: Its id on this engine; with O(push) its digest.
      type: str
    how:
      description: V(built), V(retagged) and V(kept) from what was deployed last, V(pulled),
        V(present), or V(left) to the cluster.
      type: str
    digest:
      description: Its name with digest in a registry, where it has one.
      type: str
    seconds:
      description: How long it took.
      type: float
pins:
  description:
    - With O(push), what a cluster is to run in place of each C(image) of O(services), as
      C(repository:tag@digest). For what CI has pushed it is that image.
  returned: success
  type: dict
  sample:
    registry.example.org/ephemera-preview/shop-pr-42/web:5f3c9d2f0b7e:
      registry.example.org/ephemera-preview/shop-pr-42/web:5f3c9d2f0b7e@sha256:a7ba2846f2e05e22f3355cf2320912c920d4312147f3aa31e3fc8b65e9d7a2f3
data:
  description: What came of starting the data services.
  returned: when they were started
  type: dict
  contains:
    changed:
      description: Whether a container was started.
      type: bool
    failed:
      description: Whether one could not be.
      type: bool
    late:
      description: Whether the time was up.
      type: bool
    said:
      description: Why, in Compose's words, without secrets.
      type: list
      elements: str
limited:
  description: Whether O(memory) and O(pids) bounded the builds, where there were any.
  returned: success
  type: bool
log:
  description: The last lines of what failed.
  returned: failure
  type: list
  elements: str
"""
