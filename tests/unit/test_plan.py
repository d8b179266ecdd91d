"""The plan: from settings and a definition in Compose's normal form to `preview` and a project."""

from __future__ import annotations

import ipaddress
import json
import re

import pytest
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _checks,
    _docker,
    _drift,
    _firewall,
    _identity,
    _plan,
    _project,
    _redact,
    _refusal,
    _settings,
    _xpreview,
)
from hypothesis import given
from hypothesis import strategies as st

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def settings(**given_):
    base = {
        "preview_number": 42,
        "preview_commit": COMMIT,
        "preview_repository": "https://forge.example.com/acme/shop.git",
        "preview_domain": "preview.example.com",
    }
    return _settings.resolve(dict(base, **given_))


def identity(**given_):
    of = settings(**given_)
    preview = _identity.identity("shop", of, run="r", builder="shop")
    preview["observed"] = _docker.empty(preview["name"])
    preview.update(gateway=None, rebuild=False)
    preview["fingerprint"] = _drift.fingerprint(preview, of)
    return preview


def definition(**services):
    x = {name: service.pop("x-preview", {}) for name, service in services.items()}
    wishes, problems, dummy = _xpreview.normalise({"web": "web"}, x, services)
    assert not problems
    return {
        "file": "compose.yaml",
        "services": services,
        "volumes": {"data": {}},
        "x_preview": {"web": wishes.web, "services": wishes.services},
        "notes": [],
        "digests": dict.fromkeys(services, "d" * 64),
    }


def shop(**changes):
    build = {"context": ".", "dockerfile": "Dockerfile"}
    services = {
        "web": {
            "build": build,
            "ports": [{"target": 8000}],
            "environment": {"COST": "5$$", "EMPTY": None},
            "depends_on": {"db": {"condition": "service_healthy", "required": True}},
            "x-preview": {"migrate": {"command": ["alembic", "upgrade", "head"], "timeout": 60}},
        },
        "worker": {"build": build},
        "db": {
            "image": "postgres:17",
            "volumes": [{"type": "volume", "source": "data", "target": "/var/lib/postgresql/data"}],
        },
    }
    services.update(changes)
    return definition(**services)


def complete(of=None, taken=(), **given_):
    return _plan.complete(identity(**given_), of or shop(), settings(**given_), taken)


def by_name(preview):
    return {service["name"]: service for service in preview["services"]}


# What is planned


def test_services_that_share_a_build_share_an_image():
    services = by_name(complete().preview)
    assert services["web"]["image"] == f"ephemera-preview/shop-pr-42/web:{COMMIT[:12]}"
    assert services["worker"]["image"] == services["web"]["image"]
    assert services["db"]["image"] == "postgres:17"


def test_image_only_services_that_nobody_talks_to_are_data():
    assert [s["name"] for s in complete().preview["services"] if s["data"]] == ["db"]


def test_a_proxy_in_front_of_the_app_is_no_data_service():
    of = shop(proxy={"image": "nginx", "depends_on": {"web": {"condition": "service_started"}}})
    assert not by_name(complete(of).preview)["proxy"]["data"]


def test_only_what_is_exposed_joins_the_edge_network_under_our_alias():
    planned = complete()
    edge = planned.preview["edge"]
    assert edge["aliases"] == {"web": "web.shop-pr-42.preview.internal"}
    assert edge["labels"] == planned.preview["labels"]
    # Compose would add its names of services to ours.
    assert list(planned.project["networks"]) == ["default"]
    assert not [s for s in planned.project["services"].values() if "networks" in s]


def test_the_firewall_knows_an_apps_networks_by_their_interfaces():
    planned = complete()
    options = planned.project["networks"]["default"]["driver_opts"]
    bridges = {planned.preview["edge"]["bridge"], *options.values()}
    mine = _firewall.interface("shop").rstrip("+")
    assert len(bridges) == 2 and all(name.startswith(mine) for name in bridges)


def test_every_object_carries_our_labels_written_out():
    project = complete().project
    labels = identity()["labels"]
    for kind in ("networks", "volumes"):
        assert project[kind]
        assert all(thing["labels"] == labels for thing in project[kind].values())
    for name, service in project["services"].items():
        assert service["labels"] == dict(labels, **{"ephemera.preview/service": name})


def test_a_container_is_limited_and_publishes_nothing():
    for service in complete().project["services"].values():
        limits = service["deploy"]["resources"]["limits"]
        assert set(limits) == {"cpus", "memory", "pids"}
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["logging"]["options"]["max-size"]
        assert not {"ports", "privileged", "network_mode", "container_name"} & set(service)


def test_a_service_may_ask_for_less_than_the_largest_size_but_not_for_more():
    def memory(asked):
        limits = {"resources": {"limits": {"memory": asked}}}
        of = shop()
        of["services"]["web"]["deploy"] = limits
        done = complete(of)
        return by_name(done.preview)["web"]["resources"]["memory"], done.preview["notes"]

    assert memory("100M") == (100 << 20, [])
    top = max(_checks.in_bytes(s["memory"]) for s in settings()["preview_sizes"].values())
    capped, warnings = memory("64g")
    assert capped == top
    assert "services.web: memory" in warnings[0]


def test_dollars_mean_themselves_all_the_way():
    environment = complete().project["services"]["web"]["environment"]
    assert environment == {"COST": "5$$"}, "Compose reads $$ as one $"


def test_a_known_database_without_a_check_gets_one_that_waits_for_tcp():
    check = complete().project["services"]["db"]["healthcheck"]
    assert "127.0.0.1" in " ".join(check["test"])


def test_a_check_that_only_the_image_has_is_asked_from_the_start():
    check = complete().project["services"]["web"]["healthcheck"]
    assert check == {"start_period": "120s", "start_interval": "500ms"}, "the rest is the image's"
    long = complete(preview_verify_timeout=600).project["services"]["web"]["healthcheck"]
    assert long["start_period"] == "600s"


def test_prebuilt_images_are_not_built():
    services = by_name(
        complete(preview_images={"web": "registry.example.com/shop:{commit}"}).preview
    )
    assert services["web"]["prebuilt"] == f"registry.example.com/shop:{COMMIT}"
    assert services["web"]["build"] is None
    with pytest.raises(_plan.PlanRefused, match="preview_images names 'api'"):
        complete(preview_images={"api": "x:{commit}"})


def test_a_file_from_the_checkout_is_bound_read_only_from_our_tree():
    of = shop()
    of["services"]["web"]["volumes"] = [
        {"type": "bind", "source": "./conf/app.ini", "target": "/etc/app.ini"}
    ]
    (mount,) = complete(of).project["services"]["web"]["volumes"]
    tree = f"/var/lib/ephemera-preview/previews/shop-pr-42/source/{COMMIT}"
    assert mount["source"] == tree + "/conf/app.ini"
    assert mount["read_only"] is True


# Secrets


SECRET = "s3cret-value-of-a-token"
KEY = "k" * 32


def with_secret(**x):
    of = shop()
    of["services"]["web"]["environment"] = {"TOKEN": SECRET}
    of["services"]["web"]["command"] = ["serve", "--token", SECRET]
    of["x_preview"]["services"]["web"].update(x)
    return of


def test_preview_holds_no_secret_and_the_project_does():
    done = complete(with_secret(), preview_secrets={"TOKEN": SECRET}, preview_secret_key=KEY)
    assert SECRET not in json.dumps(done.preview)
    assert done.project["services"]["web"]["environment"]["TOKEN"] == SECRET


def test_a_hook_may_not_carry_a_secret_in_its_arguments():
    of = with_secret(seed={"command": ["seed", f"--token={SECRET}"], "timeout": 60})
    with pytest.raises(_plan.PlanRefused, match=r"services\.web\.x-preview\.seed\.command") as e:
        complete(of, preview_secrets={"TOKEN": SECRET}, preview_secret_key=KEY)
    assert SECRET not in str(e.value)


@pytest.mark.parametrize("secret", ["correct horse battery", """it's "quoted" \\here"""])
def test_a_secret_is_found_in_a_hook_that_was_split_into_words(secret):
    command = ["seed", *re.sub(r"[\'\"\\\\]", "", secret).split()]
    of = with_secret(seed={"command": command, "timeout": 60})
    with pytest.raises(_plan.PlanRefused, match=r"x-preview\.seed\.command holds"):
        complete(of, preview_secrets={"TOKEN": secret}, preview_secret_key=KEY)


@pytest.mark.parametrize(
    "key, change",
    [
        ("image", {"image": f"registry.example.org/{SECRET}:1", "build": None}),
        ("build", {"build": {"context": ".", "dockerfile_inline": f"FROM x\nRUN {SECRET}\n"}}),
        ("x-preview.health", {}),
    ],
)
def test_a_secret_is_refused_where_a_plan_would_show_it(key, change):
    of = with_secret(health={"path": f"/health?{SECRET}", "deep": None, "status": [200]})
    of["services"]["web"].update(change)
    if change:
        of["x_preview"]["services"]["web"]["health"] = None
    with pytest.raises(_plan.PlanRefused) as refused:
        complete(of, preview_secrets={"TOKEN": SECRET}, preview_secret_key=KEY)
    assert f"services.web.{key} holds the value of a secret" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_what_a_preview_is_called_stays_though_it_be_a_secret_as_well():
    of = complete(shop(), preview_secrets={"TOKEN": "shop-pr-42"}, preview_secret_key=KEY)
    assert of.preview["name"] == "shop-pr-42"
    assert of.preview["url"] == complete(shop()).preview["url"]


def test_hooks_take_no_more_time_together_than_is_allowed():
    hook = {"command": ["sleep", "99"], "timeout": 900}
    of = with_secret(migrate=hook, seed=hook, after_deploy=hook, before_down=hook)
    assert complete(of, preview_hooks_timeout=3600).preview["hooks"]
    with pytest.raises(_plan.PlanRefused, match=r"take 3600 s together.* is 3599 s"):
        complete(of, preview_hooks_timeout=3599)


def test_a_build_argument_may_not_carry_a_secret():
    of = shop()
    of["services"]["web"]["build"] = {"context": ".", "args": {"TOKEN": SECRET}}
    with pytest.raises(_plan.PlanRefused, match=r"services\.web\.build\.args") as e:
        complete(of, preview_secrets={"TOKEN": SECRET}, preview_secret_key=KEY)
    assert SECRET not in str(e.value)


def test_untrusted_pull_requests_see_no_secrets():
    given_ = {"preview_secrets": {"TOKEN": SECRET}, "preview_secret_key": KEY}
    assert _plan.grants(identity(**given_), settings(**given_)).secrets["TOKEN"] == SECRET
    given_["preview_trusted"] = False
    granted = _plan.grants(identity(**given_), settings(**given_))
    assert "TOKEN" not in {**granted.variables, **granted.secrets}


def test_derived_secrets_differ_by_everything_that_identifies():
    base = identity()
    derived = {_identity.derive(KEY, base, "app")}
    for change in (
        {"forge": "x"}, {"repository": "x"}, {"app": "x"}, {"number": 43}, {"trusted": False},
    ):  # fmt: skip
        derived.add(_identity.derive(KEY, dict(base, **change), "app"))
    derived.add(_identity.derive(KEY, base, "other"))
    derived.add(_identity.derive("j" * 32, base, "app"))
    assert len(derived) == 8
    shifted = [dict(base, app="a", repository="bc"), dict(base, app="ab", repository="c")]
    assert len({_identity.derive(KEY, of, "app") for of in shifted}) == 2


SAID = 'a "b\\c" é $HOME'


@pytest.mark.parametrize(
    "text",
    [
        SAID,
        json.dumps({"a": [SAID]}),
        f"{SAID!r} is no port",
        SAID.replace("$", "$$"),
        _refusal.shown([SAID]),
        _refusal.shown({"key": "x" * 60 + SAID}),
        _refusal.plain("x" * 70 + SAID, 80),
    ],
)
def test_a_secret_is_hidden_however_it_is_quoted_or_cut(text):
    secrets = _identity.secret_values(
        identity(), settings(preview_secrets={"TOKEN": SAID}, preview_secret_key=KEY)
    )
    hidden = _redact.redact(text, secrets)
    assert "********" in hidden
    assert '"b' not in hidden and "b\\" not in hidden


def test_redaction_replaces_the_longer_secret_first():
    text = {"a": ["abcd and abcdef"]}
    assert _redact.redact(text, ["abcdef", "abcd"]) == {"a": ["******** and ********"]}


# Owner


@pytest.mark.parametrize(
    ("address", "owner"),
    [
        ("https://forge.example.com/acme/shop.git", ("forge.example.com", "acme/shop")),
        ("https://forge.example.com:8443/acme/shop", ("forge.example.com", "acme/shop")),
        ("git@forge.example.com:acme/shop.git", ("forge.example.com", "acme/shop")),
        ("ssh://git@forge.example.com:22/acme/shop.git", ("forge.example.com", "acme/shop")),
        ("/srv/git/shop.git", ("", "srv/git/shop")),
    ],
)
def test_the_owner_of_a_preview_is_its_repository(address, owner):
    assert _identity.repository_identity(settings(preview_repository=address)) == owner


def test_things_of_another_owner_and_foreign_things_are_told():
    preview = identity()
    alien = {"name": "shop-pr-42_data", "labels": {"ephemera.preview/owner": "f" * 16}}
    preview["observed"]["volumes"] = [alien]
    preview["observed"]["foreign"] = [{"kind": "container", "name": "shop-pr-42-web-1"}]
    told = _drift.ownership(preview)
    assert len(told) == 2
    assert "volume shop-pr-42_data belongs to another repository" in told[0]
    assert "container shop-pr-42-web-1" in told[1]


# Drift


def ready():
    """A preview that serves exactly what is wanted."""
    preview = dict(complete().preview)
    seen = preview["observed"]
    images = {s["image"]: f"sha256:{n}" for n, s in enumerate(preview["services"])}
    seen["images"] = [{"ref": ref, "id": i} for ref, i in images.items()]
    seen["containers"] = [
        {
            "service": s["name"],
            "oneoff": False,
            "anonymous": [],
            "image_id": images[s["image"]],
            "state": "running",
            "health": "healthy",
            "exit_code": None,
            "networks": ["shop-pr-42_default", *(["shop-pr-42_edge"] if s["expose"] else [])],
            "labels": {},
        }
        for s in preview["services"]
    ]
    seen["volumes"] = [{"name": "shop-pr-42_data", "created": "then", "labels": {}}]
    seen["route"] = "abc"
    seen["applied"] = {"Secret/web-1": "ours", "Service/web": "ours"}
    state = _drift.deployed(preview, seen, now=100)
    seen["state"] = dict(state, status="ready", seeded={"shop-pr-42_data": "then"})
    preview["gateway"] = {"state": "running", "networks": ["shop-pr-42_edge"]}
    return preview


def test_what_is_served_as_wanted_does_not_drift():
    assert _drift.drift(ready(), now=200) == ""


def container(**change):
    return lambda p: p["observed"]["containers"][0].update(change)


def applied(there):
    return lambda p: p["observed"].update(applied=there)


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda p: p["observed"].update(state={}), "nothing is deployed"),
        (lambda p: p["observed"]["state"].update(commit="f" * 40), "commit ffffffffffff"),
        (lambda p: p.update(fingerprint="other"), "settings or grants"),
        (lambda p: p["observed"]["state"].update(status="failed"), "failed"),
        (lambda p: p["observed"].update(lease="o 1 down h/0 1 1"), "a down has begun"),
        (lambda p: p["observed"]["images"].clear(), "image is gone"),
        (lambda p: p["observed"]["containers"].pop(), "0 of 1 containers"),
        (container(image_id="sha256:moved"), "another image"),
        (container(state="exited"), "healthy"),
        (container(health="unhealthy"), "unhealthy"),
        (lambda p: p["observed"].update(route=""), "the route"),
        (applied({"Secret/web-1": "ours"}), "Service/web is gone or was changed"),
        (applied({"Secret/web-1": "theirs", "Service/web": "ours"}), "Secret/web-1 is gone or"),
        (lambda p: p.update(gateway=None), "gateway does not run"),
        (lambda p: p["gateway"].update(networks=[]), "the gateway is not attached"),
        (
            lambda p: [c.update(networks=[]) for c in p["observed"]["containers"]],
            "web is not attached",
        ),
        (lambda p: p["observed"].update(volumes=[]), "volume shop-pr-42_data is gone"),
        (lambda p: p["observed"]["volumes"][0].update(created="now"), "not the data"),
    ],
)
def test_every_drift_is_seen(break_it, told):
    preview = ready()
    break_it(preview)
    assert told in _drift.drift(preview, now=200)


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["running"], "1 of 2 containers"),
        (["running", "running"], ""),
        (["running"] * 4, ""),
        (["running", "running", "created"], ""),
        (["running", "created"], "runs another image"),
        (["running"] * 5, "5 of 2 containers"),
        (["running", "running", "restarting"], "worker is"),
    ],
)
def test_what_an_autoscaler_does_is_no_drift(states, told):
    preview = ready()
    state, seen = preview["observed"]["state"], preview["observed"]
    state["services"]["worker"].update(replicas=2, most=4)
    (worker,) = [c for c in seen["containers"] if c["service"] == "worker"]
    seen["containers"] = [c for c in seen["containers"] if c is not worker]
    for word in states:
        image_id = "" if word == "created" else worker["image_id"]
        seen["containers"].append(dict(worker, state=word, image_id=image_id))
    found = _drift.drift(preview, now=200)
    assert told in found if told else found == ""


def test_a_docker_host_does_not_scale_and_says_so():
    of = shop()
    of["x_preview"]["services"]["worker"]["autoscale"] = {"min": 2, "max": 4, "cpu": 80}
    done = complete(of)
    (worker,) = [s for s in done.preview["services"] if s["name"] == "worker"]
    assert (worker["replicas"], worker["most"], worker["autoscale"]) == (2, 2, None)
    assert done.project["services"]["worker"]["deploy"]["replicas"] == 2
    assert "services.worker.x-preview.autoscale is left out" in "".join(done.preview["notes"])


def test_a_job_is_not_scaled():
    of = shop()
    of["x_preview"]["services"]["worker"]["autoscale"] = {"min": 1, "max": 4, "cpu": 80}
    of["services"]["worker"]["restart"] = "no"
    with pytest.raises(_plan.PlanRefused, match=r"worker\.x-preview\.autoscale: .*a job to end"):
        complete(of)


def test_images_grow_old_where_a_limit_is_set():
    assert _drift.drift(ready(), now=200, max_age=50) == _drift.TOO_OLD
    assert not _drift.drift(ready(), now=140, max_age=50)


def test_images_grow_old_while_commits_come():
    preview = ready()
    again = _drift.deployed(preview, preview["observed"], now=140)
    preview["observed"]["state"].update(again, commit="f" * 40)
    assert not _drift.too_old(preview, now=150, max_age=50)
    assert _drift.too_old(preview, now=151, max_age=50), "though deployed a moment ago"
    assert not _drift.too_old(preview, now=151, max_age=0)
    preview["rebuild"] = True
    assert _drift.deployed(preview, preview["observed"], now=151)["built"] == 151


def test_it_expires_where_that_is_set():
    deployed = ready(), ready()["observed"]
    assert _drift.deployed(*deployed, now=140, ttl=60)["expires"] == 200
    assert _drift.deployed(*deployed, now=140)["expires"] == 0


def test_images_are_built_where_they_run():
    settings = _settings.resolve({"preview_builder": "builder"})
    with pytest.raises(_identity.IdentityRefused, match="'builder' is refused: .* by shop itself"):
        _identity.builder(settings, "shop")
    assert _identity.builder(settings, "builder") == "builder"
    assert _identity.builder(_settings.resolve({}), "shop") == "shop"
    assert _identity.builder(dict(settings, preview_target="kubernetes"), "shop") == "builder"


@pytest.mark.parametrize(
    "change",
    [
        {"preview_environment": {"A": "1"}},
        {"preview_secrets": {"A": "1"}, "preview_secret_key": KEY},
        {"preview_secret_key": KEY},
        {"preview_trusted": False},
        {"preview_size": "large"},
        {"preview_rate_limit": 5},
    ],
)
def test_what_decides_what_is_deployed_changes_the_fingerprint(change):
    assert identity(**change)["fingerprint"] != identity()["fingerprint"]


def test_how_a_run_works_does_not_change_the_fingerprint():
    quiet = identity(
        preview_verify_timeout=5,
        preview_result_dir="/tmp/x",
        preview_no_log=False,
        preview_service="worker",
        preview_registries=[{"registry": "r.org", "username": "u", "password": "rotated"}],
    )
    assert quiet["fingerprint"] == identity()["fingerprint"]


def test_what_may_be_reached_is_of_all_on_a_docker_host_and_of_the_preview_in_a_cluster():
    open_ = {"preview_egress_allow": ["10.0.0.0/8"]}
    assert identity(**open_)["fingerprint"] == identity()["fingerprint"]
    there = {"preview_target": "kubernetes", "preview_registry": "registry.example.com/previews"}
    assert identity(**there, **open_)["fingerprint"] != identity(**there)["fingerprint"]


def test_of_each_setting_it_is_known_whether_it_decides_what_is_deployed():
    """A setting that is new has to be put here or there."""
    deciding = ["app", "target", "trusted", "forge", "repository_id"]
    deciding += ["compose_file", "profiles", "compose_allow", "environment", "secrets"]
    deciding += ["secret_key", "sentry_dsn", "otel_endpoint", "images", "build_secrets", "ttl"]
    deciding += ["build_frontends", "base_images", "state_dir", "sizes", "size"]
    deciding += ["log_driver", "log_options", "auth_users", "rate_limit"]
    deciding += ["registry", "pod_security", "storage_class", "volume_size"]
    deciding += ["external_secrets", "ephemeral_storage"]
    deciding += ["ingress_class", "ingress_controller", "ingress_namespace", "ingress_networks"]
    deciding += ["ingress_annotations", "ingress_auth", "ingress_tls", "tls_secret", "tls_issuer"]
    known = {f"preview_{name}" for name in deciding}
    assert not known & _drift._TRANSIENT
    assert known | _drift._TRANSIENT == set(_settings.TABLE)


# Subnets


@given(st.lists(st.integers(0, 1023), max_size=200, unique=True), st.text(max_size=20))
def test_allocated_subnets_are_free_and_of_the_pool(taken_indexes, seed):
    pool = ipaddress.ip_network("10.213.0.0/16")
    taken = [str(ipaddress.ip_network((int(pool[0]) + n * 64, 26))) for n in taken_indexes]
    got = [ipaddress.ip_network(s) for s in _plan.allocate([str(pool)], taken, seed, 2)]
    assert len(got) == 2 and not got[0].overlaps(got[1])
    for net in got:
        assert net.prefixlen == 26 and net.subnet_of(pool)
        assert str(net) not in taken


def test_a_pool_that_is_used_up_is_an_error_that_says_what_to_do():
    with pytest.raises(_plan.PlanRefused, match="preview_docker_subnets"):
        _plan.allocate(["10.0.0.0/26"], ["10.0.0.0/8"], "x", 1)


def test_networks_that_exist_keep_their_subnets():
    preview = identity()
    mine = [{"name": "shop-pr-42_default", "subnets": ["10.213.9.0/26"], "labels": {}}]
    preview["observed"]["networks"] = mine
    done = _plan.complete(preview, shop(), settings(), [])
    assert done.project["networks"]["default"]["ipam"]["config"] == [{"subnet": "10.213.9.0/26"}]


# Escaping


@given(st.text())
def test_escaping_doubles_dollars_and_nothing_else(text):
    assert _project.escape(text).replace("$$", "$") == text
