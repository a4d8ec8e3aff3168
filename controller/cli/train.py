"""``stedfast train``: the networks that come with Stedfast learn from images of your own."""

from __future__ import annotations

import typer

from controller.cli.terminal import app

train_app = typer.Typer(help="Train the networks on images of your own.", no_args_is_help=True)
app.add_typer(train_app, name="train")
