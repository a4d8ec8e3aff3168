"""``stedfast labels reward``: what people prefer, learned from their choices, for policies to work for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from controller.cli.label import DatabaseOption, FolderArgument, needs_label_extra
from controller.cli.labels import labels
from controller.cli.terminal import JsonOption, errors_told

if TYPE_CHECKING:
    from controller.labelling.preferences import Learned


@labels.command()
def reward(  # noqa: PLR0917  # one argument an option
    folder: FolderArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="New file for the reward, JSON.")],
    database: DatabaseOption = None,
    seed: Annotated[int, typer.Option(min=0, help="The same answers and seed give the same file.")] = 0,
    better: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=high or NAME=low; as often as needed, for values that Stedfast does not know."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Learn from choices what people prefer, and say what matters to them and what is not known."""
    with errors_told(as_json):
        needs_label_extra()
        from controller.core.errors import ConfigurationError
        from controller.labelling.preferences import learn_reward
        from controller.labels.store import LabelStore

        ways = _ways(better or [])
        if output.exists():
            raise ConfigurationError(
                f"{output} exists; a session that began with it could not be resumed: choose another name"
            )
        learned = learn_reward(LabelStore.open(database or folder), seed=seed, ways=ways)
        learned.reward.write(output)
        if as_json:
            typer.echo(json.dumps({"status": "ok", "file": str(output), **_figures(learned)}))
            return
        for line in _lines(learned):
            typer.echo(line)
        typer.echo(f"{output}: sha256 {learned.reward.sha256}")


def _ways(better: list[str]) -> dict[str, Literal["high", "low"]]:
    from controller.core.errors import ConfigurationError

    ways: dict[str, Literal["high", "low"]] = {}
    for text in better:
        name, _, way = text.rpartition("=")
        if not name or way not in {"high", "low"}:
            raise ConfigurationError(f"--better {text!r}: say NAME=high or NAME=low")
        ways[name] = "high" if way == "high" else "low"
    return ways


def _figures(learned: Learned) -> dict[str, object]:
    return {
        "sha256": learned.reward.sha256,
        "kind": learned.reward.kind,
        "choices": learned.reward.choices,
        "card": learned.card.model_dump(),
        "matters": [
            {
                "name": matter.name,
                "low": matter.low,
                "high": matter.high,
                "effect": matter.effect,
                "effect_std": matter.effect_std,
                "is_known": matter.is_known,
            }
            for matter in learned.matters
        ],
        "alike": learned.alike,
        "passed_over": learned.passed_over,
        "without_way": learned.without_way,
    }


def _lines(learned: Learned) -> list[str]:
    """Return what is known and what is not, as sentences."""
    card = learned.card
    people = ", ".join(f"{count} by {name}" for name, count in card.annotators.items())
    lines = [f"learned from {learned.reward.choices} choices ({people}), {learned.reward.kind}"]
    lines += [f"  {count} not learned from: {why}" for why, count in learned.passed_over.items()]
    lines.append(
        f"foresees {card.right:g} of {card.judged} choices when it is learned from the others; "
        f"chance would {card.right_by_chance:.1f}"
    )
    lines.append("what matters, as utility from the least to the most that was shown:")
    for matter in learned.matters:
        shown = f"{matter.low:.3g} to {matter.high:.3g}"
        if not matter.has_differed:
            lines.append(f"  {matter.name}, {shown}: not known, it never differed within a choice")
            continue
        doubt = "" if matter.is_known else "; which way it counts is not known yet"
        lines.append(f"  {matter.name}, {shown}: {matter.effect:+.2f} ± {matter.effect_std:.2f}{doubt}")
    for one, other in learned.alike:
        lines.append(f"{one} and {other} rose and fell together: the effect of one may be that of the other")
    if learned.without_way:
        names = " ".join(f"--better {name}=…" for name in learned.without_way)
        lines.append(f"whether a pick was a slip cannot be told: say what is good with {names}")
    lines += [
        f"answer {answer} picked what another option was better than in everything: a slip, or something "
        f"else counted (learned from as it is)"
        for answer in card.dominated
    ]
    lines.append("beyond what was shown nothing is known: there the reward is less the further away")
    return lines
