"""``stedfast labels``: how far labelling is, who agrees with whom, and labels of other programs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli.label import DatabaseOption, FolderArgument, needs_label_extra
from controller.cli.terminal import JsonOption, app, errors_told

if TYPE_CHECKING:
    from controller.labels.class_consensus import Ballot

labels = typer.Typer(no_args_is_help=True, help="What people labelled: status, consensus, import, export.")
app.add_typer(labels, name="labels")

_ROLES = ("expert", "trainee", "crowd", "reader", "admin")


@labels.command()
def status(folder: FolderArgument, database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Tell how many questions are open and answered, who works, and which models there are."""
    with errors_told(as_json):
        store = _store(folder, database)
        from controller.web.tasks import LATE_S

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
            state, silent_s = worker.state, time.time() - worker.beat_s
            if state in {"working", "idle"} and silent_s > LATE_S:
                state = f"gives no sign of life for {silent_s:.0f} s, was {state}"
            typer.echo(": ".join(filter(None, (f"{worker.name} {state}", worker.message))))
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
        from pydantic import ValidationError

        from controller.core.errors import ConfigurationError

        if role not in _ROLES:
            raise ConfigurationError(f"--role {role!r}: allowed are {', '.join(_ROLES)}")
        store = _store(folder, database, create=True)
        try:
            annotator = store.add_annotator(name, role)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            raise ConfigurationError(*(f"{p['loc'][0]} {name!r}: {p['msg']}" for p in problems)) from error
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


@labels.command()
def consensus(folder: FolderArgument, database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Work out what several people's answers come to, who agrees with whom, and how good each is."""
    with errors_told(as_json):
        store = _store(folder, database)
        from controller.labels.consensus import annotator_skills, update_consensus
        from controller.labels.told import Told

        updated = update_consensus(store)
        names = {one.id: one.name for one in store.annotators()}
        told = Told.read(store)
        questions = _agreement([] if told is None else told.ballots(), names)
        skills = [
            {**asdict(skill), "annotator": names[skill.annotator_id]} for skill in annotator_skills(store)
        ]
        if as_json:
            told_all = {"new": len(updated.new), "refused": updated.refused, "questions": questions}
            typer.echo(json.dumps({"status": "ok", **told_all, "skills": skills}))
            return
        typer.echo(f"{len(updated.new)} new or changed; {len(updated.refused)} answers could not be used")
        for reason in sorted(set(updated.refused.values())):
            typer.echo(f"  {reason}")
        _tell_agreement(questions)
        _tell_skills(skills)


def _agreement(ballots: Sequence[Ballot], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return who agrees with whom about each question that has one answer of each person."""
    from controller.labels.agreement import cohen_kappas, fleiss_kappa, krippendorff_alpha

    found = []
    for ballot in ballots:
        table, people = ballot.table(), [names[one] for one in ballot.annotators]
        pairs = cohen_kappas(table)
        found.append(
            {
                "question": ballot.method + ("" if len(ballot.names) > 2 else f": {ballot.names[-1]}"),
                "samples": len(ballot.samples),
                "cohen": {f"{people[a]} and {people[b]}": asdict(k) for (a, b), k in pairs.items()},
                "fleiss": asdict(fleiss_kappa(table)),
                "krippendorff": asdict(krippendorff_alpha(table)),
            }
        )
    return found


def _tell_agreement(questions: Sequence[Mapping[str, Any]]) -> None:
    for question in questions:
        typer.echo(f"{question['question']}, {question['samples']} samples")
        for name, figure in [
            *((f"Cohen's kappa, {pair}", kappa) for pair, kappa in question["cohen"].items()),
            ("Fleiss' kappa", question["fleiss"]),
            ("Krippendorff's alpha", question["krippendorff"]),
        ]:
            value = figure["reason"] if figure["value"] is None else f"{figure['value']:.2f}"
            typer.echo(f"  {name}: {value} ({figure['items']} items)")


def _tell_skills(skills: Sequence[Mapping[str, Any]]) -> None:
    for skill in skills:
        figures = [
            f"{name} {skill[name]:.2f}"
            for name in ("accuracy", "sensitivity", "specificity")
            if skill[name] is not None
        ]
        of_others = f"{skill['shared']} of {skill['answers']} also answered by others"
        typer.echo(
            f"{skill['annotator']}, {skill['method']}: {', '.join(figures) or 'unknown'} ({of_others})"
        )


@labels.command("export")
def export_labels(
    folder: FolderArgument,
    target: Annotated[Path, typer.Argument(help="New folder to write.")],
    file_format: Annotated[
        str,
        typer.Option("--format", help="label_tiff, ome_zarr, coco, napari, ilastik(_hdf5), polys, csv."),
    ] = "label_tiff",
    annotator: Annotated[str | None, typer.Option(help="Only answers of this person.")] = None,
    database: DatabaseOption = None,
) -> None:
    """Write labels for other programs; what a format cannot hold is listed, not dropped."""
    with errors_told(as_json=False):
        store = _store(folder, database)
        from controller.labelling.session_images import SessionImages
        from controller.labels.formats.exporting import LEFT_OUT_NAME
        from controller.labels.formats.exporting import export_labels as write

        paths = write(store, SessionImages(folder), target, file_format, annotator=annotator)
        typer.echo(f"{len(paths)} files in {target}")
        if (target / LEFT_OUT_NAME).exists():
            typer.echo(f"not all of it fits into {file_format}: see {target / LEFT_OUT_NAME}")


@labels.command("import")
def import_labels(  # noqa: PLR0913, PLR0917  # one argument an option
    folder: FolderArgument,
    source: Annotated[Path, typer.Argument(help="Folder or file with images and their labels.")],
    file_format: Annotated[
        str,
        typer.Option("--format", help="label_tiff, ome_zarr, coco, napari, ilastik(_hdf5) or polys."),
    ],
    annotator: Annotated[str, typer.Option(help="Whose labels they are.")],
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes in the order of their numbers, with commas.")
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="THEIRS=OURS; as often as needed, OURS may be 'ambiguous'.")
    ] = None,
    pixel_size_m: Annotated[float | None, typer.Option("--pixel-size", help="In metres.")] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Nothing was left out: the rest is background.")
    ] = False,
    offset: Annotated[
        float | None, typer.Option(help="To subtract from pixels, if not what is found by itself.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Name for these images together.")] = None,
    database: DatabaseOption = None,
) -> None:
    """Take labels of other programs in, as answers of a person; all of them or none."""
    with errors_told(as_json=False):
        from pydantic import ValidationError

        from controller.core.errors import ConfigurationError

        pairs = [text.partition("=") for text in rename or []]
        if not all(theirs and sign and ours for theirs, sign, ours in pairs):
            raise ConfigurationError(f"--rename {rename}: say THEIRS=OURS")
        folder.mkdir(parents=True, exist_ok=True)
        store = _store(folder, database, create=True)
        from controller.labels.formats.file_readers import ImportOptions
        from controller.labels.formats.importing import import_labels as read

        try:
            options = ImportOptions(
                classes=tuple(name.strip() for name in (classes or "").split(",") if name.strip()),
                rename={theirs: ours for theirs, _, ours in pairs},
                coverage="image" if complete else "marks",
                pixel_size_m=pixel_size_m,
                offset_units=offset,
                session=session,
            )
        except ValidationError as error:
            problems = error.errors(include_url=False)
            raise ConfigurationError(*(f"{p['loc'][0]}: {p['msg']}" for p in problems)) from error
        found = read(store, source, file_format, annotator, folder=folder, options=options)
        typer.echo(f"{len(found.answers)} answers about {len(found.samples)} images")
        for note in found.notes:
            typer.echo(f"  {note}")


def _store(folder: Path, database: str | None, *, create: bool = False) -> Any:
    needs_label_extra()
    from controller.labels.store import LabelStore

    return LabelStore.open(database or folder, create=create)
