"""
schemathesis over the whole API of a gateway with real data (acceptance 1 of the API).

Whatever is in OPERATIONS is in the document, and whatever is in the document is asked for.
`SCHEMATHESIS_SEED` draws other requests, `SCHEMATHESIS_EXAMPLES` more of them.
"""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from shared import db
from shared.sealing import KeyRing
from shared.settings import Endpoints
from tests.gateway.conftest import SECRET, Gateway, add_source, running_gateway
from tests.gateway.test_api import add_token
from tests.support.stack import Stack
from tests.support.stripe_events import event, subscription

ROOT = Path(__file__).parents[2]
SEED = os.environ.get("SCHEMATHESIS_SEED", "20261101")
#: Drawn for each operation, beside those that its types and parameters come to. A number, and no
#: time: what is asked does not depend on how busy the machine is.
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "6")

#: What every bound, every missing part and every other method comes to is asked once: who asks
#: makes no difference to that. What they see does.
PHASES = {
    "operator": "coverage,fuzzing,stateful",
    "service": "fuzzing,stateful",
    "tenant:acme": "fuzzing,stateful",
}

#: Not asked: a cursor, a moment or a key that has the right form may still be none, and is 400.
NOT_CHECKED = "positive_data_acceptance"


async def known_names(gateway: Gateway) -> dict[str, list[str]]:
    """Names of real things by the parameters that ask for them."""

    async def column(query: str) -> list[str]:
        return [str(row[0]) for row in await gateway.owner.fetch(query)]

    tracking_ids = await column("SELECT tracking_id FROM ledger LIMIT 20")
    records = await column("SELECT id FROM records LIMIT 20")
    jobs = await column("SELECT id FROM jobs LIMIT 20")
    return {
        "tenant": ["acme", "other"],
        "feature": ["seats", "sso"],
        "source": ["stripe"],
        "trackingId": tracking_ids,
        "tracking_id": tracking_ids,
        "record": records,
        "job": jobs,
        "id": tracking_ids,
    }


@pytest.fixture
async def populated(endpoints: Endpoints, tmp_path: Path) -> Any:
    """A gateway with a source, two tenants with grants, and what came of some events."""
    keys = KeyRing.parse(endpoints.secret_key)
    async with (
        Stack.open(endpoints) as stack,
        db.connect(endpoints.database["owner"], "owner") as owner,
    ):
        stack.sources["stripe"] = await add_source(owner, keys, "stripe", SECRET)
        await stack.configure()
        await stack.apply(
            *(
                event(
                    "customer.subscription.created",
                    subscription(f"sub_{tenant}", customer=f"cus_{tenant}", tenant=tenant),
                )
                for tenant in ("acme", "other")
            )
        )
        assert (await stack.features("acme"))["seats"] == 10
    async with running_gateway(endpoints, tmp_path) as gateway:
        yield gateway


async def run_schemathesis(gateway: Gateway, scope: str, home: Path) -> tuple[int, str]:
    token = await add_token(gateway, scope)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "--no-color", "run",
        f"{gateway.client.base_url}/openapi.json",
        "--header", f"Authorization: Bearer {token}",
        "--checks", "all", "--exclude-checks", NOT_CHECKED,
        "--phases", PHASES[scope], "--mode", "all", "--max-examples", EXAMPLES, "--seed", SEED,
        "--request-timeout", "20", "--suppress-health-check", "all", "--warnings", "off",
        "--generation-database", "none", "--workers", "1", "--continue-on-failure",
        cwd=home,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
            "KNOWN_NAMES": json.dumps(await known_names(gateway)),
            "KNOWN_SEED": SEED,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("scope", PHASES)
async def test_the_api_is_what_its_document_says(
    populated: Gateway, scope: str, tmp_path: Path
) -> None:
    code, said = await run_schemathesis(populated, scope, tmp_path)
    assert code == 0, said
    asked = re.search(r"Selected: (\d+)/(\d+)\s+Tested: (\d+)", said)
    assert asked is not None, said
    assert len({*asked.groups()}) == 1, said
    failed = [record.getMessage() for record in populated.logged.tracebacks]
    assert not failed
