"""
What a process may be told from outside: environment variables named `SLUICE_*`.

Read once, in a process's `main`, and passed down. Servers may also be found through
`SLUICE_HOME/endpoints.json`, which a running `sluice up` keeps there (mode 0600), so that every
command on the same machine finds its stack without being told.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "SLUICE_"
ROLES = ("owner", "gateway", "reader", "worker", "operator")

#: Kubernetes sets these for every service of the namespace, ours included.
_KUBERNETES = re.compile(
    r"^SLUICE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_\w+)$|^SLUICE_\w+_PORT$"
)


class SettingsError(Exception):
    """The environment says something that cannot be used. The message names the variable."""


class Settings(BaseSettings):
    """Everything a process may be told. Durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    home: Path = Field(default_factory=lambda: default_home())  # noqa: PLW0108 - defined below
    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=1, le=65535)
    admin_port: int = Field(default=0, ge=0, le=65535, description="/metrics; 0 switches it off")
    database_url: SecretStr | None = None
    reader_database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    secret_key: SecretStr | None = None
    log_level: str = "INFO"

    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    signature_tolerance_s: int = Field(default=300, ge=1)
    store_timeout_s: float = Field(default=0.8, gt=0)
    api: bool = True
    public_url: str | None = Field(
        default=None, description="what the gateway is reached by from outside: https://…"
    )
    artifacts_url: str | None = Field(default=None, description="a file:, s3:, gs: or az: URL")
    api_rate: str = Field(default="6000/minute", description="requests of one token")
    api_failures: str = Field(default="60/minute", description="401s of one address")
    trusted_proxies: str | None = Field(default=None, description="addresses and networks")
    cors_origins: str | None = Field(default=None, description='origins of browsers, or "*"')

    worker_processes: int = Field(default=1, ge=1, le=64)
    worker_slots: int = Field(default=6, ge=1, le=64, description="lanes a process drains at once")
    batch_size: int = Field(default=100, ge=1, le=1000)
    max_attempts: int = Field(default=12, ge=1)
    retry_base_s: float = Field(default=2.0, gt=0)
    retry_cap_s: float = Field(default=3600.0, gt=0)
    hang_after_s: float = Field(default=10.0, gt=0)
    send_timeout_s: float = Field(default=30.0, ge=1, le=600, description="a lease is twice that")
    reconcile_every_s: float = Field(default=3600.0, ge=0, description="0: never")
    pull_every_s: float = Field(default=300.0, ge=0, description="events; 0: never")
    compare_every_s: float = Field(default=86400.0, ge=0, description="objects; 0: never")

    prune_every_s: float = Field(default=3600.0, ge=0, description="0: never")
    keep_bodies_d: int = Field(default=30, ge=7, le=36500)
    keep_ledger_d: int = Field(default=400, ge=90, le=36500)
    keep_jobs_d: int = Field(default=90, ge=7, le=36500)
    keep_messages_d: int = Field(default=90, ge=90, le=36500, description="receivers know keys")
    checkpoint_every_s: float = Field(default=3600.0, ge=0, description="0: never")

    @field_validator("port", "admin_port", mode="before")
    @classmethod
    def _not_a_service_link(cls, value: object) -> object:
        # A Kubernetes service called "sluice" puts "tcp://10.0.0.1:8400" into SLUICE_PORT.
        if isinstance(value, str) and value.startswith("tcp://"):
            return 8400
        return value

    @model_validator(mode="after")
    def _ledger_outlives_bodies(self) -> Self:
        if self.keep_ledger_d <= self.keep_bodies_d:
            raise ValueError("SLUICE_KEEP_LEDGER_D must be more than SLUICE_KEEP_BODIES_D")
        return self

    @field_validator("public_url")
    @classmethod
    def _is_base(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError("must be http://… or https://…, without a query")
        return value.rstrip("/")

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> Self:
        """
        Read the environment.

        Raises:
            SettingsError: an unknown `SLUICE_` name, or a value that does not fit.
        """
        names = os.environ if environ is None else environ
        known = {PREFIX + name.upper() for name in cls.model_fields}
        for name in names:
            if name.startswith(PREFIX) and name not in known and not _KUBERNETES.match(name):
                raise SettingsError(
                    f"{name} is not a setting of Sluice; known are {', '.join(sorted(known))}"
                )
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:
                raise SettingsError(first["msg"]) from None
            name = PREFIX + str(first["loc"][0]).upper()
            raise SettingsError(f"{name}: {first['msg']}") from None


def default_home() -> Path:
    """Where the embedded stack keeps its state unless `SLUICE_HOME` says otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/sluice")
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "sluice"


@dataclass(frozen=True)
class Endpoints:
    """
    Where the servers of a stack are.

    `database` maps each role of `ROLES` to its own URL; with one `SLUICE_DATABASE_URL` they are
    all the same, and a connection takes its role with SET ROLE.
    """

    database: Mapping[str, str]
    redis: str
    secret_key: str
    http: str

    @classmethod
    def find(cls, settings: Settings) -> Self:
        """
        From the environment where it is set, else from `endpoints.json` of `SLUICE_HOME`.

        Raises:
            SettingsError: neither says where Postgres is.
        """
        stored: dict[str, Any] = {}
        path = endpoints_path(settings.home)
        try:
            stored = json.loads(path.read_text())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            if settings.database_url is None:
                raise SettingsError(f"{path} cannot be read: {error}") from None
        database: dict[str, str] = dict(stored.get("database", {}))
        if settings.database_url is not None:
            database = dict.fromkeys(ROLES, settings.database_url.get_secret_value())
        if settings.reader_database_url is not None:
            database["reader"] = settings.reader_database_url.get_secret_value()
        if not database:
            raise SettingsError(
                f"no stack found: SLUICE_DATABASE_URL is not set and {path} does not exist;"
                " start one with `sluice up`, or set SLUICE_DATABASE_URL and SLUICE_REDIS_URL"
            )
        return cls(
            database=database,
            redis=_secret(settings.redis_url) or stored.get("redis", ""),
            secret_key=_secret(settings.secret_key) or stored.get("secretKey", ""),
            http=stored.get("http", f"http://{settings.host}:{settings.port}"),
        )

    def save(self, home: Path) -> None:
        """Write `endpoints.json`, readable by its owner only, all at once."""
        path = endpoints_path(home)
        content = json.dumps(
            {
                "database": dict(self.database),
                "redis": self.redis,
                "secretKey": self.secret_key,
                "http": self.http,
            },
            indent=2,
        )
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(content)
        draft.replace(path)


def endpoints_path(home: Path) -> Path:
    """The file by which commands find a running stack."""
    return home / "endpoints.json"


def _secret(value: SecretStr | None) -> str:
    return value.get_secret_value() if value is not None else ""
