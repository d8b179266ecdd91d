# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Kubernetes objects of a preview: written from planned fields, never copied."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _firewall,
    _interpolate,
    _manifests,
    _names,
    _plan,
)
from hypothesis import given
from hypothesis import strategies as st
from test_plan import complete, definition, settings, shop

CLUSTER = {"preview_target": "kubernetes", "preview_registry": "registry.example.org/previews"}


def renderer(
    of: dict[str, Any] | None = None, files: dict[str, bytes] | None = None, **given_: Any
) -> _manifests._Renderer:
    of = of or shop()
    planned: _plan.Completed = complete(of)
    services = _interpolate.unescape(of["services"])
    return _manifests._Renderer(planned.preview, services, settings(**given_), of, files or {})


def rendered(*arguments: Any, **given_: Any) -> _manifests.Manifests:
    return renderer(*arguments, **given_).render()


def everything(made: _manifests.Manifests) -> list[dict[str, Any]]:
    services = [each for objects in made.services.values() for each in objects]
    return [*made.base, *made.secret, *made.claims, *services]


def one(made: _manifests.Manifests, kind: str, name: str) -> dict[str, Any]:
    found = [
        each
        for each in everything(made)
        if each["kind"] == kind and each["metadata"]["name"] == name
    ]
    assert len(found) == 1, _manifests.kinds(everything(made))
    return found[0]


def pod(made: _manifests.Manifests, kind: str, name: str) -> dict[str, Any]:
    return dict(one(made, kind, name)["spec"]["template"]["spec"])


def main(made: _manifests.Manifests, kind: str = "Deployment", name: str = "web") -> dict[str, Any]:
    return dict(pod(made, kind, name)["containers"][0])


def web(**service: Any) -> dict[str, Any]:
    of = shop()
    of["services"]["web"].update(service)
    return of


def test_a_service_with_a_volume_is_stateful_and_any_other_is_not() -> None:
    made = rendered()
    assert _manifests.kinds(made.claims) == ["PersistentVolumeClaim/data"]
    assert _manifests.kinds(made.services["db"]) == ["Service/db", "StatefulSet/db"]
    assert _manifests.kinds(made.services["web"]) == [
        "Service/web",
        "Deployment/web",
        "Ingress/web",
        "NetworkPolicy/ingress-web",
    ]
    assert _manifests.kinds(made.services["worker"]) == ["Service/worker", "Deployment/worker"]


@pytest.mark.parametrize(
    ("claims", "groups"),
    [
        ({"web": "", "db": "a"}, {"db": "a"}),
        ({"web": "a", "db": "b"}, {"web": "a", "db": "b"}),
        ({"web": "bc", "job": "c", "db": "d"}, {"web": "bc", "job": "bc", "db": "d"}),
        # All of them: a pod cannot be beside each of two that are on different nodes.
        ({"x": "a", "y": "b", "z": "ba"}, {"x": "ab", "y": "ab", "z": "ab"}),
    ],
)
def test_those_who_share_a_volume_belong_together(
    claims: dict[str, str], groups: dict[str, str]
) -> None:
    wanted = {name: list(group) for name, group in groups.items()}
    assert _manifests.together(claims) == wanted
    assert _manifests.together(dict(reversed(claims.items()))) == wanted


def test_pods_that_share_a_volume_look_for_each_other_and_so_for_themselves() -> None:
    volume = {"type": "volume", "source": "files", "target": "/files"}
    once = {"build": {"context": "."}, "restart": "no", "volumes": [volume]}
    of = shop(job=once)
    of["services"]["web"]["volumes"] = [volume]
    made = rendered(of)
    (migrate,) = renderer(of).hook("web", "migrate")
    spec = pod(made, "StatefulSet", "web")
    # As it is run before a teardown.
    wish = {"command": ["true"], "timeout": 1}
    running = _manifests.hook_of(complete(of).preview, "before_down", "web", wish, spec)
    for each in (one(made, "StatefulSet", "web"), one(made, "Job", "job"), migrate, running):
        template = each["spec"]["template"]
        ((term,),) = template["spec"]["affinity"]["podAffinity"].values()
        assert term["topologyKey"] == "kubernetes.io/hostname"
        (sought,) = term["labelSelector"]["matchExpressions"]
        assert (sought["operator"], sought["values"]) == ("In", ["files"])
        # Where none of them is there yet, it may be anywhere only as it finds itself.
        assert template["metadata"]["labels"][sought["key"]] == "files"
    assert "affinity" not in pod(made, "Deployment", "worker")


def test_one_volume_more_is_looked_for_beside_those_who_have_the_others() -> None:
    def with_volumes(*names: str) -> dict[str, Any]:
        mounts = [{"type": "volume", "source": n, "target": f"/{n}"} for n in names]
        made = rendered(web(volumes=mounts))
        return dict(one(made, "StatefulSet", "web")["spec"]["template"])

    before, later = with_volumes("files"), with_volumes("files", "cache")
    ((term,),) = later["spec"]["affinity"]["podAffinity"].values()
    (sought,) = term["labelSelector"]["matchExpressions"]
    assert before["metadata"]["labels"][sought["key"]] in sought["values"]


def test_a_volume_whose_name_a_cluster_refuses_has_a_claim_of_another() -> None:
    of = shop()
    of["volumes"] = {"Pg_Data": {}, "pg-data": {}}
    of["services"]["db"]["volumes"][0]["source"] = "Pg_Data"
    of["services"]["worker"]["volumes"] = [
        {"type": "volume", "source": "pg-data", "target": "/data"}
    ]
    altered = _names.claim_name("Pg_Data")
    planned_ = complete(of, **CLUSTER)
    made = _manifests.Manifests(**planned_.project)
    assert _manifests.kinds(made.claims) == [
        "PersistentVolumeClaim/pg-data",
        "PersistentVolumeClaim/" + altered,
    ]
    (mounted,) = pod(made, "StatefulSet", "db")["volumes"]
    assert mounted["persistentVolumeClaim"] == {"claimName": altered}
    assert planned_.preview["volumes"] == ["pg-data", altered]
    assert planned_.preview["data_volumes"] == [altered]


def test_every_object_is_of_the_previews_namespace_and_bears_its_labels() -> None:
    made = rendered()
    labels = complete().preview["labels"]
    for each in everything(made):
        assert labels.items() <= each["metadata"]["labels"].items(), each
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "shop-pr-42"
    assert (
        one(made, "Namespace", "shop-pr-42")["metadata"]["labels"][
            "pod-security.kubernetes.io/enforce"
        ]
        == "baseline"
    )


def test_a_pod_may_nothing() -> None:
    made = rendered()
    for kind, name in (("Deployment", "web"), ("StatefulSet", "db"), ("Deployment", "worker")):
        spec = pod(made, kind, name)
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]["limits"]) == {
            "cpu",
            "memory",
            "ephemeral-storage",
        }


def test_a_key_that_is_not_known_here_is_not_copied() -> None:
    """Should the screen ever let one pass, it still reaches no cluster."""
    hostile = {
        "privileged": True,
        "network_mode": "host",
        "pid": "host",
        "ipc": "host",
        "devices": ["/dev/kmsg"],
        "labels": {"ephemera.preview/owner": "mine"},
        "annotations": {"kubernetes.io/ingress.class": "other"},
        "container_name": "other",
        "security_opt": ["seccomp:unconfined"],
        "runtime": "none",
        "service_account": "admin",
        "use_api_socket": True,
    }
    assert rendered(web(**hostile)) == rendered()


def environment_of(made: _manifests.Manifests, container: dict[str, Any]) -> dict[str, str]:
    (source,) = container["envFrom"]
    secret = one(made, "Secret", source["secretRef"]["name"])
    return {k: base64.b64decode(v).decode() for k, v in secret["data"].items()}


def test_an_environment_is_in_a_secret_of_its_own_and_nowhere_else() -> None:
    value = "s3cr3t-$(HOME)-$$"
    made = rendered(web(environment={"TOKEN": value.replace("$", "$$"), "UNSET": None}))
    assert environment_of(made, main(made)) == {"TOKEN": value}
    shown = json.dumps([each for each in everything(made) if each["kind"] != "Secret"])
    assert "s3cr3t" not in shown
    assert base64.b64encode(value.encode()).decode() not in shown


def test_another_environment_is_another_secret_so_that_pods_are_replaced() -> None:
    def name(key: str, value: str) -> str:
        made = rendered(web(environment={"A": value}), preview_secret_key=key)
        return str(main(made)["envFrom"][0]["secretRef"]["name"])

    assert name("k" * 32, "1") == name("k" * 32, "1") != name("k" * 32, "2")
    # Nobody can try out without the key what a short value is.
    assert name("k" * 32, "1") != name("l" * 32, "1")


def expanded(text: str) -> str:
    """What Kubernetes makes of a word of a command, where no variable is defined by ``env``."""
    found, at = [], 0
    while at < len(text):
        if text[at] == "$" and text[at + 1 : at + 2] == "$":
            found.append("$")
            at += 2
        else:
            assert text[at : at + 2] != "$(", "a reference"
            found.append(text[at])
            at += 1
    return "".join(found)


@given(st.text())
def test_a_command_is_taken_literally(text: str) -> None:
    assert expanded(_manifests.literal(text)) == text


def test_what_runs_is_what_compose_would_run() -> None:
    given_ = {
        "entrypoint": ["sh", "-c"],
        "command": ["echo $$HOME $$(id)"],
        "working_dir": "/srv",
        "user": "1000:2000",
        "read_only": True,
        "stop_grace_period": "1m30s",
    }
    made = rendered(web(**given_))
    container = main(made)
    assert container["command"] == ["sh", "-c"]
    assert [expanded(word) for word in container["args"]] == ["echo $HOME $(id)"]
    assert container["workingDir"] == "/srv"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    spec = pod(made, "Deployment", "web")
    assert spec["terminationGracePeriodSeconds"] == 90 + _manifests.DRAIN
    context = spec["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (1000, 2000)
    without = main(rendered())
    assert "command" not in without and "args" not in without


def test_the_name_of_a_user_cannot_be_told_and_is_refused() -> None:
    for name in ("node", "1000:node", "root-less"):
        with pytest.raises(_manifests.ManifestsRefused, match=rf"web\.user: '{name}' is a name"):
            rendered(web(user=name))


@pytest.mark.parametrize("user", ["root", "root:root", "0:root", "root:0"])
def test_root_is_number_0_everywhere(user: str) -> None:
    context = pod(rendered(web(user=user)), "Deployment", "web")["securityContext"]
    assert (context["runAsUser"], context["fsGroup"]) == (0, 0)
    assert context.get("runAsGroup", 0) == 0


@pytest.mark.parametrize("name", ["my_db", "Web", "9lives", "a.b", "x" * 64])
def test_a_service_whose_name_is_no_host_name_is_refused(name: str) -> None:
    of = shop(**{name: {"image": "redis:8"}})
    with pytest.raises(_manifests.ManifestsRefused, match="host name"):
        rendered(of)


@pytest.mark.parametrize(
    "given",
    [
        ["db.local=192.0.2.1", "a=192.0.2.2", "b=192.0.2.1", "b=::1"],
        {"db.local": ["192.0.2.1"], "a": "192.0.2.2", "b": ["192.0.2.1", "[::1]"]},
    ],
)
def test_hosts_of_one_address_are_one_entry(given: Any) -> None:
    assert pod(rendered(web(extra_hosts=given)), "Deployment", "web")["hostAliases"] == [
        {"ip": "192.0.2.1", "hostnames": ["db.local", "b"]},
        {"ip": "192.0.2.2", "hostnames": ["a"]},
        {"ip": "::1", "hostnames": ["b"]},
    ]


@pytest.mark.parametrize("host", ["my_host", "Host", "a..b"])
def test_a_host_whose_name_a_cluster_refuses_is_refused(host: str) -> None:
    with pytest.raises(_manifests.ManifestsRefused, match=r"web\.extra_hosts: .* no host name"):
        rendered(web(extra_hosts=[host + "=192.0.2.1"]))


def test_a_service_is_found_at_its_ports_and_without_any_at_all_of_them() -> None:
    made = rendered(shop(cache={"image": "acme/own-cache:1"}))
    assert one(made, "Service", "db")["spec"]["ports"][0]["port"] == 5432
    assert one(made, "Service", "web")["spec"]["ports"][0]["targetPort"] == 8000
    assert one(made, "Service", "cache")["spec"] == {
        "selector": {"ephemera.preview/service": "cache"},
        "clusterIP": "None",
    }


def test_ports_keep_their_protocol_and_a_range_is_all_of_its_ports() -> None:
    made = rendered(web(expose=["9000-9002", "53/udp"], ports=[{"target": 53}, {"target": 8000}]))
    ports = one(made, "Service", "web")["spec"]["ports"]
    found = [(port["name"], port["port"], port["protocol"]) for port in ports]
    tcp = [(f"t{port}", port, "TCP") for port in (53, 8000, 9000, 9001, 9002)]
    assert sorted(found) == sorted([*tcp, ("u53", 53, "UDP")])
    inside = main(made)["ports"]
    assert {"containerPort": 53, "protocol": "UDP"} in inside and len(inside) == len(ports)


def test_a_service_that_waits_for_one_that_starts_later_is_told_so() -> None:
    def notes(**wanted: str) -> list[str]:
        of = shop(
            job={"build": {"context": "."}, "restart": "no"},
            web={
                "build": {"context": "."},
                "ports": [{"target": 8000}],
                "depends_on": {name: {"condition": how} for name, how in wanted.items()},
            },
        )
        return [note for note in rendered(of).notes if "depends_on" in note]

    ends = "service_completed_successfully"
    assert not notes(db="service_healthy", job=ends)
    (note,) = notes(db="service_healthy", worker="service_started")
    assert note == "services.web.depends_on.worker is left out: both are started at once."
    assert not notes(db="service_healthy", worker="service_healthy")


def test_a_volume_that_an_image_may_have_filled_is_told_to_start_empty() -> None:
    def notes(**volume: Any) -> list[str]:
        mount = {"type": "volume", "source": "data", "target": "/a", **volume}
        return [note for note in rendered(web(volumes=[mount])).notes if "empty" in note]

    (note,) = notes()
    assert note.startswith("services.web.volumes: /a starts empty.")
    assert not notes(volume={"nocopy": True})


def test_the_new_version_starts_beside_the_old_one_but_where_one_is_wanted() -> None:
    strategy = one(rendered(), "Deployment", "web")["spec"]["strategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0
    of = definition(
        web={"image": "acme/web", "ports": [{"target": 8000}]},
        scheduler={
            "build": {"context": "."},
            "x-preview": {"exactly_one": True},
        },
    )
    assert one(rendered(of), "Deployment", "scheduler")["spec"]["strategy"] == {"type": "Recreate"}


def planned(of: dict[str, Any], **given_: Any) -> _manifests.Manifests:
    """The manifests of a whole plan."""
    return _manifests.Manifests(**complete(of, **CLUSTER, **given_).project)


def test_an_autoscaler_says_how_many_pods_there_are() -> None:
    of = definition(
        web={
            "image": "acme/web",
            "ports": [{"target": 8000}],
            "x-preview": {"autoscale": {"min": 2, "max": 4, "cpu": "50"}},
        },
    )
    made = planned(of)
    assert "replicas" not in one(made, "Deployment", "web")["spec"]
    spec = one(made, "HorizontalPodAutoscaler", "web")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 4)
    assert spec["metrics"][0]["resource"]["target"]["averageUtilization"] == 500  # of a tenth
    quota = one(made, "ResourceQuota", "preview")["spec"]["hard"]
    assert quota["limits.cpu"] == "8000m"  # four pods of a CPU each, twice
    assert quota["limits.ephemeral-storage"] == str(16 << 30)


STORE = {
    "store": {"kind": "ClusterSecretStore", "name": "vault"},
    "data": {"TOKEN": {"key": "shop/previews", "property": "token"}},
}
MARK = "(external-secret:TOKEN)"


def test_what_an_operator_brings_is_named_and_never_held() -> None:
    of = web(environment={"API_TOKEN": MARK, "A": "1"}, secrets=[{"source": "token"}])
    of["secrets"] = {"token": {"content": MARK}}
    made = planned(of, preview_external_secrets=STORE)
    (external,) = made.external
    assert external["spec"]["secretStoreRef"] == STORE["store"]
    assert external["spec"]["data"] == [
        {"secretKey": "TOKEN", "remoteRef": {"key": "shop/previews", "property": "token"}}
    ]
    name = external["metadata"]["name"]
    assert external["spec"]["target"]["name"] == name
    container = main(made)
    where = {"secretKeyRef": {"name": name, "key": "TOKEN"}}
    assert container["env"] == [{"name": "API_TOKEN", "valueFrom": where}]
    assert environment_of(made, container) == {"A": "1"}
    volumes = pod(made, "Deployment", "web")["volumes"]
    assert {"name": "v0", "secret": {"secretName": name}} in volumes
    assert container["volumeMounts"][0]["subPath"] == "TOKEN"
    listed = json.dumps([each for each in everything(made) if each["kind"] == "Secret"])
    assert "external-secret" not in listed
    assert "ExternalSecret/" + name in _manifests.everything(made._asdict())
    # Another key is another Secret, so that pods are replaced.
    other = planned(of, preview_external_secrets=STORE | {"data": {"TOKEN": {"key": "b"}}})
    assert other.external[0]["metadata"]["name"] != name


@pytest.mark.parametrize(
    ("service", "where"),
    [
        ({"environment": {"URL": "https://u:" + MARK + "@host"}}, "environment.URL"),
        ({"command": ["run", "--token=" + MARK]}, "command"),
        ({"build": {"context": ".", "args": {"TOKEN": MARK}}}, "build.args.TOKEN"),
        ({"healthcheck": {"test": ["CMD", "check", MARK]}}, "healthcheck.test"),
    ],
)
def test_what_an_operator_brings_stands_alone(service: dict[str, Any], where: str) -> None:
    with pytest.raises(_plan.PlanRefused, match=r"services\.web\." + where) as refused:
        planned(web(**service), preview_external_secrets=STORE)
    assert "holds ${TOKEN}, which preview_external_secrets grants" in str(refused.value)


def test_who_is_not_trusted_gets_nothing_that_an_operator_brings() -> None:
    of = web(environment={"API_TOKEN": MARK})
    made = planned(of, preview_external_secrets=STORE, preview_trusted=False)
    assert made.external == [] and "env" not in main(made)


def test_root_does_not_run_where_it_may_not() -> None:
    for user in ("0:0", "root"):
        rendered(web(user=user))
        with pytest.raises(_manifests.ManifestsRefused, match=r"web\.user: 0 is root"):
            rendered(web(user=user), preview_pod_security="restricted")


def test_files_come_as_config_maps_and_secrets_as_secrets() -> None:
    of = web(
        volumes=[
            {"type": "bind", "source": "conf/app.ini", "target": "/etc/app.ini"},
            {"type": "bind", "source": "static", "target": "/static"},
            {"type": "tmpfs", "target": "/scratch", "tmpfs": {"size": 1024}},
        ],
        configs=[{"source": "banner"}, {"source": "written", "mode": "0440"}],
        secrets=[{"source": "token", "target": "api"}],
    )
    of["configs"] = {"banner": {"file": "banner.txt"}, "written": {"content": "by $KEY"}}
    of["secrets"] = {"token": {"file": "token.txt"}}
    files = {
        "conf/app.ini": b"[a]",
        "static/a.css": b"a{}",
        "static/deep/b.bin": b"\xff\0",
        "token.txt": b"hush",
        "banner.txt": b"hello",
    }
    made = rendered(of, files)
    spec = pod(made, "Deployment", "web")
    at = {mount["mountPath"]: mount for mount in spec["containers"][0]["volumeMounts"]}
    paths = {"/etc/app.ini", "/static", "/scratch", "/banner", "/written", "/run/secrets/api"}
    assert set(at) == paths
    assert all(at[path].get("readOnly") for path in at if path != "/scratch")
    by_name = {volume["name"]: volume for volume in spec["volumes"]}

    def content(path: str) -> dict[str, bytes]:
        volume = by_name[at[path]["name"]]
        if "secret" in volume:
            held = one(made, "Secret", volume["secret"]["secretName"])["data"]
        else:
            held = one(made, "ConfigMap", volume["configMap"]["name"])["binaryData"]
        plain = {key: base64.b64decode(value) for key, value in held.items()}
        items = volume.get("configMap", {}).get("items")
        return {item["path"]: plain[item["key"]] for item in items} if items else plain

    assert content("/etc/app.ini") == {"file": b"[a]"}
    assert content("/static") == {"a.css": b"a{}", "deep/b.bin": b"\xff\0"}
    assert content("/banner") == {"file": b"hello"}
    assert content("/run/secrets/api") == {"file": b"hush"}
    # What was interpolated may hold a secret.
    assert content("/written") == {"file": b"by $KEY"}
    assert by_name[at["/written"]["name"]]["secret"]["defaultMode"] == 0o440
    for path, mode in (("/etc/app.ini", 0o555), ("/static", 0o555), ("/banner", None)):
        assert by_name[at[path]["name"]]["configMap"].get("defaultMode") == mode
    scratch = by_name[at["/scratch"]["name"]]
    assert scratch["emptyDir"] == {"medium": "Memory", "sizeLimit": "1024"}


def test_files_that_no_config_map_holds_are_refused() -> None:
    of = web(volumes=[{"type": "bind", "source": "big", "target": "/big"}])
    with pytest.raises(_manifests.ManifestsRefused, match=r"services\.web: .* 1025 KiB"):
        rendered(of, {"big": b"x" * (1024 << 10) + b"x"})


def test_what_no_secret_holds_is_refused() -> None:
    most = {f"A{n}": "x" * (32 << 10) for n in range(32)}
    rendered(web(environment=most))
    with pytest.raises(_manifests.ManifestsRefused, match=r"web\.environment: 1025 KiB"):
        rendered(web(environment=most | {"B": "x"}))
    of = web(secrets=[{"source": "token"}])
    of["secrets"] = {"token": {"file": "token.txt"}}
    with pytest.raises(_manifests.ManifestsRefused, match=r"^secrets\.token: 1025 KiB"):
        rendered(of, {"token.txt": b"x" * (1024 << 10) + b"x"})


@pytest.mark.parametrize("name", ["Logging:Level", "A/B", "9LIVES", "ä", "a" * 254, ".", "..a"])
def test_a_variable_whose_name_a_cluster_refuses_is_refused(name: str) -> None:
    with pytest.raises(_manifests.ManifestsRefused, match=r"web\.environment: .* is no name"):
        rendered(web(environment={name: "1"}))
    rendered(web(environment={"Logging__Level": "1", "a.b-c": "1", "_": "1"}))


def test_a_hook_is_a_job_that_runs_once_and_within_its_time() -> None:
    of = web(configs=[{"source": "banner"}])
    of["configs"] = {"banner": {"file": "banner.txt"}}
    files = {"banner.txt": b"hello"}
    mounted, job = renderer(of, files).hook("web", "migrate")
    assert mounted["kind"] == "ConfigMap"
    assert job["metadata"]["name"] == "migrate-web"
    pods = job["spec"]["template"]["metadata"]["labels"]
    assert pods[_manifests.HOOK] == "migrate-web"
    selector = one(rendered(of, files), "Service", "web")["spec"]["selector"]
    assert not selector.items() <= pods.items(), "nobody talks to a migration"
    assert job["spec"]["backoffLimit"] == 0
    assert job["spec"]["activeDeadlineSeconds"] == 120 + 60 + _manifests.LATER
    spec = job["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "Never"
    assert spec["containers"][0]["args"] == ["alembic", "upgrade", "head"]
    assert "readinessProbe" not in spec["containers"][0]


@pytest.mark.parametrize(
    ("entry", "whole"),
    [
        (None, ["image's own"]),
        (["sh", "-c"], ["sh", "-c"]),
        ([], []),
    ],
)
def test_a_hook_runs_by_the_entry_point_and_instead_of_the_command(
    entry: list[str] | None, whole: list[str]
) -> None:
    of = web(entrypoint=entry, command=["gunicorn", "app"])
    (job,) = renderer(of).hook("web", "migrate")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    begins = container.get("command", ["image's own"])
    assert begins + container.get("args", []) == [*whole, "alembic", "upgrade", "head"]
    # Before a teardown only what runs, and what was recorded, tells of it.
    preview = complete(of).preview
    wish = preview["wanted"]["services"]["web"]["hooks"]["migrate"]
    running = pod(rendered(of), "Deployment", "web")
    assert _manifests.hook_of(preview, "migrate", "web", wish, running) == job


def test_nothing_reaches_a_preview_but_itself_and_the_ingress_controller() -> None:
    made = rendered()
    policy = one(made, "NetworkPolicy", "default")["spec"]
    assert policy["podSelector"] == {} and policy["ingress"] == [{"from": [{"podSelector": {}}]}]
    (internet,) = [
        to["ipBlock"]
        for rule in policy["egress"]
        for to in rule["to"]
        if to.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
    ]
    assert internet["except"] == list(_firewall.CLOSED[4])
    door = one(made, "NetworkPolicy", "ingress-web")["spec"]
    assert door["ingress"][0]["ports"] == [{"port": 8000, "protocol": "TCP"}]
    assert not [e for e in everything(made) if e["metadata"]["name"] == "ingress-db"]


def test_a_known_data_image_runs_as_its_own_user_with_its_own_probe() -> None:
    made = rendered()
    spec = pod(made, "StatefulSet", "db")
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 999
    probe = main(made, "StatefulSet", "db")["readinessProbe"]["exec"]["command"]
    folder = environment_of(made, main(made, "StatefulSet", "db"))["PGDATA"]
    assert folder.startswith("/var/lib/postgresql/data/")
    assert probe[:2] == ["/bin/sh", "-c"]
    assert "${POSTGRES_USER:-postgres}" in expanded(probe[2])
    assert main(made, "StatefulSet", "db")["readinessProbe"]["timeoutSeconds"] == 5


@pytest.mark.parametrize(
    ("targets", "folder"),
    [
        (["/var/lib/postgresql/data"], "/var/lib/postgresql/data/own"),
        (["/var/lib/postgresql/"], "/var/lib/postgresql/own"),
        (["/backup", "/var/lib/postgresql"], "/var/lib/postgresql/own"),
        (["/var/lib/postgresql", "/var/lib/postgresql/data"], "/var/lib/postgresql/data/own"),
        (["/var/lib/postgresql/18/docker"], "/var/lib/postgresql/18/docker/own"),
        (["/backup"], None),
        (["/var/lib/postgresql/archive"], None),
    ],
)
def test_postgresql_keeps_its_data_in_the_volume_that_is_for_it(
    targets: list[str], folder: str | None
) -> None:
    of = shop()
    of["services"]["db"]["environment"] = {"POSTGRES_PASSWORD": "a"}
    of["services"]["db"]["volumes"] = [
        {"type": "volume", "source": f"v{n}", "target": target} for n, target in enumerate(targets)
    ]
    made = rendered(of)
    environment = environment_of(made, main(made, "StatefulSet", "db"))
    assert environment.get("PGDATA") == folder


def checked(**keys: Any) -> dict[str, Any]:
    """The readiness probe of a service with a health check of its own."""
    made = rendered(web(healthcheck={"test": ["CMD", "true"], **keys}))
    return dict(main(made)["readinessProbe"])


def test_a_health_check_is_as_compose_has_it_but_made_more_often() -> None:
    def numbers(**keys: Any) -> list[int]:
        probe = checked(**keys)
        return [probe[key] for key in ("periodSeconds", "timeoutSeconds", "failureThreshold")]

    assert numbers() == [5, 30, 3]
    assert numbers(interval="1m", timeout="500ms", retries=7, start_period="2m") == [60, 1, 9]


def test_a_health_check_is_taken_literally() -> None:
    # Compose's own $$ is one $, for whatever the check runs by.
    probe = checked(test=["CMD-SHELL", 'test "$$(id -u)" = $$$$UID'])
    shell, dash, script = probe["exec"]["command"]
    assert (shell, dash) == ("/bin/sh", "-c")
    assert expanded(script) == 'test "$(id -u)" = $$UID'
    probe = checked(test=["CMD", "is", "$$(TOKEN)"])
    assert [expanded(word) for word in probe["exec"]["command"]] == ["is", "$(TOKEN)"]


def test_a_plan_for_a_cluster_is_made_of_manifests_and_of_images_that_it_can_pull() -> None:
    planned = complete(**CLUSTER)
    images = {service["name"]: service["image"] for service in planned.preview["services"]}
    assert images["web"].startswith("registry.example.org/previews/")
    assert images["db"] == "postgres:17"
    assert planned.preview["data_volumes"] == ["data"]
    assert set(planned.project) == set(_manifests.Manifests._fields)
    assert list(planned.project["hooks"]["migrate"]) == ["web"]
    with pytest.raises(_plan.PlanRefused, match=r"web\.user"):
        complete(web(user="node"), **CLUSTER)


def test_what_waits_for_another_to_be_well_is_started_after_it() -> None:
    built = {"build": {"context": "."}}
    of = definition(
        db={"image": "postgres:17"},
        job={**built, "restart": "no"},
        api={**built, "depends_on": {"job": {"condition": "service_completed_successfully"}}},
        web={
            **built,
            "ports": [{"target": 8000}],
            "depends_on": {"api": {"condition": "service_healthy"}},
        },
        worker={**built, "depends_on": {"web": {"condition": "service_started"}}},
    )
    made = rendered(of)
    assert made.data == [["db"]]
    assert [sorted(wave) for wave in made.others] == [["job", "worker"], ["api"], ["web"]]


def test_what_is_run_once_is_recorded_as_one() -> None:
    of = shop(job={"build": {"context": "."}, "restart": "no", "deploy": {"replicas": 2}})
    (job,) = (s for s in complete(of, **CLUSTER).preview["services"] if s["name"] == "job")
    assert (job["replicas"], job["most"]) == (1, 1)
    (job,) = (s for s in complete(of).preview["services"] if s["name"] == "job")
    assert (job["replicas"], job["most"]) == (2, 2)


def test_a_data_service_waits_for_another_one_likewise() -> None:
    def waits(name: str, how: str) -> dict[str, Any]:
        return {"depends_on": {name: {"condition": how}}}

    once = {"image": "minio/mc", "restart": "no"}
    of = shop(
        minio={"image": "minio/minio"},
        bucket=once | waits("minio", "service_healthy"),
        upload=once | waits("bucket", "service_completed_successfully"),
        cache={"image": "redis:8"} | waits("minio", "service_started"),
    )
    made = rendered(of)
    assert [sorted(wave) for wave in made.data] == [
        ["cache", "db", "minio"],
        ["bucket"],
        ["upload"],
    ]
    assert [sorted(wave) for wave in made.others] == [["web", "worker"]]
    assert [note for note in made.notes if "depends_on" in note] == [
        "services.cache.depends_on.minio is left out: both are started at once."
    ]
