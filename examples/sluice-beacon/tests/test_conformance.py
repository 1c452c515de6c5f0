"""What every provider has to stand: see `shared.conformance`."""

from pathlib import Path

from shared.conformance import ProviderConformance

from sluice_beacon.provider import Beacon


class TestBeacon(ProviderConformance):
    provider = Beacon
    fixtures = Path(__file__).parent / "fixtures"
    handshakes = {b'{"challenge":"c-1"}': b"c-1"}
    # One fixture shows a state that Beacon may think of tomorrow.
    unknown_statuses = frozenset({"mislaid"})
    covers = (
        "sluice_beacon.provider",
        "sluice_beacon.signature",
        "sluice_beacon.licences",
        "sluice_beacon.fields",
    )
