"""
Apply `shared/migrations/NNNN_verb_object.sql`: forward only, each in one transaction.

The SHA-256 of every applied file is kept; an edited history is refused. One migrator at a time,
by a lock that goes with its transaction.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from shared.db import Conn, is_missing_table

_NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")

CREATE_HISTORY = """
CREATE TABLE IF NOT EXISTS migrations (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
TAKE_TURNS = "SELECT pg_advisory_xact_lock(hashtext('sluice.migrate'))"
READ_HISTORY = "SELECT number, name, sha256 FROM migrations ORDER BY number"
RECORD = "INSERT INTO migrations (number, name, sha256) VALUES ($1, $2, $3)"


class MigrationError(Exception):
    """The database's history and this version's files do not fit together."""


@dataclass(frozen=True)
class Migration:
    """One file of `shared/migrations`."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Of the file's text, as recorded when it is applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def available() -> list[Migration]:
    """Every migration that this version brings, in order."""
    found = []
    for file in resources.files("shared").joinpath("migrations").iterdir():
        match = _NAME.match(file.name)
        if match:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.number)


async def pending(conn: Conn) -> list[Migration]:
    """
    What has not been applied yet.

    Raises:
        MigrationError: an applied file was edited since, or is newer than this version knows.
    """
    try:
        applied = {row["number"]: row for row in await conn.fetch(READ_HISTORY)}
    except Exception as error:
        if not is_missing_table(error):
            raise
        applied = {}
    files = {migration.number: migration for migration in available()}
    for number, row in applied.items():
        file = files.get(number)
        if file is None:
            raise MigrationError(
                f"the database has migration {number:04d}_{row['name']}, which this version does"
                " not know: run the version that made it, or a newer one"
            )
        if file.sha256 != row["sha256"]:
            raise MigrationError(
                f"{number:04d}_{file.name}.sql was edited after it was applied to this database:"
                " run the version that applied it, or use another database or SLUICE_HOME"
            )
    return [migration for number, migration in sorted(files.items()) if number not in applied]


async def migrate(conn: Conn) -> list[Migration]:
    """Apply what is pending; returns what was applied. Safe to call from several places at once."""
    done: list[Migration] = []
    while True:
        async with conn.transaction():
            await conn.execute("SET LOCAL lock_timeout = '30s'")
            await conn.execute("SET LOCAL statement_timeout = '5min'")
            await conn.execute(TAKE_TURNS)
            await conn.execute(CREATE_HISTORY)
            waiting = await pending(conn)
            if not waiting:
                return done
            migration = waiting[0]
            await conn.execute(migration.sql)
            await conn.execute(RECORD, migration.number, migration.name, migration.sha256)
        done.append(migration)
