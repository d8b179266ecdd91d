# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names: valid for their kinds, never shared, never changed, and bad input refused in words."""

from __future__ import annotations

import inspect
import json
import random
import re
import string
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible.plugins.loader import lookup_loader
from ansible_collections.ephemera.preview.plugins.module_utils import _names
from ansible_collections.ephemera.preview.plugins.module_utils._names import NameRefused
from ansible_collections.ephemera.preview.plugins.modules import name_info
from hypothesis import example, given, settings
from hypothesis import strategies as st

GOLDEN = json.loads((Path(__file__).parent / "golden" / "names.json").read_text())
COMMIT = "0123456789abcdef0123456789abcdef01234567"

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
RFC1035_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
COMPOSE_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]*")
SQL_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
IMAGE_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
IMAGE_PART = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")

apps = st.text(min_size=1, max_size=80).filter(str.strip)
numbers = st.integers(1, _names.NUMBER_MAX)
domains = st.sampled_from([None, "example.org", "x." + ".".join(["d" * 60] * 3)])


def refusal(*arguments: object, **options: object) -> str:
    with pytest.raises(NameRefused) as caught:
        _names.describe(*arguments, **options)
    return str(caught.value)


def random_app(source: random.Random) -> str:
    """Letters of any script, or near the pitfalls: separators, numbers, hashes, reserved words."""
    if source.random() < 0.5:
        points = [source.randrange(1, 0x30000) for dummy in range(source.randint(1, 60))]
        text = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
    else:
        pieces = ["shop", "api", "pr", "-", "--", "_", ".", "PR", "42", "4", "pg", "kube", "xn--"]
        pieces += ["-pr-4", "ü", "u\u0308", "\u202e", " ", "0123456789", "-deadbeef00"]
        text = "".join(source.choice(pieces) for dummy in range(source.randint(1, 12)))
    return text if text.strip() else "☃" + text


def check(found: dict) -> None:
    """Every name holds to the rules of the engine that will be given it."""
    for kind in ("name", "namespace", "release", "slug"):
        assert RFC1035_LABEL.fullmatch(found[kind]), found
    assert len(found["release"]) <= 53
    assert COMPOSE_PROJECT.fullmatch(found["project"])
    for kind in ("database", "role", "schema"):
        assert SQL_IDENTIFIER.fullmatch(found[kind])
        assert len(found[kind].encode()) <= 63
        assert not found[kind].startswith("pg_")
    assert not found["namespace"].startswith(("kube-", "openshift-"))
    assert "--" not in found["name"]
    assert len(found["host"]) <= 253
    assert all(DNS_LABEL.fullmatch(part) for part in found["host"].split("."))
    assert found["url"] == f"http://{found['host']}"
    assert IMAGE_TAG.fullmatch(found["image_tag"])
    assert all(LABEL_VALUE.fullmatch(value) for value in found["labels"].values())


def test_the_example_of_the_design() -> None:
    found = _names.names("shop", 42, domain="example.org")
    assert found.name == found.namespace == found.project == found.release == "shop-pr-42"
    assert found.database == found.role == found.schema == "shop_pr_42"
    assert found.host == "shop-pr-42.example.org"
    assert _names.service_host(found, "api") == "api--shop-pr-42.example.org"
    assert _names.service_url(found, "api") == "http://api--shop-pr-42.example.org"
    assert _names.names("shop", 42).host == "shop-pr-42.localhost"
    assert _names.names("shop", 42, ip="10.0.0.5").host == "shop-pr-42.10-0-0-5.sslip.io"
    assert _names.edge_alias(found, "web") == "web.shop-pr-42.preview.internal"
    assert _names.image(found, "web", COMMIT) == "ephemera-preview/shop-pr-42/web:0123456789ab"
    assert (
        _names.image(found, "web", COMMIT.upper(), "registry.example.org:5000/previews")
        == "registry.example.org:5000/previews/ephemera-preview/shop-pr-42/web:0123456789ab"
    )
    assert _names.labels(found, _names.owner_id("github", "1")) == {
        "ephemera.preview/app": "shop",
        "ephemera.preview/name": "shop-pr-42",
        "ephemera.preview/number": "42",
        "ephemera.preview/owner": _names.owner_id("github", "1"),
        "ephemera.preview/schema": "1",
    }


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: ascii(case["app"][:20]))
def test_names_are_frozen(case: dict) -> None:
    found = _names.describe(case["app"], case["number"], **case["options"])
    assert found == case["names"], "see golden/README.md: living previews would be orphaned"


def test_service_hosts_and_owners_are_frozen() -> None:
    for case in GOLDEN["services"]:
        found = _names.names(case["app"], case["number"], **case["options"])
        for service, host in case["hosts"].items():
            assert _names.service_host(found, service) == host
    for forge, repository, owner in GOLDEN["owners"]:
        assert _names.owner_id(forge, repository) == owner


def test_no_two_of_ten_thousand_share_a_name() -> None:
    source = random.Random(42)
    inputs = set()
    while len(inputs) < 10_000:
        inputs.add(
            (random_app(source), source.choice([1, 2, 4, 12, 42, 421, source.getrandbits(30) + 1]))
        )
    owners: dict = {}
    slugs: dict = {}
    for app, number in inputs:
        found = _names.describe(app, number)
        check(found)
        assert found == _names.describe(app, str(number))
        assert _names.parse(found["name"]) == (found["slug"], number)
        assert slugs.setdefault(found["slug"], app) == app
        for kind in ("name", "database", "host"):
            assert owners.setdefault((kind, found[kind]), (app, number)) == (app, number)


def test_no_name_and_hyphen_begins_another() -> None:
    """`docker ps` knows <project>-<service>-<index>, so shop-pr-4-pr-2 would be ambiguous."""
    source = random.Random(7)
    found = {
        _names.names(random_app(source), source.choice([1, 4, 12, 42])).name
        for dummy in range(5_000)
    }
    found |= {_names.names(app, 4).name for app in ("shop", "shop-pr-4", "Shop-Pr", "shop-pr")}
    for name in found:
        cuts = [at for at, letter in enumerate(name) if letter == "-"]
        assert not any(name[:at] in found for at in cuts), name


@settings(max_examples=300)
@given(apps, numbers, domains)
@example("shop-pr-4", 2, None)
@example("x" * 300, _names.NUMBER_MAX, None)
@example("\ud800", 1, None)
def test_every_name_is_valid(app: str, number: int, domain: str | None) -> None:
    found = _names.describe(app, number, domain=domain, repository="1")
    check(found)
    assert found == _names.describe(app, number, domain=domain, repository="1")


@settings(max_examples=200)
@given(st.tuples(apps, numbers), st.tuples(apps, numbers))
def test_two_inputs_never_share(one: tuple, other: tuple) -> None:
    left, right = _names.names(*one), _names.names(*other)
    assert (left.name == right.name) == (one == other)
    assert (left.database == right.database) == (one == other)


@settings(max_examples=200)
@given(st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True), st.integers(1, 99))
def test_altered_names_cannot_be_forged(app: str, number: int) -> None:
    """The slug of one app, taken as another one's name, gives another slug, or is that app."""
    if not app.strip("-"):
        return
    slug = _names.app_slug(app)
    assert (_names.app_slug(slug) == slug) == (slug == app)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Shop", "shop"),
        ("a_b", "a-b"),
        ("b\u00fccher", "bu\u0308cher"),
        ("shop", "\u0441hop"),
        ("shop", "shop\u200b"),
        ("\u202eshop", "shop"),
        ("!!!", "???"),
        ("x" * 300, "x" * 301),
        ("api--shop", "api-shop"),
        ("shop-", "shop"),
        ("xn--shop", "xn-shop"),
    ],
)
def test_apps_that_look_alike_differ(one: str, other: str) -> None:
    assert _names.app_slug(one) != _names.app_slug(other)


def test_one_is_never_taken_for_twelve() -> None:
    one, twelve = _names.names("pr", 1), _names.names("pr", 12)
    assert one.name == "pr-pr-1" and twelve.name == "pr-pr-12"
    assert _names.parse("pr-pr-1") == ("pr", 1) and _names.parse("pr-pr-12") == ("pr", 12)
    selector = _names.labels(one)
    assert not selector.items() & _names.labels(twelve).items() - {
        ("ephemera.preview/app", "pr"),
        ("ephemera.preview/schema", "1"),
    }
    hosts = [
        _names.names("shop", number, domain="d.org", host_format="pr-{number}.{domain}").host
        for number in (1, 12)
    ]
    assert hosts == ["pr-1.d.org", "pr-12.d.org"]


def test_an_app_cannot_take_the_host_of_anothers_service() -> None:
    """THREATS 14."""
    taken = _names.service_host(_names.names("shop", 42), "api")
    assert taken == "api--shop-pr-42.localhost"
    assert _names.names("api--shop", 42).host != taken
    assert "--" not in _names.names("api--shop", 42).host


@settings(max_examples=300)
@given(
    st.lists(
        st.from_regex(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", fullmatch=True),
        min_size=2,
        max_size=2,
        unique=True,
    ),
    st.sampled_from(["shop", "x" * 300, "cafe"]),
    st.sampled_from([1, _names.NUMBER_MAX]),
    st.sampled_from([None, "10.0.0.5"]),
)
def test_hosts_of_services(services: list, app: str, number: int, ip: str | None) -> None:
    of = _names.names(app, number, ip=ip)
    hosts = [_names.service_host(of, service) for service in services]
    assert len({of.host, *hosts}) == 3
    for host in hosts:
        first, rest = host.split(".", 1)
        assert rest == of.domain
        assert DNS_LABEL.fullmatch(first) and not first.startswith("xn--")
        assert first.split("--")[1:] == [of.host_label]


def test_a_cut_service_is_not_taken_for_one_of_that_name() -> None:
    of = _names.names("x" * 300, _names.NUMBER_MAX)
    cut = _names.service_host(of, "payments-and-invoices").partition("--")[0]
    assert cut != "payments-and-invoices"
    assert _names.service_host(of, cut).partition("--")[0] != cut
    assert not _names.service_host(of, "xn").startswith("xn--")


def test_sslip_reads_no_address_out_of_our_part_of_the_host() -> None:
    """Its leftmost address wins: verify would be led to the cloud's metadata."""
    of = _names.names("cafe", 1, ip="10.0.0.5")
    assert not _names.service_host(of, "169-254-169-254").startswith("169")
    assert not _names.service_host(of, "db").startswith("db--cafe")
    assert _names.service_host(of, "web") == "web--cafe-pr-1.10-0-0-5.sslip.io"
    assert "IP address" in refusal("a-169-254-169-254", 1, ip="10.0.0.5")
    assert _names.names("a-169-254-169-254", 1, domain="example.org")
    assert _names.names("shop", 1, ip="::1").domain.startswith("0000-0000-")


@pytest.mark.parametrize(
    ("host_format", "host"),
    [
        ("{name}.{domain}", "shop-pr-42.example.org"),
        ("pr-{number}.{domain}", "pr-42.example.org"),
        ("{number}.{domain}", "42.example.org"),
        ("{app}-{number}.{domain}", "shop-42.example.org"),
        ("{number}-{app}.{domain}", "42-shop.example.org"),
        ("", "shop-pr-42.example.org"),
    ],
)
def test_host_formats(host_format: str, host: str) -> None:
    assert _names.names("shop", 42, domain="example.org", host_format=host_format).host == host


def test_a_longer_format_cuts_services_deeper() -> None:
    literal = "x" * (_names.HOST_LABEL_MAX - 11)
    of = _names.names("shop", 1, domain="d.org", host_format=literal + "-{number}.{domain}")
    host = _names.service_host(of, "payments-and-invoices-of-the-shop")
    assert len(host.partition(".")[0]) <= 63
    refused = refusal("shop", 1, domain="d.org", host_format="x" + literal + "-{number}.{domain}")
    assert f"label of {_names.HOST_LABEL_MAX + 1} characters" in refused


@pytest.mark.parametrize(
    ("host_format", "rule"),
    [
        ("pr.{domain}", "all pull requests would share one host"),
        ("{app}.{domain}", "all pull requests would share one host"),
        ("pr-{number}", "must end in .{domain}"),
        ("pr-{number}.{domain}.org", "must end in .{domain}"),
        ("{app}.pr-{number}.{domain}", "one label under the domain"),
        ("PR-{number}.{domain}", "a-z, 0-9 and hyphens"),
        ("pr_{number}.{domain}", "a-z, 0-9 and hyphens"),
        ("pr {number}.{domain}", "a-z, 0-9 and hyphens"),
        ("{branch}-{number}.{domain}", "nothing else in braces"),
        ("{{number}}.{domain}", "a-z, 0-9 and hyphens"),
        ("{number!r}.{domain}", "nothing else in braces"),
        ("{number}{number}.{domain}", "once"),
        ("{name}-{number}.{domain}", "once"),
        ("{app}{number}.{domain}", "a hyphen must stand between"),
        ("{app}1{number}.{domain}", "a hyphen must stand between"),
        ("{app}--{number}.{domain}", "never two in a row"),
        ("-{number}.{domain}", "no hyphen at either end"),
        ("x" * 60 + "{number}.{domain}", "can give a label of 70 characters"),
        (42, "must end in .{domain}"),
    ],
)
def test_host_formats_refused(host_format: object, rule: str) -> None:
    refused = refusal("shop", 42, domain="example.org", host_format=host_format)
    assert refused.startswith(f"host_format: {host_format!r} is refused: ")
    assert rule in refused


@pytest.mark.parametrize(
    "options", [{"domain": "d.org", "domain_shared": True}, {"ip": "10.0.0.5"}, {}]
)
def test_a_format_without_app_needs_a_domain_of_its_own(options: dict) -> None:
    assert "without {app}" in refusal("shop", 42, host_format="pr-{number}.{domain}", **options)
    assert _names.names("shop", 42, host_format="{app}-{number}.{domain}", **options)


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True), st.integers(1, 120)),
        min_size=2,
        max_size=2,
        unique=True,
    ),
    st.sampled_from(["{app}-{number}", "{number}-{app}", "{app}-1{number}", "{app}1-{number}-x"]),
)
def test_formats_on_a_shared_domain_keep_apart(inputs: list, label: str) -> None:
    host_format = label + ".{domain}"
    options = {"domain": "d.org", "domain_shared": True, "host_format": host_format}
    assert len({_names.names(*one, **options).host for one in inputs}) == 2


@pytest.mark.parametrize(
    "number",
    [
        0,
        -1,
        "0",
        "-1",
        "42; id",
        "042",
        "+42",
        " 42",
        "42\n",
        "",
        "٤٢",
        True,
        False,
        4.2,
        42.0,
        None,
    ]
    + [2**31, str(2**31), "9" * 400, [42], "{{ 42 }}"],
)
def test_numbers_refused(number: object) -> None:
    refused = refusal("shop", number)
    assert refused.startswith("number: ")
    assert repr(number)[:90] in refused
    assert "a whole number from 1 to 2147483647" in refused


@pytest.mark.parametrize("app", ["", " ", "\n\t", None, 42, ["shop"]])
def test_apps_refused(app: object) -> None:
    assert refusal(app, 42) == f"app: {app!r} is refused: it must be a text that is not empty."


@pytest.mark.parametrize(
    ("domain", "rule"),
    [
        ("exam ple.org", "made of a-z, 0-9"),
        (" ", "made of a-z, 0-9"),
        ("exam_ple.org", "made of a-z, 0-9"),
        ("b\u00fccher.example", "xn-- form"),
        ("example.org.", "without the dot"),
        ("*.example.org", "without the *."),
        (".example.org", "made of a-z, 0-9"),
        ("-a.example.org", "made of a-z, 0-9"),
        ("https://example.org", "made of a-z, 0-9"),
        ("example.org:8080", "made of a-z, 0-9"),
        ("example.org\n", "made of a-z, 0-9"),
        ("10.0.0.5", "for an address"),
        ("a" * 64 + ".org", "longer than 63"),
        (".".join(["a" * 60] * 4), "longer than 189"),
        (42, "must be a text"),
    ],
)
def test_domains_refused(domain: object, rule: str) -> None:
    refused = refusal("shop", 42, domain=domain)
    assert refused.startswith("domain: ") and rule in refused


def test_domains_are_lowered() -> None:
    assert _names.names("shop", 42, domain="Example.ORG").host == "shop-pr-42.example.org"
    assert (
        _names.names("shop", 42, domain="xn--bcher-kva.example").domain == "xn--bcher-kva.example"
    )


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"ip": "10.0.0"}, "ip: '10.0.0' is refused: it must be an IPv4 or IPv6 address"),
        ({"ip": 5}, "ip: 5 is refused"),
        ({"ip": "fe80::1%eth0"}, "ip: 'fe80::1%eth0' is refused"),
        ({"ip": "0.0.0.0"}, "ip: '0.0.0.0' is refused"),
        ({"scheme": "ftp"}, "scheme: 'ftp' is refused: it must be http or https"),
        ({"port": 0}, "port: 0 is refused: it must be a whole number from 1 to 65535"),
        ({"port": True}, "port: True is refused"),
        ({"port": "80 "}, "port: '80 ' is refused"),
        ({"commit": "1234567"}, "commit: '1234567' is refused: a commit is written with all"),
        ({"commit": "$(id)"}, "commit: '$(id)' is refused"),
    ],
)
def test_options_refused(options: dict, refused: str) -> None:
    assert refused in refusal("shop", 42, **options)


def test_a_refusal_is_one_line_of_bounded_length() -> None:
    refused = refusal("shop", "\x1b[31m\n::error::" + "x" * 10_000)
    assert "\n" not in refused and "\x1b" not in refused
    assert len(refused) < 300


@pytest.mark.parametrize("service", ["", "Web", "a_b", "a.b", "-a", "a-", "a" * 43, "a/b", None])
def test_services_refused(service: str) -> None:
    of = _names.names("shop", 42)
    for make in (_names.service_host, _names.image_repository, _names.edge_alias):
        with pytest.raises(NameRefused, match="a service's name is made of"):
            make(of, service)


@pytest.mark.parametrize("registry", ["Registry", "https://r.org", "r.org/", "r.org/a b", "r:x"])
def test_registries_refused(registry: str) -> None:
    with pytest.raises(NameRefused, match="registry"):
        _names.image(_names.names("shop", 42), "web", COMMIT, registry)


@pytest.mark.parametrize("name", ["", "shop", "shop-pr-0", "-pr-1", "shop-pr-4-pr-2", "Shop-pr-1"])
def test_foreign_names_are_not_parsed(name: str) -> None:
    with pytest.raises(NameRefused, match="name: "):
        _names.parse(name)


def test_an_owner_is_a_repository_on_a_forge() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", _names.owner_id("", "1"))
    assert _names.owner_id("git", "hub1") != _names.owner_id("github", "1")
    assert _names.owner_id("1:a", "b") != _names.owner_id("1", ":ab")
    with pytest.raises(NameRefused, match="repository"):
        _names.owner_id("github", "")
    with pytest.raises(NameRefused, match="owner"):
        _names.labels(_names.names("shop", 42), "nobody")


def lookup(*terms: object, **options: object) -> object:
    return lookup_loader.get("ephemera.preview.name").run(list(terms), variables={}, **options)[0]


def test_lookup_gives_all_names_or_one_kind() -> None:
    whole = lookup("shop", 42)
    assert whole == _names.describe("shop", 42)
    for kind in _names.KINDS:
        assert lookup("shop", "42", kind=kind) == whole[kind]
    assert lookup("shop", 42, kind="image tag", commit=COMMIT) == "0123456789ab"
    assert lookup("shop", 42, kind="Helm release") == "shop-pr-42"
    options = {"domain": "d.org", "host_format": "pr-{number}.{domain}", "scheme": "https"}
    assert lookup("shop", 42, kind="url", port=8443, **options) == "https://pr-42.d.org:8443"
    owner = _names.owner_id("github", "1")
    found = lookup("shop", 42, kind="labels", forge="github", repository="1")
    assert found["ephemera.preview/owner"] == owner


@pytest.mark.parametrize(
    ("terms", "options", "refused"),
    [
        (("shop", 0), {}, "number: 0 is refused"),
        (("shop", "42; id"), {}, "number: '42; id' is refused"),
        (("", 42), {}, "app: '' is refused"),
        (("shop", 42), {"domain": "a b"}, "domain: 'a b' is refused"),
        (("shop", 42), {"kind": "nmae"}, "must be one of name, namespace, project, database"),
        (("shop", 42), {"host_fromat": "x"}, "host_fromat: no such option"),
        (("shop",), {}, "takes the app's name and the pull request's number"),
        (("shop", 41, 42), {}, "takes the app's name and the pull request's number"),
    ],
)
def test_lookup_refuses_in_words(terms: tuple, options: dict, refused: str) -> None:
    with pytest.raises(AnsibleError, match=re.escape(refused)):
        lookup(*terms, **options)


def test_lookup_module_and_function_take_the_same_options() -> None:
    taken = set(inspect.signature(_names.names).parameters)
    taken |= set(inspect.signature(_names.describe).parameters) - {"options"}
    source = inspect.getsource(name_info.main)
    assert taken == set(re.findall(r'^ {12}"(\w+)": \{', source, re.MULTILINE))
    plugin = lookup_loader.get("ephemera.preview.name")
    assert taken - {"app", "number"} == set(plugin.option_definitions) - {"_terms", "kind"}


def test_every_character_of_ascii_keeps_apps_apart() -> None:
    slugs = [_names.app_slug(f"a{letter}b") for letter in string.printable]
    assert len(set(slugs)) == len(slugs)


volumes = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", fullmatch=True)


@given(volumes, volumes)
@example("pg_data", "pg-data")
@example("pg_data", _names.claim_name("pg_data"))
@example("Data", "data")
@example("a" * 60 + "." + "b" * 60, "a")
def test_the_claim_of_a_volume_is_a_name_of_dns_and_of_no_other_volume(one: str, two: str) -> None:
    claim = _names.claim_name(one)
    assert all(DNS_LABEL.fullmatch(label) for label in claim.split(".")) and len(claim) <= 63
    assert claim != _names.claim_name(two) or one == two


def test_the_claim_of_a_volume_keeps_its_name_where_that_is_one_of_dns() -> None:
    assert _names.claim_name("pg-data") == "pg-data"
    assert _names.claim_name("v1.data") == "v1.data"
    assert _names.claim_name("pg_data").startswith("pg-data-")
