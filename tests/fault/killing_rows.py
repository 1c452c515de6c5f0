"""
The process of jobs, where rows may kill or hang whoever looks at them.

    python -m tests.fault.killing_rows [arguments]
"""

import os
import signal
import sys
import time
from typing import Any

from workers.jobs import importing, run

examine = importing.examine


def deadly(row: Any, *more: Any) -> Any:
    """As a schema or an expression might, in code that nothing interrupts."""
    if b'"title": "kill' in (row.encoded or b""):
        os.kill(os.getpid(), signal.SIGKILL)
    if b'"title": "hang' in (row.encoded or b""):
        time.sleep(3600)
    return examine(row, *more)


if __name__ == "__main__":
    importing.examine = deadly
    sys.exit(run.main())
