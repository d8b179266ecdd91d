# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The settings ``preview_*``: the one place that says what there is to set. Pure.

``TABLE`` holds every setting; ``resolve`` turns an inventory's variables into checked values. A
value may come as YAML has it, or as ``-e key=value`` gives it, which is always a string.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, Collection, Dict, Iterable, List, Mapping, NamedTuple, Tuple

from ansible_collections.ephemera.preview.plugins.module_utils import _names
from ansible_collections.ephemera.preview.plugins.module_utils._arguments import FRONTENDS
from ansible_collections.ephemera.preview.plugins.module_utils._kinds import (
    VARIABLE,
    VARIABLE_RULE,
    Kind,
    Wrong,
    address,
    boolean,
    choice,
    commit,
    cpus,
    destination,
    duration,
    environment,
    identifier,
    key_of_secrets,
    lines,
    list_of,
    map_of,
    named,
    network,
    path,
    record,
    repository,
    text,
    whole,
)

PREFIX = "preview_"

Settings = Dict[str, Any]
"""Every setting by its whole name, with a value of its type."""


class Problem(NamedTuple):
    """One thing wrong. ``name`` may lead into a value, as in ``preview_registries[0].password``."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}{self.text}"


class SettingsRefused(ValueError):
    """Settings that can't be used. ``problems`` holds all there are; no message holds a secret."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        if len(self.problems) == 1:
            super().__init__(str(self.problems[0]))
        else:
            lines = "".join(f"\n- {problem}" for problem in self.problems)
            super().__init__(f"{len(self.problems)} problems in the settings:{lines}")


@dataclass(frozen=True)
class Setting:
    """One row of the table. ``default`` is a value of ``kind``, or stands for "not set"."""

    name: str
    kind: Kind
    default: Any
    meaning: str
    example: str
    secret: bool = False


# The table

_SERVICE = (r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", "a service's name")
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_SUBDOMAIN = _LABEL + r"(\." + _LABEL + ")*"
_ANNOTATION = "(" + _SUBDOMAIN + r"/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_IMAGE = text(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", "an image's name")
_PORT = whole(1, 65535)
_FORMAT_FIELDS = r"([^{}\s]|\{commit\}|\{number\})+"
_PROXY_URL = text(r"https?://[^\s/]+/?", "a URL such as http://proxy.example.org:3128")

SECTIONS: Dict[str, Tuple[Setting, ...]] = {
    "Which preview": (
        Setting(
            "preview_number",
            whole(1, _names.NUMBER_MAX),
            None,
            "The pull request's number.",
            "42",
        ),
        Setting(
            "preview_commit",
            commit(),
            "",
            "The commit to deploy. Exactly this one is fetched and built, or the run ends.",
            "1f7a7a472abf3dd9643fd615f6da379c4acb3e3a",
        ),
        Setting(
            "preview_app",
            text(),
            "",
            "The app's name in all names. By default its name in the inventory.",
            "shop",
        ),
        Setting(
            "preview_target",
            choice("docker", "kubernetes"),
            "docker",
            "What the preview runs on: the Docker host that the app connects to, or a cluster.",
            "kubernetes",
        ),
        Setting(
            "preview_trusted",
            boolean(),
            True,
            "Whether the pull request's author may see preview_secrets and "
            "preview_build_secrets. Set it to false for what comes from a fork.",
            "false",
        ),
    ),
    "The repository": (
        Setting(
            "preview_repository",
            repository(),
            "",
            "Where the app's repository is: a URL, or a path on the builder.",
            "https://github.com/acme/shop.git",
        ),
        Setting(
            "preview_forge",
            text(),
            "",
            "What the forge is called. By default the host of preview_repository.",
            "github.com",
        ),
        Setting(
            "preview_repository_id",
            identifier(),
            "",
            "The repository's id on its forge, which outlives its renaming. With preview_forge it "
            "tells whose a preview is. By default the path of preview_repository.",
            "1296269",
        ),
        Setting(
            "preview_ref_format",
            text(
                r"refs/[A-Za-z0-9._/-]*\{number\}[A-Za-z0-9._/-]*",
                "a reference with {number} in it, such as refs/pull/{number}/head",
            ),
            "refs/pull/{number}/head",
            "The reference under which the forge keeps a pull request's commit.",
            "refs/merge-requests/{number}/head",
        ),
        Setting(
            "preview_source_token",
            text(r"[\x21-\x7e]+", "a token without spaces"),
            "",
            "The token to read a private repository over https.",
            "'{{ vault_github_token }}'",
            secret=True,
        ),
        Setting(
            "preview_source_user",
            text(r"[A-Za-z0-9._@+-]{1,100}", "a user's name"),
            "x-access-token",
            "The user's name that goes with preview_source_token.",
            "oauth2",
        ),
        Setting(
            "preview_source_key_file",
            path(),
            "",
            "The deploy key to read a private repository over ssh, a file on the builder.",
            "/etc/ephemera/shop.key",
        ),
        Setting(
            "preview_source_host_keys",
            lines("lines as known_hosts has them"),
            "",
            "The host keys the forge may show, in lines as known_hosts has them.",
            '\'{{ lookup("ansible.builtin.file", "known_hosts") }}\'',
        ),
        Setting(
            "preview_source_timeout",
            duration(),
            300,
            "How long fetching may take.",
            "10m",
        ),
        Setting(
            "preview_source_max_size",
            whole(1, 1024 * 1024),
            2048,
            "How many MiB a fetch, and the files of the commit, may take.",
            "4096",
        ),
        Setting(
            "preview_checkout",
            path(),
            "",
            "A checkout that CI made, on the builder, which is used instead of fetching.",
            "/builds/acme/shop",
        ),
    ),
    "The app": (
        Setting(
            "preview_compose_file",
            path("a path inside the repository", r"[^/\x00-\x1f\x7f~$-][^\x00-\x1f\x7f$]*"),
            "",
            "The app's Compose file. By default compose.yaml or what else Compose looks for.",
            "deploy/compose.yaml",
        ),
        Setting(
            "preview_compose_timeout",
            duration(600),
            20,
            "How long Compose may take to read the app's Compose file.",
            "30s",
        ),
        Setting(
            "preview_profiles",
            list_of(text(_WORD, "a profile's name")),
            [],
            "The profiles of the Compose file that are started.",
            "[worker]",
        ),
        Setting(
            "preview_compose_allow",
            list_of(
                text(r"[a-z_]+(=[^\x00-\x1f\x7f]+)?", "an exception such as cap_add=NET_ADMIN")
            ),
            [],
            "What the Compose file may have although it is refused by default, as the refusal "
            "names it.",
            "[cap_add=NET_ADMIN]",
        ),
        Setting(
            "preview_environment",
            environment(),
            {},
            "Variables the Compose file may use, for every pull request.",
            "{LOG_LEVEL: debug}",
        ),
        Setting(
            "preview_secrets",
            environment(),
            {},
            "Variables the Compose file may use, for trusted pull requests only. "
            "Needs preview_secret_key.",
            "{STRIPE_KEY: '{{ vault_stripe_key }}'}",
            secret=True,
        ),
        Setting(
            "preview_external_secrets",
            record(
                {
                    "store": record(
                        {
                            "kind": choice("ClusterSecretStore", "SecretStore"),
                            "name": text(_SUBDOMAIN, "a store's name"),
                        }
                    ),
                    "data": map_of(
                        record(
                            {"key": text(), "property": text(), "version": text()},
                            optional=("property", "version"),
                        ),
                        VARIABLE,
                        VARIABLE_RULE,
                    ),
                },
                optional=("store", "data"),
            ),
            {},
            "Variables the Compose file may use, for trusted pull requests only, whose values the "
            "External Secrets Operator of a cluster fetches from a store.",
            "{store: {kind: ClusterSecretStore, name: vault}, "
            "data: {STRIPE_KEY: {key: shop/previews, property: stripe_key}}}",
        ),
        Setting(
            "preview_secret_key",
            key_of_secrets(),
            "",
            "What every password of a preview is derived from. Keep it in a vault.",
            "'{{ vault_preview_secret_key }}'",
            secret=True,
        ),
        Setting(
            "preview_sentry_dsn",
            text(r"https?://\S+", "a URL"),
            "",
            "Where previews report errors: SENTRY_DSN, with the environment and release set.",
            "https://key@sentry.example.org/7",
        ),
        Setting(
            "preview_otel_endpoint",
            text(r"https?://\S+", "a URL"),
            "",
            "Where previews send traces: OTEL_EXPORTER_OTLP_ENDPOINT, with name and version set.",
            "http://collector.example.org:4318",
        ),
    ),
    "Images": (
        Setting(
            "preview_builder",
            text(_WORD, "a host's name in the inventory"),
            "",
            "The inventory host that builds. By default where the app connects; with "
            "preview_target docker no other can, as nothing moves images.",
            "builder",
        ),
        Setting(
            "preview_images",
            map_of(
                text(_FORMAT_FIELDS, "an image, in which {commit} and {number} may stand"),
                *_SERVICE,
            ),
            {},
            "Images that CI pushes, by service. These services are not built: their images are "
            "waited for.",
            "{web: 'registry.example.org/acme/shop:{commit}'}",
        ),
        Setting(
            "preview_images_timeout",
            duration(),
            600,
            "How long to wait for each image of preview_images.",
            "15m",
        ),
        Setting(
            "preview_registries",
            list_of(
                record(
                    {
                        "registry": text(r"[A-Za-z0-9.-]+(:[0-9]+)?(/\S*)?", "host[:port]"),
                        "username": text(),
                        "password": text(),
                        "password_command": list_of(text(), minimum=1),
                    },
                    one_of=("password", "password_command"),
                )
            ),
            [],
            "Registries to log in to for pulling, and for pushing to preview_registry. Builds and "
            "apps see nothing of it. In place of a password that expires stands password_command, "
            "such as [aws, ecr, get-login-password]: it is run on the controller, without a shell, "
            "in each run that needs the password, and prints nothing else.",
            "[{registry: registry.example.org, username: preview, password: '{{ vaulted }}'}]",
            secret=True,
        ),
        Setting(
            "preview_registry_mirror",
            text(r"https?://[^\s/]+/?", "a URL such as https://mirror.example.org"),
            "",
            "A mirror to pull Docker Hub's images through while building.",
            "https://mirror.example.org",
        ),
        Setting(
            "preview_proxy",
            record(
                {"http_proxy": _PROXY_URL, "https_proxy": _PROXY_URL, "no_proxy": text()},
                optional=("http_proxy", "https_proxy", "no_proxy"),
            ),
            {},
            "The proxies for fetching and building, and what is reached without them.",
            "{https_proxy: 'http://proxy.example.org:3128', no_proxy: .example.org}",
            secret=True,
        ),
        Setting(
            "preview_ca_file",
            path(),
            "",
            "Certificates to trust besides the system's, a PEM file on the controller.",
            "/etc/ssl/certs/company.pem",
        ),
        Setting(
            "preview_build_timeout",
            duration(),
            1200,
            "How long building all images may take.",
            "30m",
        ),
        Setting(
            "preview_build_secrets",
            environment(),
            {},
            "Secrets a Dockerfile may mount by name, for trusted pull requests only.",
            "{NPM_TOKEN: '{{ vault_npm_token }}'}",
            secret=True,
        ),
        Setting(
            "preview_build_memory",
            whole(64),
            4096,
            "The memory the steps of an app's builds may have together, in MiB, where the "
            "builder's machine lets us limit it.",
            "8192",
        ),
        Setting(
            "preview_build_pids",
            whole(16),
            4096,
            "How many processes the steps of an app's builds may have at once, likewise.",
            "1024",
        ),
        Setting(
            "preview_build_disk",
            whole(1),
            20,
            "How many GiB of the engine's disk may be filled while builds run.",
            "40",
        ),
        Setting(
            "preview_buildx_builder",
            text(_WORD, "a builder's name"),
            "",
            "A builder of buildx to build with, instead of the engine's own. Builds for a cluster "
            "then need no engine.",
            "limited",
        ),
        Setting(
            "preview_buildx_isolated",
            boolean(),
            False,
            "Whether preview_buildx_builder is kept from private networks by what is around it. "
            "Unless that is said, a builder whose network is none of this machine's engine builds "
            "no pull request that is not trusted.",
            "true",
        ),
        Setting(
            "preview_build_frontends",
            list_of(text(r"[A-Za-z0-9][A-Za-z0-9._/:@*-]*", "a pattern of images' names")),
            list(FRONTENDS),
            "The frontends a Dockerfile may ask for by `# syntax=`, with * for the numbers of a "
            "version.",
            "['docker/dockerfile:1', 'docker/dockerfile:1-labs']",
        ),
        Setting(
            "preview_base_images",
            list_of(text(r"[A-Za-z0-9*][A-Za-z0-9._/:@*-]*", "a pattern of images' names")),
            [],
            "Patterns of the images that services and Dockerfiles may use, with * for any text. "
            "Without any, all but those of a registry that is named by an address, localhost or a "
            "name without a domain and is none of preview_registries.",
            "['python:3.*', 'postgres:*', 'registry.example.org/acme/*']",
        ),
        Setting(
            "preview_image_max_age",
            whole(0, 3650),
            0,
            "After how many days images are built from nothing again, upon base images pulled "
            "anew, by the next run for whatever commit. 0 is never.",
            "7",
        ),
    ),
    "Running": (
        Setting(
            "preview_state_dir",
            path("an absolute path of letters, digits, dot, _ and -", r"(/[A-Za-z0-9._-]+)+/?"),
            "/var/lib/ephemera-preview",
            "The folder where previews keep their state: on the host, and on the builder what is "
            "fetched and built.",
            "/srv/previews",
        ),
        Setting(
            "preview_sizes",
            map_of(
                record(
                    {
                        "cpus": cpus(),
                        "memory": text(r"[1-9][0-9]{0,8}[KMGkmg]", "an amount such as 512M"),
                        "pids": whole(16, 100000),
                    }
                ),
                r"[a-z][a-z0-9-]{0,30}",
                "a size's name",
            ),
            {
                "small": {"cpus": 0.5, "memory": "256M", "pids": 256},
                "medium": {"cpus": 1.0, "memory": "512M", "pids": 512},
                "large": {"cpus": 2.0, "memory": "1G", "pids": 1024},
            },
            "The sizes a service may ask for. None may have more than the largest.",
            "{medium: {cpus: 1, memory: 1G, pids: 512}, huge: {cpus: 8, memory: 8G, pids: 4096}}",
        ),
        Setting(
            "preview_size",
            text(r"[a-z][a-z0-9-]{0,30}", "one of preview_sizes"),
            "medium",
            "The size of a service that asks for none.",
            "small",
        ),
        Setting(
            "preview_log_driver",
            text(_WORD, "a log driver's name"),
            "json-file",
            "Docker's log driver for the containers.",
            "journald",
        ),
        Setting(
            "preview_log_options",
            map_of(text(), _WORD, "an option's name"),
            {"max-size": "10m", "max-file": "3"},
            "The options of preview_log_driver.",
            "{tag: '{{.Name}}'}",
        ),
        Setting(
            "preview_docker_subnets",
            list_of(network(4, 25), minimum=1),
            ["10.213.0.0/16"],
            "The networks that previews take theirs from, two of /26 each. "
            "Nothing else may use them.",
            "[10.213.0.0/16, 10.214.0.0/16]",
        ),
        Setting(
            "preview_isolation",
            boolean(),
            True,
            "Whether builds and previews are kept from private networks and the host itself. In a "
            "cluster that is for builds: previews have network policies.",
            "false",
        ),
        Setting(
            "preview_egress_allow",
            list_of(destination()),
            [],
            "Private networks that builds and previews may reach all the same.",
            "['10.1.2.3/32:5432']",
        ),
        Setting(
            "preview_ttl",
            duration(365 * 86400, 0),
            0,
            "How long a preview is to live after its last deployment, such as 3d. It is recorded "
            "with the preview and shown by the playbook `list`; removing it is up to whoever runs "
            "`down`. 0 is without end.",
            "3d",
        ),
        Setting(
            "preview_lease",
            duration(),
            900,
            "After how long without a sign of life a run no longer keeps others from its preview.",
            "30m",
        ),
        Setting(
            "preview_verify_timeout",
            duration(3600),
            120,
            "How long a new preview may take until it answers.",
            "5m",
        ),
        Setting(
            "preview_hooks_timeout",
            duration(),
            3600,
            "How long all hooks of a preview may take together: the timeouts that its definition "
            "gives to migrate, seed, after_deploy and before_down.",
            "30m",
        ),
    ),
    "In a cluster": (
        Setting(
            "preview_kubeconfig",
            path(),
            "",
            "The kubeconfig that leads to the cluster, where Ansible connects for the app. By "
            "default KUBECONFIG, ~/.kube/config, or the account of the pod that Ansible runs in.",
            "/etc/preview/kubeconfig",
        ),
        Setting(
            "preview_kube_context",
            text(),
            "",
            "The context in it. By default its current one.",
            "staging",
        ),
        Setting(
            "preview_registry",
            text(r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9._/-]+)?", "host[:port], and a path in it"),
            "",
            "The registry that images are pushed to, where the cluster pulls them. Its login is in "
            "preview_registries.",
            "registry.example.org/previews",
        ),
        Setting(
            "preview_pod_security",
            choice("baseline", "restricted"),
            "baseline",
            "The Pod Security Standard that a preview's namespace enforces.",
            "restricted",
        ),
        Setting(
            "preview_canary_image",
            _IMAGE,
            "busybox:1.37",
            "The image, with sh and nc, of the pod that sees whether the cluster enforces network "
            "policies, before anything of a pull request that is not trusted runs there.",
            "registry.example.org/library/busybox:1.37",
        ),
        Setting(
            "preview_ephemeral_storage",
            text(r"[1-9][0-9]*(Mi|Gi)", "a size such as 512Mi or 2Gi"),
            "2Gi",
            "How much a container may write to its own file system, with its logs, until the "
            "cluster evicts it.",
            "5Gi",
        ),
        Setting(
            "preview_storage_class",
            text(_WORD, "a storage class's name"),
            "",
            "The storage class of volumes. By default the cluster's own.",
            "fast",
        ),
        Setting(
            "preview_volume_size",
            text(r"[1-9][0-9]*(Mi|Gi|Ti)", "a size such as 512Mi or 2Gi"),
            "1Gi",
            "The size of each volume.",
            "5Gi",
        ),
        Setting(
            "preview_ingress_class",
            text(_WORD, "an ingress class's name"),
            "",
            "The class of Ingresses. By default the cluster's own.",
            "traefik",
        ),
        Setting(
            "preview_ingress_controller",
            choice("traefik", "other"),
            "traefik",
            "What serves that class. Traefik is given headers, compression, passwords and rate by "
            "middlewares; any other by preview_ingress_annotations alone.",
            "other",
        ),
        Setting(
            "preview_ingress_namespace",
            text(_WORD, "a namespace"),
            "traefik",
            "The namespace of the ingress controller, which alone reaches previews from outside.",
            "ingress-nginx",
        ),
        Setting(
            "preview_ingress_networks",
            list_of(network()),
            [],
            "Networks that reach exposed services as well: those of a load balancer that is no "
            "pod, such as AWS's.",
            "[10.20.0.0/24, 10.20.1.0/24]",
        ),
        Setting(
            "preview_ingress_annotations",
            map_of(text(), _ANNOTATION, "an annotation's name"),
            {},
            "Annotations of each Ingress, as its controller reads them.",
            "{alb.ingress.kubernetes.io/scheme: internal}",
        ),
        Setting(
            "preview_ingress_auth",
            boolean(),
            False,
            "Whether preview_ingress_annotations let the controller ask for a password, where it "
            "is not Traefik. Without, preview_auth_users is refused there.",
            "true",
        ),
        Setting(
            "preview_ingress_tls",
            boolean(),
            False,
            "Whether previews in a cluster are served over https, with the ingress controller's "
            "own certificate where nothing else is set.",
            "true",
        ),
        Setting(
            "preview_tls_secret",
            text(_LABEL + "/" + _SUBDOMAIN, "a namespace and a Secret's name in it"),
            "",
            "A Secret with a certificate for all hosts, which is copied beside each preview that "
            "is served over https with it.",
            "traefik/wildcard",
        ),
        Setting(
            "preview_tls_issuer",
            text("(ClusterIssuer|Issuer)/" + _SUBDOMAIN, "ClusterIssuer/name or Issuer/name"),
            "",
            "Who of cert-manager issues a certificate for each host, with which it is served over "
            "https.",
            "ClusterIssuer/letsencrypt",
        ),
    ),
    "Hosts": (
        Setting(
            "preview_domain",
            named("domain", "a domain, without a dot at its end"),
            "",
            "The domain under which previews have their hosts. Its DNS holds a wildcard. "
            "Without it they lie under sslip.io or localhost.",
            "preview.example.org",
        ),
        Setting(
            "preview_domain_shared",
            boolean(),
            False,
            "Whether other apps have previews under the same domain, so that hosts must hold the "
            "app's name.",
            "true",
        ),
        Setting(
            "preview_host_format",
            named("host_format", "a host with {number} in it and one label before .{domain}"),
            _names.HOST_FORMAT,
            "How the host of a preview is made. {name} is {app}-pr-{number}.",
            "pr-{number}.{domain}",
        ),
        Setting(
            "preview_host_ip",
            named("ip", "an IPv4 or IPv6 address"),
            "",
            "The address of the host, for hosts under sslip.io where there is no domain.",
            "203.0.113.7",
        ),
    ),
    "The gateway": (
        Setting(
            "preview_gateway_state",
            choice("present", "absent"),
            "present",
            "Whether the playbook `gateway` sets the gateway up, or removes it.",
            "absent",
        ),
        Setting(
            "preview_gateway_image",
            _IMAGE,
            "traefik:v3.7",
            "The image of Traefik.",
            "registry.example.org/library/traefik:v3.7",
        ),
        Setting(
            "preview_gateway_address",
            address(),
            "0.0.0.0",
            "The address of the host on which the gateway listens.",
            "127.0.0.1",
        ),
        Setting("preview_gateway_http_port", _PORT, 80, "The port for http.", "8080"),
        Setting("preview_gateway_https_port", _PORT, 443, "The port for https.", "8443"),
        Setting(
            "preview_gateway_tls",
            choice("off", "selfsigned", "given", "acme"),
            "off",
            "Where the certificate comes from. With off, previews are served over http.",
            "acme",
        ),
        Setting(
            "preview_gateway_certificate",
            path(),
            "",
            "The certificate chain for tls given, a PEM file on the controller.",
            "/etc/ssl/preview.example.org.pem",
        ),
        Setting(
            "preview_gateway_certificate_key",
            path(),
            "",
            "The key of preview_gateway_certificate, a PEM file on the controller.",
            "/etc/ssl/private/preview.example.org.key",
        ),
        Setting(
            "preview_gateway_acme_email",
            text(r"[^\s@]+@[^\s@]+", "an e-mail address"),
            "",
            "The address the certificate authority writes to, for tls acme.",
            "platform@example.org",
        ),
        Setting(
            "preview_gateway_acme_server",
            text(r"https://\S+", "an https URL"),
            "",
            "The directory of the certificate authority. By default Let's Encrypt.",
            "https://acme-staging-v02.api.letsencrypt.org/directory",
        ),
        Setting(
            "preview_gateway_acme_ca",
            path(),
            "",
            "The certificate of an authority that few trust, a PEM file on the controller.",
            "/etc/ssl/acme.example.org.pem",
        ),
        Setting(
            "preview_gateway_acme_dns_provider",
            text(r"[a-z0-9]+", "a provider's name as Traefik has it"),
            "",
            "Who hosts the domain's DNS, for tls acme, as Traefik calls it.",
            "hetzner",
        ),
        Setting(
            "preview_gateway_acme_environment",
            environment(),
            {},
            "What the DNS provider needs, as Traefik documents it.",
            "{HETZNER_API_KEY: '{{ vault_hetzner_key }}'}",
            secret=True,
        ),
        Setting(
            "preview_gateway_acme_resolvers",
            list_of(text(r"[0-9A-Za-z.:\[\]-]+:[0-9]+", "a name server and its port")),
            [],
            "Name servers to ask whether the challenge is there, where the domain's own can't be.",
            "['9.9.9.9:53']",
        ),
        Setting(
            "preview_gateway_trusted_proxies",
            list_of(network()),
            [],
            "Proxies before the gateway whose forwarded headers are believed.",
            "[192.0.2.0/24]",
        ),
        Setting(
            "preview_gateway_metrics_port",
            _PORT,
            8082,
            "The port of Prometheus metrics, on the host's loopback.",
            "9082",
        ),
        Setting(
            "preview_auth_users",
            map_of(text(), r"[^:\x00-\x1f\x7f]+", "a user's name without a colon"),
            {},
            "Users and passwords, one of which a reviewer needs. Without any, none is asked for.",
            "{reviewer: '{{ vault_review_password }}'}",
            secret=True,
        ),
        Setting(
            "preview_rate_limit",
            whole(0, 1000000),
            0,
            "How many requests a second a preview answers to one client. 0 is any.",
            "50",
        ),
    ),
    "Results": (
        Setting(
            "preview_result_dir",
            path(),
            "",
            "A folder on the controller in which result.json and result.md are written.",
            "'{{ playbook_dir }}/result'",
        ),
        Setting(
            "preview_step_outputs",
            choice("none", "github"),
            "none",
            "Whether the result is written to GITHUB_OUTPUT and GITHUB_STEP_SUMMARY, where the "
            "controller's environment has them: in GitHub Actions, Gitea and Forgejo.",
            "github",
        ),
        Setting(
            "preview_no_log",
            boolean(),
            True,
            "Whether tasks that may hold a secret hide what they do. With false, one sees more.",
            "false",
        ),
    ),
    "Looking inside": (
        Setting(
            "preview_output",
            choice("table", "json"),
            "table",
            "How the playbooks `list` and `doctor` print what they found.",
            "json",
        ),
        Setting(
            "preview_service",
            text(_WORD, "a service's name"),
            "",
            "The service that the playbooks `logs` and `run` are about; all of them, or the web "
            "service, where it is not set.",
            "worker",
        ),
        Setting(
            "preview_command",
            list_of(text(rule="a word of a command")),
            [],
            "What the playbook `run` runs, word by word: no shell takes it apart.",
            "[python, --version]",
        ),
        Setting(
            "preview_tail",
            whole(0, 100000),
            100,
            "How many of the last lines the playbook `logs` shows of each container.",
            "500",
        ),
        Setting(
            "preview_since",
            text(r"[0-9]+[smh]", "a time such as 10m"),
            "",
            "How far back the playbook `logs` looks.",
            "10m",
        ),
    ),
}

TABLE: Dict[str, Setting] = {
    setting.name: setting for section in SECTIONS.values() for setting in section
}


_NEEDED_FOR_TLS = {
    "given": ("preview_gateway_certificate", "preview_gateway_certificate_key"),
    "acme": ("preview_domain", "preview_gateway_acme_email", "preview_gateway_acme_dns_provider"),
}


def resolve(variables: Mapping[str, Any], required: Iterable[str] = ()) -> Settings:
    """Every setting, checked, out of an inventory's variables; raises SettingsRefused.

    Variables that do not begin with ``preview_`` are passed over; one that does and is no setting
    is refused. None stands for "not set". ``required`` names settings that must be set.
    """
    problems = [unknown(name) for name in variables if is_unknown(name)]
    settings: Settings = {}
    for name, setting in TABLE.items():
        settings[name] = _copy(setting.default)
        value = variables.get(name)
        if value is None or (isinstance(value, str) and value == "" == setting.default):
            continue
        try:
            settings[name] = setting.kind.read(value)
        except Wrong as refusal:
            problems.append(_refused(setting, refusal))
    wrong = {re.split(r"[.\[]", problem.name)[0] for problem in problems}
    problems += [
        Problem(name, f" is needed and not set. For instance {name}: {TABLE[name].example}")
        for name in required
        if settings[name] == TABLE[name].default and name not in wrong
    ]
    problems += _together(settings, wrong)
    if problems:
        raise SettingsRefused(problems)
    return settings


def public(settings: Mapping[str, Any]) -> Settings:
    """The settings without the secret ones, for what may be shown."""
    return {name: value for name, value in settings.items() if not TABLE[name].secret}


def is_unknown(name: str) -> bool:
    """Whether a variable looks like a setting and is none."""
    return name.startswith(PREFIX) and name not in TABLE


def unknown(name: str) -> Problem:
    """What to say of a setting there is none of, with the nearest one there is."""
    stems = [known[len(PREFIX) :] for known in TABLE]
    near = difflib.get_close_matches(name[len(PREFIX) :].lower(), stems, n=1, cutoff=0.6)
    hint = f" Did you mean {PREFIX}{near[0]}?" if near else " docs/settings.md has them all."
    return Problem(name, f" is no setting of ephemera.preview.{hint}")


def documentation() -> List[Dict[str, Any]]:
    """The table as plain rows: section, name, type, rule, default, secret, meaning, example."""
    return [
        {
            "section": section,
            "name": setting.name,
            "type": setting.kind.label,
            "rule": setting.kind.rule,
            "default": setting.default,
            "secret": setting.secret,
            "meaning": setting.meaning,
            "example": setting.example,
        }
        for section, settings in SECTIONS.items()
        for setting in settings
    ]


def _together(settings: Settings, wrong: Collection[str]) -> Iterable[Problem]:
    """What no setting can tell alone; ``wrong`` names those known to be wrong already."""
    if settings["preview_target"] == "kubernetes" and not settings["preview_registry"]:
        yield Problem(
            "preview_registry",
            " is needed because preview_target is kubernetes: the cluster pulls images there. "
            f"For instance preview_registry: {TABLE['preview_registry'].example}",
        )
    if settings["preview_tls_secret"] and settings["preview_tls_issuer"]:
        yield Problem(
            "preview_tls_issuer",
            " and preview_tls_secret are both set, and a host has one certificate. Unset the one "
            "that is not meant.",
        )
    if _is_open(settings):
        yield Problem(
            "preview_auth_users",
            " is refused: preview_ingress_controller is other, so nothing asks for a password and "
            "previews would be open. Let preview_ingress_annotations make the controller ask for "
            "one and set preview_ingress_auth to true, or unset preview_auth_users.",
        )
    size, sizes = settings["preview_size"], sorted(settings["preview_sizes"])
    if size not in sizes and not {"preview_size", "preview_sizes"} & set(wrong):
        rule = f"it must be one of preview_sizes ({', '.join(sizes)})"
        yield Problem("preview_size", f": {size!r} is refused: {rule}.")
    options = {
        "domain": "preview_domain",
        "domain_shared": "preview_domain_shared",
        "host_format": "preview_host_format",
        "ip": "preview_host_ip",
    }
    if not set(options.values()) & set(wrong):
        try:
            _names.names("app", 1, **{key: settings[name] for key, name in options.items()})
        except _names.NameRefused as refused:
            yield Problem(options[refused.what], f": {refused.value!r} is refused: {refused.rule}")
    if settings["preview_secrets"] and not settings["preview_secret_key"]:
        if "preview_secret_key" not in wrong:
            yield Problem(
                "preview_secrets",
                " needs preview_secret_key, which is not set. "
                "Put what `openssl rand -hex 32` prints into a vault, and set it to that.",
            )
    external = settings["preview_external_secrets"].get("data", {})
    if external and settings["preview_target"] != "kubernetes":
        yield Problem(
            "preview_external_secrets",
            " needs preview_target: kubernetes, since an operator in the cluster fetches them. "
            "For a Docker host put them into preview_secrets.",
        )
    if external and "store" not in settings["preview_external_secrets"]:
        example = TABLE["preview_external_secrets"].example
        yield Problem(
            "preview_external_secrets",
            f": store is missing. For instance preview_external_secrets: {example}",
        )
    for name in ("preview_environment", "preview_secrets"):
        for key in sorted(set(external) & set(settings[name])):
            yield Problem(
                f"preview_external_secrets.data.{key}",
                f" is set in {name}, too. Remove one of the two.",
            )
    tls = settings["preview_gateway_tls"]
    for name in _NEEDED_FOR_TLS.get(tls, ()):
        if not settings[name] and name not in wrong:
            yield Problem(
                name,
                f" is needed because preview_gateway_tls is {tls}. "
                f"For instance {name}: {TABLE[name].example}",
            )


def _is_open(settings: Settings) -> bool:
    """Whether nothing would ask for the passwords that are set."""
    return bool(
        settings["preview_auth_users"]
        and settings["preview_target"] == "kubernetes"
        and settings["preview_ingress_controller"] == "other"
        and not settings["preview_ingress_auth"]
    )


def _refused(setting: Setting, wrong: Wrong) -> Problem:
    shown = repr(wrong.value)
    if setting.secret or re.search(r"://[^/]*@", shown):
        shown = "the value (not shown)"
    elif len(shown) > 100:
        shown = f"{shown[:97]}..."
    refused = "" if wrong.value is None else f" {shown} is refused:"
    rule = wrong.rule if wrong.rule.endswith(".") else f"{wrong.rule}."
    return Problem(
        setting.name + wrong.where,
        f":{refused} {rule} For instance {setting.name}: {setting.example}",
    )


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
