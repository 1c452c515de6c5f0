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
from shared.providers import PROVIDERS
from shared.providers.stripe import Stripe


class Killer(Stripe):
    """Stripe, but for the metadata key `does`."""

    name = "stripe"

    def translate(self, event_type: str, body: bytes) -> Sequence[Command]:
        if b'"does": "kill"' in body:
            os.kill(os.getpid(), signal.SIGKILL)
        if b'"does": "hang"' in body:
            time.sleep(3600)
        return super().translate(event_type, body)


if __name__ == "__main__":
    PROVIDERS["stripe"] = Killer()
    module = sys.argv.pop(1)
    sys.exit(importlib.import_module(module).main())
