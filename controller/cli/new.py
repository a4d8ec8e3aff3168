"""``stedfast new``: an experiment to start from."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli.terminal import app, errors_told


@app.command()
def new(
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    hardware: Annotated[
        str, typer.Option(help="Hardware configuration: a file, or the name of a shipped one.")
    ] = "sim_sted.toml",
) -> None:
    """Make an experiment to start from: two commented TOML files."""
    with errors_told(as_json=False):
        from controller.config import shipped_hardware
        from controller.core.errors import ConfigurationError

        template = shipped_hardware("experiment_template.toml")
        source = Path(hardware) if Path(hardware).exists() else shipped_hardware(hardware)
        if not source.exists():
            shipped = sorted(path.name for path in template.parent.glob("*.toml") if path != template)
            raise ConfigurationError(
                f"--hardware {hardware}: there is no such file, and none of that name comes with Stedfast: "
                f"{', '.join(shipped)}"
            )
        hardware = source.name
        copied = [source, *_companions(source)]
        for target in (*(folder / path.name for path in copied), folder / "experiment.toml"):
            if target.exists():
                raise ConfigurationError(f"{target} exists already; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        for path in copied:
            shutil.copyfile(path, folder / path.name)
        name = json.dumps(folder.resolve().name, ensure_ascii=False)
        text = template.read_text().replace('"NAME"', name)
        text = re.sub(
            r"^session_energy_j = .*$", lambda m: _energy_line(source, m[0]), text, flags=re.MULTILINE
        )
        (folder / "experiment.toml").write_text(text.replace('"HARDWARE"', json.dumps(hardware)))
        files = ", ".join(f"{folder}/{path.name}" for path in copied)
        typer.echo(f"{folder}/experiment.toml, {files} are yours to edit. Next:")
        typer.echo(f"  stedfast check {folder}\n  stedfast run {folder}")


def _toml(path: Path) -> dict[str, Any]:
    """Return what a configuration says; nothing, if it is not one: to say so is for 'check'."""
    import tomllib

    with suppress(tomllib.TOMLDecodeError, UnicodeDecodeError):
        return tomllib.loads(path.read_text())
    return {}


def _companions(hardware: Path) -> list[Path]:
    """Return the files beside a hardware configuration that it cannot do without."""
    with suppress(AttributeError):
        options = _toml(hardware).get("microscope", {}).get("options", {})
        path = hardware.parent / str(options.get("config_file", ""))
        if path.is_file() and path.parent == hardware.parent:
            return [path]
    return []


def _energy_line(hardware: Path, line: str) -> str:
    """Return the template's budget, or the microscope's own limit if that is less."""
    key, _, rest = line.partition(" = ")
    template_j, _, comment = rest.partition("#")
    with suppress(AttributeError, TypeError):
        limit_j = _toml(hardware).get("limits", {}).get("session_energy_max_j", template_j)
        return f"{key} = {min(float(template_j), limit_j):g}       #{comment}"
    return line
