"""A source's mappings: what they find, and what is said where they cannot."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.commands import Command, Ignore, ImportRecord, Observe
from shared.domain.events import Arrival, Headers, Identity
from shared.domain.standings import Standing, standing_of
from shared.domain.states import Item
from shared.providers.base import ConfigurationError, PayloadError
from shared.providers.sender.mapping import Mapping

AT = datetime(2026, 11, 3, 10, 30, 0, 123456, tzinfo=UTC)
AT_US = 1_793_701_800_123_456
AT_S = 1_793_701_800

OBJECT: dict[str, Any] = {"kind": "subscription", "id": "id", "status": "state", "products": "sku"}
RECORD: dict[str, Any] = {"id": "id", "fields": {"title": "title"}}
LICENCE: dict[str, Any] = {"id": "lic_1", "state": "active", "sku": "pro"}


def mapped(
    *tables: Any,
    document: Any = LICENCE,
    event_type: str = "licence.issued",
    occurred_at: datetime | None = AT,
    tenant: str | None = None,
    headers: Headers = (),
) -> list[Command]:
    """What mappings make of one event."""
    identity = Identity("evt_1", event_type, "evt_1", occurred_at)
    arrival = Arrival(identity, b"", headers)
    return list(Mapping.read(list(tables), ("mapping",), tenant).translate(arrival, document))


def observed(document: Any = LICENCE, headers: Headers = (), **keys: Any) -> Observe:
    """What one mapping, `OBJECT` with these keys besides, observes in a document."""
    (command,) = mapped({"object": {**OBJECT, **keys}}, document=document, headers=headers)
    assert isinstance(command, Observe)
    return command


def imported(document: Any = LICENCE, **keys: Any) -> ImportRecord:
    (command,) = mapped({"record": {**RECORD, **keys}}, document=document)
    assert isinstance(command, ImportRecord)
    return command


def problem(document: Any = LICENCE, **keys: Any) -> str:
    """Why `observed` cannot be had."""
    with pytest.raises(PayloadError) as refused:
        observed(document, **keys)
    return str(refused.value)


def wrong(tables: Any) -> tuple[str, str]:
    """(path as the file has it, problem) of what is not understood."""
    with pytest.raises(ConfigurationError) as refused:
        Mapping.read(tables, ("mapping",), None)
    shown = ""
    for part in refused.value.path:
        shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else str(part)
    return shown, refused.value.problem


# Which mapping an event is for ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "fits"),
    [
        (["licence.issued"], True),
        (["licence.*"], True),
        (["*"], True),
        (["*.issued", "never"], True),
        (["l*c*.*d"], True),
        (["licence.issued*"], True),
        (["licence"], False),
        (["licence.issue"], False),
        (["licence.*.issued"], False),
        (["licence.issued*d"], False),
        (["licence?issued"], False),
    ],
)
def test_types_are_patterns(types: list[str], fits: bool) -> None:
    (command,) = mapped({"types": types, "object": OBJECT})
    assert isinstance(command, Observe) is fits
    if not fits:
        assert command == Ignore("unmapped")


def test_without_mappings_nothing_is_mapped() -> None:
    assert mapped() == [Ignore("unmapped")]
    identity = Identity("evt_1", "x", "evt_1")
    assert Mapping.read(None, ("mapping",), None).translate(Arrival(identity, b""), {}) == (
        Ignore("unmapped"),
    )


@pytest.mark.parametrize(
    ("live", "meant"),
    [(True, True), (0, True), ("no", True), ([0], True),
     (False, False), (None, False), ("", False), ([], False), ({}, False)],
)  # fmt: skip
def test_when_is_true_as_jmespath_has_it(live: Any, meant: bool) -> None:
    (command,) = mapped({"when": "live", "object": OBJECT}, document={**LICENCE, "live": live})
    assert isinstance(command, Observe) is meant
    if not meant:
        assert command == Ignore("not_meant")


def test_all_mappings_that_fit_are_read() -> None:
    commands = mapped(
        {"types": ["licence.*"], "object": OBJECT, "record": RECORD},
        {"types": ["other"], "object": {**OBJECT, "id": "nothing"}},
        {"when": "nothing", "object": {**OBJECT, "id": "nothing"}},
        {"object": {"kind": "customer", "id": "id"}},
    )
    assert [type(command) for command in commands] == [Observe, ImportRecord, Observe]


def test_an_event_says_one_thing_of_one_object() -> None:
    with pytest.raises(PayloadError, match=r"two mappings .* the same subscription"):
        mapped({"object": OBJECT}, {"object": OBJECT})
    with pytest.raises(PayloadError, match="the same record"):
        mapped({"record": RECORD}, {"record": RECORD})


# Objects ---------------------------------------------------------------------------------------


def test_an_object_with_every_key() -> None:
    command = observed(
        {
            "licence": {"id": 17, "state": "grace", "seats": "x"},
            "account": {"id": "cus_1", "ref": "acme"},
            "lines": [{"sku": "pro", "n": 3}, {"sku": "extra", "n": 2.0}],
            "at": {"updated": AT.isoformat(), "ends": AT_S + 1, "started": "2026-11-03"},
        },
        id="licence.id",
        status="licence.state",
        statuses={"live": "active", "grace": "past_due"},
        version="at.updated",
        customer="account.id",
        tenant="account.ref",
        products="lines[].{ref: sku, quantity: n}",
        ends_at="at.ends",
        started_at="at.started",
        past_due_at="at.updated",
        lapses_at="at.nothing",
        period_ends_at="at.ends",
    )
    assert (command.kind, command.object_id) == ("subscription", "17")
    assert (command.version, command.shape, command.before) == (AT_US, "point", None)
    state = command.after
    assert (state.status, state.customer, state.tenant) == ("past_due", "cus_1", "acme")
    assert state.items == (Item(("extra",), 2), Item(("pro",), 3))
    assert (state.ends_at, state.past_due_at, state.lapses_at) == (AT_S + 1, AT_S, None)
    assert (state.started_at, state.period_ends_at) == (1_793_664_000, AT_S + 1)


def test_a_customer_is_its_own_and_needs_no_status() -> None:
    (command,) = mapped({"object": {"kind": "customer", "id": "id", "tenant": "state"}})
    assert isinstance(command, Observe)
    assert (command.kind, command.after.customer) == ("customer", "lic_1")
    assert (command.after.status, command.after.tenant) == ("present", "active")


@pytest.mark.parametrize("kind", ["subscription", "order"])
@pytest.mark.parametrize("standing", Standing)
def test_standings_are_statuses(kind: str, standing: Standing) -> None:
    command = observed({**LICENCE, "state": standing.value}, kind=kind)
    assert standing_of("hmac", command.kind, command.after.status) is standing


@pytest.mark.parametrize(
    ("said", "word"),
    [("live", "active"), (True, "trial"), (2, "ended"), ("mystery", "mystery"), (False, "false")],
)
def test_statuses_are_translated_and_unknown_ones_kept(said: Any, word: str) -> None:
    statuses = {"live": "active", "true": "trial", "2": "ended"}
    assert observed({**LICENCE, "state": said}, statuses=statuses).after.status == word


def test_the_tenant_is_the_objects_or_else_the_sources() -> None:
    (command,) = mapped({"object": OBJECT}, tenant="acme")
    assert isinstance(command, Observe)
    assert command.after.tenant == "acme"
    # Where the mapping says where it is, nobody's object is not the source's.
    (command,) = mapped({"object": {**OBJECT, "tenant": "nothing"}}, tenant="acme")
    assert isinstance(command, Observe)
    assert command.after.tenant is None
    (command,) = mapped({"record": RECORD}, tenant="acme")
    assert isinstance(command, ImportRecord)
    assert command.tenant == "acme"


@pytest.mark.parametrize(
    ("found", "items"),
    [
        ("pro", (Item(("pro",), 4),)),
        (["b", 7, None, ""], (Item(("7",), 4), Item(("b",), 4))),
        ([{"ref": "pro"}], (Item(("pro",), 4),)),
        ([{"ref": "pro", "quantity": 0}], (Item(("pro",), 0),)),
        ({"ref": "pro", "quantity": 2}, (Item(("pro",), 2),)),
    ],
)
def test_products(found: Any, items: tuple[Item, ...]) -> None:
    assert observed({**LICENCE, "sku": found, "n": 4}, quantity="n").after.items == items


def test_the_order_of_products_does_not_matter() -> None:
    assert observed({**LICENCE, "sku": ["a", "b"]}) == observed({**LICENCE, "sku": ["b", "a"]})


def test_only_what_gives_access_needs_products() -> None:
    assert observed({**LICENCE, "sku": None, "state": "ended"}).after.items == ()
    assert observed({**LICENCE, "sku": [], "state": "what?"}).after.items == ()
    assert problem({**LICENCE, "sku": []}) == (
        "mapping[0].object.products (sku): found nothing, and its status 'active' gives access"
    )


@pytest.mark.parametrize(
    "said",
    [
        AT.isoformat(), "2026-11-03T10:30:00.123456Z", "2026-11-03 11:30:00.123456+01:00",
        "2026-11-03T10:30:00.123456", "2026-11-03T10:30:00.123456789Z",
        AT_US, str(AT_US), AT_US * 1000, AT_US * 1000 + 999, AT_S + 0.123456,
        f"{AT_S}.123456", AT_US / 1000,
    ],
)  # fmt: skip
def test_times_have_many_forms(said: Any) -> None:
    assert observed({**LICENCE, "at": said}, version="at").version == AT_US


def test_a_header_can_be_the_version() -> None:
    command = observed(
        version="header:Webhook-Timestamp", headers=(("webhook-timestamp", "1793701800"),)
    )
    assert command.version == AT_S * 1_000_000


@pytest.mark.parametrize(
    "said",
    [7, -1, 20261103, "20261103103000", 20261103103000, 10**30, float("inf"), float("nan"), True,
     "yesterday", "1969-12-31", "9999-12-31T23:59:59-12:00", [], {}, "\uff12" * 10, "\0", AT_S / 2],
)  # fmt: skip
def test_what_is_no_time_is_refused(said: Any) -> None:
    assert problem({**LICENCE, "at": said}, version="at").startswith(
        "mapping[0].object.version (at): "
    )


@pytest.mark.parametrize(
    "target", [{"object": {**OBJECT, "version": "at"}}, {"record": {**RECORD, "version": "at"}}]
)
def test_a_version_from_the_future_is_refused(target: Any) -> None:
    """It would outdate, for good and without a word, all that is sent until then."""
    mapping = Mapping.read([target], ("mapping",), "acme")

    def translated(at: str) -> list[Command]:
        identity = Identity("evt_1", "licence.issued", "evt_1", AT)
        arrival = Arrival(identity, b"", received_at=AT)
        return list(mapping.translate(arrival, {**LICENCE, "at": at}))

    assert translated("2026-11-04T10:30:00Z")
    with pytest.raises(PayloadError, match=r"\(at\): lies more than a day after its receipt"):
        translated("2100-01-01T00:00:00Z")


def test_nor_may_the_events_time_be_of_the_future() -> None:
    identity = Identity("evt_1", "licence.issued", "evt_1", AT + timedelta(days=2))
    arrival = Arrival(identity, b"", received_at=AT)
    with pytest.raises(PayloadError, match="the event's time lies more than a day after"):
        Mapping.read([{"object": OBJECT}], ("mapping",), None).translate(arrival, LICENCE)


def test_without_a_version_the_events_time_is_it() -> None:
    assert observed().version == AT_US
    with pytest.raises(PayloadError, match=r"object\.id \(id\): nothing says which .* `version`"):
        mapped({"object": OBJECT}, occurred_at=None)
    with pytest.raises(PayloadError, match=r"record\.id \(id\): nothing says which"):
        mapped({"record": RECORD}, occurred_at=None)
    # One that is named and not there is not replaced by something else.
    assert problem(version="at") == "mapping[0].object.version (at): found nothing"


@pytest.mark.parametrize("key", ["id", "status"])
@pytest.mark.parametrize("found", [None, ""])
def test_what_is_needed_and_not_there_is_named(key: str, found: Any) -> None:
    document = {**LICENCE, OBJECT[key]: found}
    assert problem(document) == f"mapping[0].object.{key} ({OBJECT[key]}): found nothing"
    del document[OBJECT[key]]
    assert problem(document) == f"mapping[0].object.{key} ({OBJECT[key]}): found nothing"


@pytest.mark.parametrize(
    "found",
    ["x" * 256, "a\0b", "\ud800", 1.5, [], {}, ["a"], 2**63, 10**400],
)
@pytest.mark.parametrize("key", ["id", "status", "customer", "tenant", "products"])
def test_ids_are_short_text(key: str, found: Any) -> None:
    if key == "products" and found in ([], ["a"]):
        found = [found]  # one product, not several
    message = problem({**LICENCE, "there": found}, **{key: "there"})
    assert message.startswith(f"mapping[0].object.{key} (there): ")
    message.encode()
    assert "\0" not in message


@pytest.mark.parametrize("found", [True, "3", None, -1, 1.5, 2**31, float("nan"), [1]])
def test_quantities_are_whole_numbers(found: Any) -> None:
    document = {**LICENCE, "n": found}
    whole = "a quantity is a whole number from 0 to 2147483647"
    assert problem(document, quantity="n") == f"mapping[0].object.quantity (n): {whole}"
    assert problem(document, products="[{ref: sku, quantity: n}]").endswith(whole)


def test_products_are_refs() -> None:
    assert "has `ref`" in problem({**LICENCE, "sku": [{"id": "pro"}]})
    assert "has `ref`" in problem({**LICENCE, "sku": {"ref": "a", "count": 2}})
    assert "more than 1000 products" in problem({**LICENCE, "sku": ["a"] * 1001})


# Records ---------------------------------------------------------------------------------------


def test_a_record_is_normalised() -> None:
    command = imported(
        {"id": 5, "at": AT_US, "ref": "acme", "report": {"b": [1, None, {"c": "é"}], "a": 1.5}},
        version="at",
        tenant="ref",
        fields={"zeta": "report.a", "alpha": "report.b", "none": "report.x"},
        raw="report",
    )
    assert command == ImportRecord(
        "5",
        AT_US,
        "acme",
        '{"alpha":[1,null,{"c":"é"}],"none":null,"zeta":1.5}',
        '{"a":1.5,"b":[1,null,{"c":"é"}]}',
    )
    assert imported().raw is None


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [deep(70), deep(20_000), 2**63, 10**400, float("nan"), float("-inf"), ["\ud800"], {"a\0": 1},
     [0] * 100_001, "x" * 262_145],
    ids=["deep", "very deep", "2**63", "huge", "nan", "inf", "surrogate", "nul", "many", "long"],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(value: Any) -> None:
    with pytest.raises(PayloadError) as refused:
        imported({**LICENCE, "title": value})
    str(refused.value).encode()


def test_an_expression_is_no_value() -> None:
    with pytest.raises(PayloadError, match=r"fields\.title \(&id\): is no value"):
        imported(fields={"title": "&id"})


def test_the_error_of_a_function_can_be_stored() -> None:
    message = problem({**LICENCE, "id": ["\ud800", "a\0"]}, id="lower(id)")
    assert message.startswith("mapping[0].object.id: lower(id): ")
    message.encode()
    assert "\0" not in message


# What is declared wrongly ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "path", "says"),
    [
        ({}, "mapping", "array of tables"),
        ("x", "mapping", "array of tables"),
        ([1], "mapping[0]", "must be a table"),
        ([{"object": OBJECT}, {}], "mapping[1]", "neither"),
        ([{"object": OBJECT, "kind": 1}], "mapping[0].kind", "unknown key"),
        ([{"types": "a", "object": OBJECT}], "mapping[0].types", "at least one"),
        ([{"types": [], "object": OBJECT}], "mapping[0].types", "at least one"),
        ([{"types": ["a", ""], "object": OBJECT}], "mapping[0].types[1]", "not empty"),
        ([{"when": 1, "object": OBJECT}], "mapping[0].when", "JMESPath"),
        ([{"when": "a ==", "object": OBJECT}], "mapping[0].when", "not a JMESPath expression"),
        ([{"object": []}], "mapping[0].object", "must be a table"),
        ([{"object": {}}], "mapping[0].object.kind", '"subscription", "order", "customer"'),
        ([{"object": {**OBJECT, "kind": "plan"}}], "mapping[0].object.kind", "one of"),
        ([{"object": {**OBJECT, "kind": []}}], "mapping[0].object.kind", "one of"),
        ([{"object": {**OBJECT, "item": "a"}}], "mapping[0].object.item", "unknown key"),
        ([{"object": {"kind": "order"}}], "mapping[0].object.id", "is missing"),
        ([{"object": {"kind": "order", "id": "id"}}], "mapping[0].object.status", "is missing"),
        ([{"object": {k: v for k, v in OBJECT.items() if k != "products"}}],
         "mapping[0].object.products", "is missing"),
        ([{"object": {"kind": "customer", "id": "id", "products": "x"}}],
         "mapping[0].object.products", "unknown key; known here, of a customer"),
        ([{"object": {"kind": "customer", "id": "id", "statuses": {"a": "ended"}}}],
         "mapping[0].object.statuses", "without `status`"),
        ([{"object": {**OBJECT, "statuses": "x"}}], "mapping[0].object.statuses", "a table"),
        ([{"object": {**OBJECT, "statuses": {"a": "live"}}}],
         "mapping[0].object.statuses.a", "'live' is none of trial, active"),
        ([{"object": {**OBJECT, "statuses": {"a": 1}}}],
         "mapping[0].object.statuses.a", "1 is none of"),
        ([{"record": 1}], "mapping[0].record", "must be a table"),
        ([{"record": {**RECORD, "titel": "a"}}], "mapping[0].record.titel", "unknown key"),
        ([{"record": {"fields": {"a": "b"}}}], "mapping[0].record.id", "is missing"),
        ([{"record": {"id": "id"}}], "mapping[0].record.fields", "at least one"),
        ([{"record": {"id": "id", "fields": {}}}], "mapping[0].record.fields", "at least one"),
        ([{"record": {"id": "id", "fields": {"": "a"}}}], "mapping[0].record.fields.", "name"),
        ([{"record": {"id": "id", "fields": {"a": 1}}}], "mapping[0].record.fields.a", "JMESPath"),
        ([{"record": {**RECORD, "raw": "["}}], "mapping[0].record.raw", "not a JMESPath"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(tables: Any, path: str, says: str) -> None:
    found, said = wrong(tables)
    assert found == path
    assert says in said


@pytest.mark.parametrize(
    "key",
    ["id", "status", "version", "customer", "tenant", "products", "quantity", "ends_at",
     "started_at", "past_due_at", "lapses_at", "period_ends_at"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("declared", "says"),
    [
        (7, "must be"), ("", "must be"), (" ", "must be"), (["id"], "must be"),
        ("header:", "names no header"), ("a[", "not a JMESPath expression"),
        ("__import__('os')", "no function __import__(); known: abs, "),
        ("!a.b", "!a.b means (!a).b, which is never anything; write !(a.b)"),
        ("lower()", "lower() takes 1 arguments, not 0"),
        ("join(',')", "join() takes 2 arguments, not 1"),
        ("[?shout(@)]", "no function shout()"),
        ("(" * 5000, "nested too deeply"),
    ],
)  # fmt: skip
def test_every_key_is_a_location(key: str, declared: Any, says: str) -> None:
    found, said = wrong([{"object": {**OBJECT, key: declared}}])
    assert found == f"mapping[0].object.{key}"
    assert says in said


def test_functions_that_jmespath_lacks() -> None:
    document = {**LICENCE, "state": "Active", "sku": "acme:pro"}
    state = observed(document, status="lower(state)", products="split(sku, ':')[1]").after
    assert (state.status, state.items) == ("active", (Item(("pro",)),))


# Whatever comes in -----------------------------------------------------------------------------

_texts = st.text(st.characters(), max_size=5) | st.sampled_from(
    ["pro", "active", "\ud800", "2026-11-03"]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=12,
)
_expressions = st.sampled_from([
    "a", "b", "a.b", "a[].b", "@", "a[0]", "length(a)", "sort(a)", "max_by(a, &b)", "sum(a)",
    "to_number(a)", "to_string(a)", "join(a, b)", "keys(a)", "merge(a, b)", "a[::2]", "a[::0]",
    "contains(a, b)", "lower(a)", "split(a, b)", "not_null(a, b)", "a < b", "a[?b > `1`]",
    "ceil(a)", "avg(a)", "&a", "[a, b].{ref: [0]}", "a.*", "map(&b, a)", "values(a)", "header:x",
])  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_whatever_comes_in_is_a_command_or_refused(data: st.DataObject) -> None:
    """Nothing but PayloadError, and nothing that a table could not hold."""
    keys = ["id", "status", "version", "customer", "tenant", "products", "quantity", "ends_at"]
    table = {"kind": "subscription"} | {key: data.draw(_expressions) for key in keys}
    record = {"id": data.draw(_expressions), "fields": {"a": data.draw(_expressions)}}
    document = {"a": data.draw(_json), "b": data.draw(_json)}
    for declared in ({"object": table}, {"record": record}):
        try:
            (command,) = mapped({"when": "@", **declared}, document=document)
        except PayloadError as error:
            str(error).encode()
            continue
        if isinstance(command, ImportRecord):
            assert isinstance(json.loads(command.normalised), dict)
        else:
            assert isinstance(command, Observe)
            assert 0 <= command.version < 2**63
