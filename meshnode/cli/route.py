"""The verbs about routing: why a request would run where it would."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from meshnode.cli import client
from meshnode.cli.complete import models_offered
from meshnode.cli.render import Screen
from meshnode.cli.verb import verb
from meshnode.control.route import RouteArguments
from meshnode.routing.decision import CandidateView, DecisionView
from meshnode.terms import Place, Privacy

ID_CHARACTERS = 8
COLUMNS = ("", "NODE", "MODEL", "RUNG", "TOTAL", "WHY")


@click.group()
def route() -> None:
    """Show how requests are routed."""


@route.command()
@click.argument("model", default="", shell_complete=models_offered)
@click.option(
    "--privacy", type=click.Choice([one.value for one in Privacy]), default="private", show_default=True
)
@click.option(
    "--place", type=click.Choice([one.value for one in Place]), default="prefer-local", show_default=True
)
@click.option(
    "--min-tier", type=click.IntRange(0, 6), default=0, help="The least quality tier of the weights."
)
@click.option("--prompt-tokens", type=click.IntRange(0), default=500, show_default=True)
@click.option("--output-tokens", type=click.IntRange(0), default=256, show_default=True)
@click.option("--residency", multiple=True, help="A label that the node must carry; may be given again.")
@verb
async def explain(screen: Screen, home: Path, *, residency: tuple[str, ...], **asked: object) -> None:
    """Show every candidate for a request, with its cost in seconds or the reason why it is ruled out.

    MODEL is as in a request, such as qwen3:8b@q5; without it the mesh would pick one. Nothing is sent.
    """
    arguments = msgspec.convert({**asked, "residency": residency}, RouteArguments)
    given = msgspec.to_builtins(arguments)
    seen = await client.call(home, "route", given, DecisionView)
    screen.json(seen)
    screen.table(COLUMNS, [_row(one) for one in seen.candidates])
    if seen.refusal:
        screen.line(seen.refusal)
    elif seen.hedge:
        screen.line(f"A second node beside the first: {seen.hedge}.")


def _row(one: CandidateView) -> tuple[str, ...]:
    place, total = (str(one.place), f"{one.total_s:.2f} s") if one.place else ("-", "")
    why = one.reason or " + ".join(f"{name} {term:.2f}" for name, term in one.terms.items() if term)
    seen = " (measured)" if one.proven else ""
    return place, one.node[:ID_CHARACTERS], f"{one.model}@{one.quant}", one.rung, total, why + seen
