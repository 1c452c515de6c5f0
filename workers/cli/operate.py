"""The operator's side of `sluice`: its groups of commands."""

import typer

from workers.cli import (
    apply,
    audit,
    audit_keys,
    bundles,
    catalog,
    drain,
    events,
    events_acting,
    events_reading,
    events_tail,
    handlers,
    issues,
    jobs,
    keeping,
    manual,
    outbox,
    parked,
    reconcile,
    records,
    replay,
    requests,
    run,
    secrets,
    shadows,
    showing,
    source_secrets,
    sources,
    status,
    tenants,
    tokens,
    verifying,
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module and of its neighbours to `app`."""
    app.command(epilog="Example: sluice status --watch")(status.status)
    app.command(epilog="Example: sluice drain --timeout 10m")(drain.drain)
    app.command(epilog="Example: sluice apply sluice.toml --dry-run")(apply.apply)
    app.add_typer(replay.app, name="replay")
    app.add_typer(catalog.app, name="catalog")
    showing.register(sources.app)
    source_secrets.register(sources.app)
    shadows.register(sources.app)
    verifying.register(sources.app)
    app.add_typer(sources.app, name="sources")
    for more in (events_tail, events_reading, events_acting):
        more.register(events.app)
    app.add_typer(requests.app, name="requests")
    app.add_typer(secrets.app, name="secrets")
    app.add_typer(events.app, name="events")
    app.add_typer(issues.app, name="issues")
    app.add_typer(parked.app, name="parked")
    app.add_typer(records.app, name="records")
    app.add_typer(jobs.app, name="jobs")
    app.add_typer(handlers.app, name="handlers")
    app.add_typer(outbox.app, name="outbox")
    reconcile.register(app)
    manual.register(tenants.app)
    keeping.register_tenants(tenants.app)
    keeping.register_db(run.database)
    app.add_typer(tenants.app, name="tenants")
    audit_keys.register(audit.app)
    bundles.register(audit.app)
    app.add_typer(audit.app, name="audit")
    app.add_typer(tokens.app, name="tokens")
