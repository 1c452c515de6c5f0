"""`sluice demo`: a small story through the stack that runs, every step of it checked."""

import asyncio
import statistics
import sys
from typing import TYPE_CHECKING

import typer

from workers.cli.exits import DEPENDENCY_DOWN, FAILURE, CommandError, write_json
from workers.cli.output import ActorOption, JsonOption, actor_name, in_transaction, operate
from workers.cli.run import find_endpoints

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from workers.demo.play import Play
    from workers.demo.setting import Setting
    from workers.demo.stage import Stage


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(epilog="Example: sluice demo --json")(demo)


def demo(actor: ActorOption = None, as_json: JsonOption = False) -> None:
    """
    Send sample events through the running stack, over HTTP, and check what becomes of them.

    Safe to repeat, also in production: everything it makes is named demo-…, and new each time.
    """
    from rich.console import Console

    from shared.sealing import KeyRing
    from shared.settings import Settings
    from workers.demo.bodies import Script
    from workers.demo.play import Play
    from workers.demo.pushing import Application, Partner
    from workers.demo.sending import Sender
    from workers.demo.setting import RESULTS, SOURCE, issue_token, prepare
    from workers.demo.stage import Stage
    from workers.demo.story import perform
    from workers.demo.watching import Watcher

    who = actor_name(actor)
    _find_gateway(find_endpoints(Settings.read()).http)
    stage = Stage(Console(file=sys.stderr, highlight=False))

    async def run(conn: "Conn", endpoints: "Endpoints") -> "Play":
        keys = KeyRing.parse(endpoints.secret_key)
        setting = await in_transaction(conn, lambda: prepare(conn, keys, who))
        script = Script(livemode=setting.livemode)
        tenant = script.tenant("acme")
        token = await in_transaction(conn, lambda: issue_token(conn, tenant, who))
        _introduce(stage, endpoints.http, setting)
        play = Play(
            conn=conn,
            url=endpoints.database["operator"],
            stage=stage,
            script=script,
            sender=Sender(endpoints.http, SOURCE, setting.secret),
            watcher=Watcher(conn, SOURCE, livemode=setting.livemode),
            partner=Partner(endpoints.http, RESULTS, setting.push_secret),
            application=Application(endpoints.http, token),
        )
        await perform(play)
        return play

    play = operate(run)
    failed = [check for check in stage.checks if not check.ok]
    if as_json:
        write_json(
            {
                "ok": not failed,
                "checks": [
                    {"name": check.name, "ok": check.ok, "detail": check.detail}
                    for check in stage.checks
                ],
                "tenant": play.tenants[0],
            }
        )
    _conclude(play)
    if failed:
        raise typer.Exit(FAILURE)


def _find_gateway(url: str) -> None:
    """
    Raises:
        CommandError: no gateway answers there, or none that is ready.
    """
    from workers.demo.sending import readiness
    from workers.stack.up import own_command

    try:
        status = asyncio.run(readiness(url))
    except OSError as error:
        raise CommandError(
            f"no stack runs: no gateway answers at {url} ({error.strerror or error});"
            f" start one with `{own_command()} up`",
            DEPENDENCY_DOWN,
        ) from None
    if status != 200:
        raise CommandError(
            f"the gateway at {url} is not ready: /readyz answers {status}; see what is wrong with"
            f" `{own_command()} doctor`",
            DEPENDENCY_DOWN,
        )


def _introduce(stage: "Stage", url: str, setting: "Setting") -> None:
    mode = "live" if setting.livemode else "test"
    stage.say(f"Sluice demo at {url}, {mode} mode", style="bold")
    stage.say(
        f"Signed requests over real HTTP; every ✓ is read back.\n"
        f"Sources demo-stripe, demo-results, plans demo-basic, demo-pro:"
        f" configuration {setting.version}.",
        style="dim",
    )


def _conclude(play: "Play") -> None:
    from workers.stack.up import own_command

    stage, answers = play.stage, play.sender.answers
    green = sum(check.ok for check in stage.checks)
    stage.say("")
    if green == len(stage.checks):
        stage.say(f"✓ All {green} checks are green.", style="bold green")
    else:
        red = len(stage.checks) - green
        stage.say(f"✗ {red} of {len(stage.checks)} checks failed.", style="bold red")
    if answers and play.effects_s:
        answered_ms = statistics.median(answer.took_s for answer in answers) * 1000
        effect_ms = statistics.median(play.effects_s) * 1000
        stage.say(
            f"{len(answers)} deliveries of {len(play.received)} events; half were answered within"
            f" {answered_ms:.0f} ms,\nand half of the effects were seen {effect_ms:.0f} ms later."
        )
    sluice = own_command()
    stage.say("\nLook closer:", style="bold")
    stage.say(
        f"  {sluice} tenants show {play.tenants[0]}",
        f"  {sluice} events list --source demo-stripe",
        f"  {sluice} audit list --tenant {play.tenants[0]}",
    )
