"""
What a person sees: scene by scene, what was received, what became of it, who may use what now.

On a terminal a scene changes while it happens; elsewhere it is written once, when it is over.
Made for 80 columns.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

WIDTH = 80
_INDENT = 3
_REST_S = 0.7

_ASCII = str.maketrans({"✓": "+", "✗": "X", "→": ">", "·": ",", "…": "."})
_COLOUR_OF_OUTCOME = {
    "applied": "green",
    "unchanged": "dim",
    "superseded": "dim",
    "parked": "yellow",
    "ignored": "dim",
    "dead": "red",
}


@dataclass(frozen=True, slots=True)
class Check:
    """
    One thing that was looked at, and found as it has to be or not.

    `detail` is what was found; `aside` the part of it that is worth a person's while.
    """

    name: str
    ok: bool
    detail: str
    aside: str = ""


@dataclass(eq=False)
class Row:
    """One delivery on its way: `answer` is what HTTP said, `outcome` what a worker made of it."""

    event_type: str
    note: str
    answer: str | None = None
    ok: bool = True
    outcome: str | None = None
    awaits_outcome: bool = True

    def answered(self, status: int, word: str, *, ok: bool) -> None:
        """What HTTP said; a status of 0 is no answer."""
        self.answer = f"{status} {word}" if status else f"none: {word}"
        self.ok = ok


@dataclass(eq=False)
class Scene:
    """One step of the story, drawn from what it holds at the moment."""

    key: str
    title: str
    about: str
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    tenants: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    #: What is being waited for.
    waits: str | None = None
    is_over: bool = False
    spinner: RenderableType = ""

    def send(self, event_type: str, note: str) -> Row:
        """A delivery leaves now."""
        row = Row(event_type, note)
        self.rows.append(row)
        return row

    def entitle(self, tenant: str, features: Mapping[str, Any] | None) -> None:
        """What a tenant may use now; None: nothing ever named it."""
        self.tenants[tenant] = features

    def expect(self, name: str, found: object, wanted: object, aside: str = "") -> None:
        """Check whether what was found is what has to be."""
        ok = found == wanted
        if not ok:
            aside = f"found {said_as(found)}; has to be {said_as(wanted)}"
        self.checks.append(Check(f"{self.key}: {name}", ok, aside or said_as(found), aside))


class Stage:
    """The terminal, or whatever stands in for it. `checks` are those of all scenes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        if console.is_terminal and console.width > WIDTH:
            console.width = WIDTH
        self.checks: list[Check] = []
        self._scenes = 0

    def say(self, *lines: str, style: str = "") -> None:
        """Lines between the scenes."""
        for line in lines:
            self._console.print(self._text(line, style), soft_wrap=True)

    @contextmanager
    def scene(self, key: str, title: str, about: str) -> Iterator[Scene]:
        """Play a scene; its checks count when it is over, however it ends."""
        self._scenes += 1
        spinner = Spinner("line" if self._console.options.ascii_only else "dots", style="cyan")
        scene = Scene(key, title, about, spinner=spinner)
        self._console.print()
        with self._shown(lambda: self._draw(self._scenes, scene)):
            try:
                yield scene
            finally:
                scene.is_over, scene.waits = True, None
                self.checks += scene.checks

    @contextmanager
    def _shown(self, draw: Callable[[], RenderableType]) -> Iterator[None]:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            with Live(
                console=self._console,
                get_renderable=draw,
                refresh_per_second=12,
                vertical_overflow="visible",
            ):
                yield
            return
        try:
            yield
        finally:
            with self._console.capture() as captured:
                self._console.print(draw())
            lines = [line.rstrip() for line in captured.get().splitlines()]
            self.say(*lines)

    async def rest(self) -> None:
        """Leave a person the time to read a scene. Nobody waits where nobody looks."""
        if self._console.is_terminal:
            await asyncio.sleep(_REST_S)

    def _draw(self, number: int, scene: Scene) -> RenderableType:
        parts: list[RenderableType] = [
            self._text(f"{number}  {scene.title}", "bold"),
            Padding(self._text(scene.about, "dim"), (0, 0, 0, _INDENT)),
        ]
        body: list[RenderableType] = []
        if scene.rows:
            body.append(self._draw_rows(scene))
        if scene.waits is not None:
            body.append(self._text(f"… {scene.waits}", "yellow"))
        body += [self._draw_tenant(*entry) for entry in scene.tenants.items()]
        if scene.checks:
            body.append(self._draw_checks(scene.checks))
        return Group(*parts, Padding(Group(*body), (0, 0, 0, _INDENT)))

    def _draw_rows(self, scene: Scene) -> Table:
        table = Table.grid(padding=(0, 1, 0, 0))
        for width in (29, 14, 19, 11):
            table.add_column(width=width, overflow="fold")
        for row in scene.rows:
            answer = Text("") if row.answer is None else Text(row.answer)
            answer.stylize("" if row.ok else "red")
            table.add_row(
                self._text(row.event_type, "cyan"),
                self._text(row.note),
                scene.spinner if row.answer is None and not scene.is_over else answer,
                self._outcome_of(row, scene),
            )
        return table

    def _outcome_of(self, row: Row, scene: Scene) -> RenderableType:
        if row.outcome is not None:
            return self._text(row.outcome, _COLOUR_OF_OUTCOME.get(row.outcome, ""))
        if row.answer is None or not row.awaits_outcome:
            return Text("")
        return Text("unsettled", style="red") if scene.is_over else scene.spinner

    def _draw_tenant(self, tenant: str, features: Mapping[str, Any] | None) -> RenderableType:
        line = self._text(tenant, "bold")
        line.append(" may use  ")
        line.append_text(self._text(shown_features(features), "green" if features else "yellow"))
        return line

    def _draw_checks(self, checks: Sequence[Check]) -> Table:
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=1)
        table.add_column(overflow="fold")
        for check in checks:
            mark = self._text("✓", "green") if check.ok else self._text("✗", "bold red")
            words = self._text(check.name.partition(": ")[2], "" if check.ok else "bold red")
            if check.aside:
                words.append_text(self._text(f"  {check.aside}", "dim" if check.ok else "red"))
            table.add_row(mark, words)
        return table

    def _text(self, text: str, style: str = "") -> Text:
        if self._console.options.ascii_only:
            text = text.translate(_ASCII)
        return Text(text, style=style)


def shown_features(features: Mapping[str, Any] | None) -> str:
    """What a tenant may use, for people; None is a tenant that nothing ever named."""
    if features is None:
        return "nothing (nobody named it)"
    if not features:
        return "nothing"
    return " · ".join(
        name if value is True else f"{name} {value:,}" if _is_number(value) else f"{name} {value}"
        for name, value in features.items()
    )


def said_as(value: object) -> str:
    """Whatever was found, for people."""
    if isinstance(value, Mapping):
        return shown_features(value)
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, tuple | list):
        return ", ".join(map(said_as, value))
    return str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
