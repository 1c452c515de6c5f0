"""Mapped events end to end: received, applied, granted; and mended where the mapping was wrong."""

from copy import deepcopy
from random import Random
from typing import Any

import pytest

from shared.explain import explain
from tests.support.acme import (
    BEGAN_S,
    EVENT,
    LICENCES,
    REPORTS,
    SIGNATURE,
    add_acme,
    event,
    licence,
    remap,
    replay,
    report,
    told_to_tenants,
)
from tests.support.draw import seed_of_run
from tests.support.stack import Stack, new_crew
from workers.process import visit
from workers.replay import open_run

PRO = {"seats": 10, "sso": True}


@pytest.fixture
async def acme(stack: Stack) -> Stack:
    await add_acme(stack)
    return stack


async def codes(stack: Stack) -> list[tuple[str, str | None]]:
    rows = await stack.fetch("SELECT outcome, code FROM settlements ORDER BY settled_at, run")
    return [(row["outcome"], row["code"]) for row in rows]


async def test_a_licence_lives_and_ends(acme: Stack) -> None:
    await acme.apply(licence(1), source="acme")
    assert await acme.features("acme") == PRO
    await acme.apply(licence(2, 2, skus=["basic"]), source="acme")
    assert await acme.features("acme") == {"seats": 1}
    await acme.apply(licence(3, 3, state="stopped"), source="acme")
    assert await acme.features("acme") == {}
    async with acme.owner.connection() as conn:
        explained = await explain(conn, "acme", "seats", None)
    assert explained is not None
    assert "lic_1" in explained["text"]
    # Its version is what counts, and nothing of it is for good.
    await acme.apply(licence(4, 2), source="acme")
    assert await acme.features("acme") == {}
    await acme.apply(licence(5, 4), source="acme")
    assert await acme.features("acme") == PRO


async def test_grace_counts_from_the_version(acme: Stack) -> None:
    long_ago = -40 * 86400
    await acme.apply(licence(1, long_ago, state="grace"), source="acme")
    until = await acme.value("SELECT DISTINCT valid_until FROM grants")
    assert until.timestamp() == BEGAN_S + long_ago + 7 * 86400


async def test_a_word_that_nobody_knows_parks_the_object(acme: Stack) -> None:
    await acme.apply(licence(1), licence(2, 2, state="frozen"), source="acme")
    assert await acme.features("acme") == PRO
    assert await acme.value("SELECT parked FROM objects") == "unknown_status"


async def test_what_is_not_meant_is_ignored_and_says_so(acme: Stack) -> None:
    await remap(acme, {**LICENCES, "when": "data.live"})
    await acme.apply(event(1, "invoice.paid"), source="acme")
    await acme.apply(licence(2, live=False), source="acme")
    assert await codes(acme) == [("ignored", "unmapped"), ("ignored", "not_meant")]


async def test_an_event_may_grant_and_be_kept(acme: Stack) -> None:
    both = {**LICENCES, "record": {**REPORTS["record"], "fields": {"state": "data.state"}}}
    await remap(acme, both)
    await acme.apply(licence(1), source="acme")
    assert await acme.features("acme") == PRO
    assert await acme.value("SELECT normalised FROM record_versions") == '{"state":"live"}'
    actions = await acme.fetch("SELECT action FROM audit WHERE chain = 'tenant:acme' ORDER BY step")
    assert [row["action"] for row in actions] == [
        "event.applied", "entitlement.granted", "entitlement.granted", "record.imported",
    ]  # fmt: skip


async def test_a_wrong_mapping_is_mended_and_nothing_is_lost(acme: Stack) -> None:
    """Dead as unreadable, with the key and the expression; after the mending, replayed."""
    wrong = deepcopy(LICENCES)
    wrong["object"]["id"] = "data.licence_id"
    await remap(acme, wrong)
    ids = await acme.apply(licence(1), licence(2, 2, id="lic_2", skus=["basic"]), source="acme")
    assert await codes(acme) == [("dead", "unreadable")] * 2
    error = await acme.value("SELECT DISTINCT error FROM settlements")
    assert error == "mapping[0].object.id (data.licence_id): found nothing"
    assert await acme.tenant("acme") is None
    await remap(acme, LICENCES)
    await replay(acme, *ids)
    assert await acme.outcomes(ids) == ["applied", "applied"]
    assert await acme.features("acme") == PRO


async def test_a_replay_is_read_by_the_mapping_that_was_applied_before_it(acme: Stack) -> None:
    """By a worker, too, that has not looked at the configuration since."""
    wrong = deepcopy(LICENCES)
    wrong["object"]["id"] = "data.licence_id"
    await remap(acme, wrong)
    (one,) = await acme.apply(licence(1), source="acme")
    async with new_crew(acme.endpoints, "late") as late:
        async with late.db.connection() as conn:
            await late.surroundings.refresh(conn)
        await remap(acme, LICENCES)
        async with acme.owner.transaction() as conn:
            await open_run(conn, one, "operator:test", "mapping mended")
        for lane in await acme.lanes("acme"):
            await visit(late, lane)
    assert await acme.outcomes([one]) == ["applied"]


async def test_a_replay_takes_back_what_was_read_wrongly(acme: Stack) -> None:
    """Read as another object, by another tenant; then as a record only."""
    wrong = deepcopy(LICENCES)
    wrong["object"]["id"], wrong["object"]["tenant"] = "data.account", "data.id"
    await remap(acme, wrong)
    (one,) = await acme.apply(licence(1), source="acme")
    assert await acme.features("lic_1") == PRO
    await remap(acme, LICENCES)
    await replay(acme, one)
    assert await acme.features("lic_1") == {}
    assert await acme.features("acme") == PRO
    await remap(acme, {**REPORTS, "types": ["*"]})
    await replay(acme, one)
    assert await acme.features("acme") == {}
    assert await acme.value("SELECT count(*) FROM observations") == 0
    assert await acme.value("SELECT count(*) FROM record_versions") == 1
    await remap(acme, {**REPORTS, "types": ["report.*"]})
    await replay(acme, one)
    assert await acme.value("SELECT count(*) FROM record_versions") == 0


async def test_an_error_that_quotes_what_came_can_be_stored(acme: Stack) -> None:
    shouting = deepcopy(LICENCES)
    shouting["object"]["id"] = "lower(data.id)"
    await remap(acme, shouting)
    (one,) = await acme.apply(licence(1, id=["a\0b"]), source="acme")
    assert await acme.outcomes([one]) == ["dead"]
    assert "lower" in await acme.value("SELECT error FROM settlements")


async def test_what_receipt_could_not_read_is_mended_by_a_replay(acme: Stack) -> None:
    """Where its type lies was mistyped: nothing of the event was known but its bytes."""
    wrong = {**EVENT, "type": "typ"}
    await acme.set("acme", signature=SIGNATURE, event=wrong, mapping=[LICENCES, REPORTS])
    (one,) = await acme.apply(licence(1), source="acme")
    await replay(acme, one)
    assert await codes(acme) == [("dead", "unreadable")] * 2
    await remap(acme, LICENCES, REPORTS)
    await replay(acme, one)
    assert (await codes(acme))[-1] == ("applied", None)
    assert await acme.features("acme") == PRO


async def test_what_it_could_not_read_may_be_of_another_account(acme: Stack) -> None:
    """Under a key that it was not stored by, nothing would tell it from another one."""
    wrong = {**EVENT, "type": "typ"}
    await acme.set("acme", signature=SIGNATURE, event=wrong, mapping=[LICENCES])
    (one,) = await acme.apply(licence(1), source="acme")
    mended = {**EVENT, "account": "data.account"}
    await acme.set("acme", signature=SIGNATURE, event=mended, mapping=[LICENCES])
    await replay(acme, one)
    assert (await codes(acme))[-1] == ("dead", "unreadable")
    assert "have it sent again" in await acme.value(
        "SELECT error FROM settlements ORDER BY run DESC LIMIT 1"
    )


async def test_a_replay_makes_no_answer_of_what_nobody_may_send(acme: Stack) -> None:
    wrong = {**EVENT, "type": "typ"}
    await acme.set("acme", signature=SIGNATURE, event=wrong, mapping=[LICENCES])
    (one,) = await acme.apply(event(1, "sluice.fetched"), source="acme")
    await remap(acme, LICENCES)
    await replay(acme, one)
    assert await codes(acme) == [("dead", "unreadable")] * 2
    assert "nobody else's" in await acme.value(
        "SELECT error FROM settlements ORDER BY run DESC LIMIT 1"
    )


async def test_lives_end_as_the_model_says(acme: Stack) -> None:
    """
    Objects and records with version keys, told in any order and multiplicity, split over lanes.

    The model: the largest (version, event id) of each. `TEST_SEED=N` draws the same again.
    """
    random = Random(f"{seed_of_run()} mapped lives")
    skus = {"pro": PRO, "basic": {"seats": 1}}
    told, number = [], 0
    expected: dict[str, dict[str, Any]] = {}
    titles: dict[str, tuple[str, str]] = {}
    for owner in range(12):
        tenant = f"t{owner}"
        newest: tuple[tuple[int, str], str, str] | None = None
        latest: tuple[tuple[int, str], str, str] | None = None
        for _ in range(random.randint(1, 8)):
            number += 1
            key = (random.randint(1, 5), f"evt_{number}")
            state = random.choice(["live", "live", "stopped", "paused"])
            sku = random.choice(list(skus))
            told.append(
                licence(number, key[0], state, id=f"lic_{tenant}", tenant=tenant,
                        account=f"a_{tenant}", skus=[sku])
            )  # fmt: skip
            newest = max(filter(None, (newest, (key, state, sku))))
            number += 1
            key = (random.randint(1, 5), f"evt_{number}")
            # Records move between tenants, and come by way of any lane.
            whose = random.choice([tenant, "t0"])
            told.append(
                report(
                    number, key[0], subject=str(random.random()), id=f"rep_{tenant}", tenant=whose
                )
            )
            latest = max(filter(None, (latest, (key, whose, f"title {number}"))))
        assert newest is not None
        assert latest is not None
        expected[tenant] = skus[newest[2]] if newest[1] == "live" else {}
        titles[f"rep_{tenant}"] = latest[1:]
    told += random.sample(told, len(told) // 3)
    random.shuffle(told)
    while told:
        batch = [told.pop() for _ in range(min(len(told), random.randint(1, 30)))]
        await acme.apply(*batch, source="acme")
    for tenant, features in expected.items():
        assert await acme.features(tenant) == features, tenant
    rows = await acme.fetch(
        "SELECT r.record_id, r.tenant, v.normalised FROM records r"
        " JOIN record_versions v ON v.record = r.id AND v.event_id = r.event_id"
    )
    assert {row["record_id"]: (row["tenant"], row["normalised"]) for row in rows} == {
        record: (tenant, f'{{"title":"{title}"}}') for record, (tenant, title) in titles.items()
    }
    assert await acme.value("SELECT count(*) FROM settlements WHERE outcome = 'dead'") == 0
    assert await told_to_tenants(acme) == {
        (record, tenant): f'{{"title":"{title}"}}' for record, (tenant, title) in titles.items()
    }
