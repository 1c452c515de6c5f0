"""
A worker process with one provider more: its events may kill or hang whoever translates them.

    python -m tests.fault.killers workers.fleet|workers.solitary [arguments]
"""

import importlib
import os
import signal
import sys
import time
from collections.abc import Sequence

from shared.domain.commands import Command
from shared.domain.events import Arrival
from shared.providers import providers
from shared.providers.stripe import Stripe


class Killer(Stripe):
    """Stripe, but for the metadata key `does`."""

    name = "stripe"

    def translate(self, arrival: Arrival) -> Sequence[Command]:
        body = arrival.body
        if b'"does": "kill"' in body:
            os.kill(os.getpid(), signal.SIGKILL)
        if b'"does": "hang"' in body:
            time.sleep(3600)
        return super().translate(arrival)


if __name__ == "__main__":
    providers()["stripe"] = Killer()
    module = sys.argv.pop(1)
    sys.exit(importlib.import_module(module).main())
