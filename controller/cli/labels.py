"""``stedfast labels``: how far labelling is, who agrees with whom, and labels of other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli.label import DatabaseOption, FolderArgument, needs_label_extra
from controller.cli.terminal import JsonOption, app, errors_told

labels = typer.Typer(no_args_is_help=True, help="What people labelled: status, consensus, import, export.")
app.add_typer(labels, name="labels")

_ROLES = ("expert", "trainee", "crowd", "reader", "admin")


@labels.command()
def status(folder: FolderArgument, database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Tell how many questions are open and answered, who works, and which models there are."""
    with errors_told(as_json):
        store = _store(folder, database)
        counts, workers, models = store.counts(), store.workers(), store.models()
        if as_json:
            told: dict[str, Any] = {
                "status": "ok",
                "counts": counts.model_dump(),
                "workers": [worker.model_dump() for worker in workers],
                "models": [model.model_dump() for model in models],
            }
            typer.echo(json.dumps(told))
            return
        typer.echo(
            f"{counts.answers} answers in {counts.answer_s:.0f} s; open: {counts.open_live} live, "
            f"{counts.open_later} for later, {counts.leased} being answered"
        )
        for name, count in sorted(counts.per_class.items(), key=lambda item: -item[1]):
            typer.echo(f"  {count:6d}  {name}")
        for worker in workers:
            typer.echo(f"{worker.name}: {worker.state}, {worker.message}")
        for model in models[-5:]:
            figures = ", ".join(f"{name} {value:.3g}" for name, value in sorted(model.metrics.items()))
            typer.echo(f"{model.role} {model.sha256[:12]}: {model.verdict}, {model.reason} ({figures})")


@labels.command()
def invite(
    folder: FolderArgument,
    name: Annotated[str, typer.Argument(help="Name or pseudonym.")],
    role: Annotated[str, typer.Option(help=f"One of {', '.join(_ROLES)}; a reader only looks.")] = "expert",
    address: Annotated[str, typer.Option(help="Where the page is, as 'stedfast label' says.")] = "",
    database: DatabaseOption = None,
) -> None:
    """Let somebody else answer: print a secret of their own for the page."""
    with errors_told(as_json=False):
        from controller.core.errors import ConfigurationError

        if role not in _ROLES:
            raise ConfigurationError(f"--role {role!r}: allowed are {', '.join(_ROLES)}")
        store = _store(folder, database, create=True)
        try:
            annotator = store.add_annotator(name, role)
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        token = store.new_token(annotator)
        typer.echo(f"{address.rstrip('/')}/login?token={token}" if address else f"token of {name}: {token}")


@labels.command()
def revoke(
    folder: FolderArgument,
    name: Annotated[str, typer.Argument(help="Whose secrets are to be worthless.")],
    database: DatabaseOption = None,
) -> None:
    """Make all secrets of a person worthless."""
    with errors_told(as_json=False):
        from controller.core.errors import ConfigurationError

        store = _store(folder, database)
        found = [one for one in store.annotators() if one.name == name]
        if not found:
            known = ", ".join(one.name for one in store.annotators()) or "nobody"
            raise ConfigurationError(f"there is no annotator {name!r}; there are {known}")
        store.revoke_tokens(found[0])
        typer.echo(f"the secrets of {name} are worthless now")


def _store(folder: Path, database: str | None, *, create: bool = False) -> Any:
    needs_label_extra()
    from controller.labels.store import LabelStore

    return LabelStore.open(database or folder, create=create)
