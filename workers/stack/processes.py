"""
Our own processes as children of a supervisor: gateway, workers, solitary, jobs.

Each is told everything by `SLUICE_*` variables, its own role's database URL among them; none
gets another's.
"""

import os
import signal
import sys
from collections.abc import Mapping

from shared.settings import Endpoints, Settings
from workers.stack.spawn import Child

FLEET_STAGE = 2
GATEWAY_STAGE = 3


def gateway(settings: Settings, endpoints: Endpoints) -> Child:
    """The one that receives. It gets `SLUICE_ADMIN_PORT` itself."""
    return Child(
        name="gateway",
        argv=(sys.executable, "-m", "gateway"),
        env=gateway_environment(settings, endpoints),
        stage=GATEWAY_STAGE,
        heartbeat=True,
        stop_timeout_s=15.0,
    )


def fleet(settings: Settings, endpoints: Endpoints, *, first_admin_port: int) -> list[Child]:
    """
    `SLUICE_WORKER_PROCESSES` workers; the solitary, where what has killed a worker runs alone; and
    the one for long work.

    The first worker gets `first_admin_port`, the others count on from it; 0: none has one.
    """
    base = environment(settings, endpoints)
    base.pop("SLUICE_READER_DATABASE_URL", None)
    base["SLUICE_DATABASE_URL"] = endpoints.database["worker"]
    programs: list[tuple[str, tuple[str, ...]]] = [
        (f"worker-{number}", ("workers.fleet", "--name", f"worker-{number}"))
        for number in range(1, settings.worker_processes + 1)
    ]
    programs.append(("solitary", ("workers.solitary",)))
    programs.append(("jobs", ("workers.jobs.run",)))
    return [
        Child(
            name=name,
            argv=(sys.executable, "-m", *arguments),
            env={
                **base,
                "SLUICE_ADMIN_PORT": str(first_admin_port + offset if first_admin_port else 0),
            },
            stage=FLEET_STAGE,
            heartbeat=True,
            stop_timeout_s=30.0,
            # What a worker was at rolls back, and is found again. SIGTERM would leave one that
            # hangs behind.
            death_signal=signal.SIGKILL,
        )
        for offset, (name, arguments) in enumerate(programs)
    ]


def gateway_environment(settings: Settings, endpoints: Endpoints) -> dict[str, str]:
    """The variables of a gateway process, ours included."""
    return environment(settings, endpoints) | {
        "SLUICE_DATABASE_URL": endpoints.database["gateway"],
        "SLUICE_READER_DATABASE_URL": endpoints.database["reader"],
        "SLUICE_ADMIN_PORT": str(settings.admin_port),
    }


def environment(
    settings: Settings, endpoints: Endpoints, environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Ours, with what every process of the stack has in common."""
    ours = dict(os.environ if environ is None else environ)
    if settings.artifacts_url is not None:
        ours["SLUICE_ARTIFACTS_URL"] = settings.artifacts_url
    return ours | {
        "SLUICE_HOME": str(settings.home.expanduser().absolute()),
        "SLUICE_HOST": settings.host,
        "SLUICE_PORT": str(settings.port),
        "SLUICE_REDIS_URL": endpoints.redis,
        "SLUICE_SECRET_KEY": endpoints.secret_key,
        # stdout is a pipe or a file here; a line must be seen when it is printed.
        "PYTHONUNBUFFERED": "1",
    }
