"""What is kept of reports, on a database like the real one."""

from datetime import UTC, date, datetime
from importlib.resources import files

import pytest
from shared.conformance import Bench
from shared.plugin import Event, Permanent, Result, Transaction

from sluice_beacon.usage import Usage, UsageReport

SCHEMA = files("sluice_beacon").joinpath("schema.sql").read_text()


def report(units: int, hour: int = 12) -> UsageReport:
    return UsageReport("lic_1", units, datetime(2026, 11, 21, hour, tzinfo=UTC))


async def test_reports_of_a_day_add_up(sluice_bench: Bench) -> None:
    await sluice_bench.execute(SCHEMA)
    for units, outcome in ((3, "applied"), (4, "applied"), (0, "unchanged")):
        handled = await sluice_bench.handle(Usage(), report(units, hour=units))
        assert handled.result.outcome == outcome
    assert await sluice_bench.value("SELECT units FROM beacon.usage") == 7
    assert await sluice_bench.value("SELECT day FROM beacon.usage") == date(2026, 11, 21)


async def test_a_closed_account_takes_no_reports(sluice_bench: Bench) -> None:
    await sluice_bench.execute(SCHEMA)
    await sluice_bench.execute("INSERT INTO beacon.licences VALUES ('lic_1', now())")
    with pytest.raises(Permanent, match="is closed"):
        await sluice_bench.handle(Usage(), report(3))
    assert await sluice_bench.value("SELECT count(*) FROM beacon.usage") == 0


class Nosy(Usage):
    async def handle(self, event: Event, command: UsageReport, transaction: Transaction) -> Result:
        await transaction.execute("DELETE FROM grants")
        return Result()


async def test_what_is_sluices_is_out_of_reach(sluice_bench: Bench) -> None:
    """Handlers may do what `schema.sql` grants to them, and nothing else."""
    with pytest.raises(Exception, match="permission denied for table grants"):
        await sluice_bench.handle(Nosy(), report(3))
