"""Models that were trained from people's answers, in the folder through which a running session gets them.

Each is a pair ``0001.safetensors`` and ``0001.json`` in ``labels/published`` of the session; the numbers
count up. A pair is complete when its ``.safetensors`` is there, and is never changed again. Who trains and
who follows never wait for each other, and either may be killed at any moment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.core.errors import RecordingError
from controller.networks.weights import Card, Weights, WeightsError, read_weights, write_weights
from controller.segmentation.network_options import options_of

PUBLISHED = Path("labels") / "published"

_NAME = re.compile(r"([0-9]{4,9})\.(safetensors|json)")


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """A published model and its number."""

    number: int
    weights: Weights


def published_folder(session_folder: Path) -> Path:
    """Return where the models of a session are published."""
    return session_folder / PUBLISHED


def session_of(weights: Path) -> Path | None:
    """Return the session that a file of weights was published in; ``None`` if it comes from elsewhere."""
    return weights.parents[2] if weights.parts[-3:-1] == PUBLISHED.parts else None


def published_numbers(folder: Path) -> list[int]:
    """Return the numbers of the models in a folder, the oldest first; none if it is not there."""
    return sorted(_numbers(folder, {"safetensors"}))


def next_number(folder: Path) -> int:
    """Return a number that no model has, nor one whose trainer was killed while it was published."""
    return 1 + max(_numbers(folder, {"safetensors", "json"}), default=0)


def publish(weights: Weights, folder: Path, number: int) -> Path:
    """Put a model into the folder, whole or not at all; return its file.

    Raises
    ------
    RecordingError
        If the disk refuses, or there is a model of that number.
    """
    path = path_of(folder, number)
    if path.exists():
        raise RecordingError(f"{path}: there is such a model already; published models never change")
    try:
        write_weights(weights, path)
    except WeightsError as error:
        raise RecordingError(str(error)) from error
    return path


def path_of(folder: Path, number: int) -> Path:
    """Return the file of a published model."""
    return folder / f"{number:04d}.safetensors"


def number_of(card: Card | dict[str, Any]) -> int:
    """Return under which number a model was published, as its card says; 0 if it was not."""
    training = card.training if isinstance(card, Card) else card.get("training")
    number = training.get("published") if isinstance(training, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 0


def _numbers(folder: Path, kinds: set[str]) -> set[int]:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return set()
    found = (_NAME.fullmatch(name) for name in names)
    return {int(name[1]) for name in found if name is not None and name[2] in kinds}


class Follower:
    """Looks for newer models than the one in use, and never goes back to an older one.

    Parameters
    ----------
    folder
        Where models are published; it need not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._damaged: set[int] = set()
        self._problems: list[str] = []

    @property
    def number(self) -> int:
        """Return the number of the model in use, 0 if none of these is."""
        return self._number

    def took(self, number: int) -> None:
        """Remember which model is in use."""
        self._number = max(self._number, number)

    def newer(self) -> Published | None:
        """Return the newest model that can be used, if it is newer than the one in use.

        Those that cannot be used are passed over for good; :meth:`problem` tells why. Costs the listing of
        one folder where there is none.
        """
        for number in reversed(published_numbers(self._folder)):
            if number <= self._number:
                break
            if number in self._damaged:
                continue
            try:
                weights = read_weights(path_of(self._folder, number))
                options_of(weights.card)
            except WeightsError as error:
                self.refuse(number, error)
                continue
            return Published(number, weights)
        return None

    def refuse(self, number: int, error: Exception) -> None:
        """Pass a model over from now on."""
        self._damaged.add(number)
        self._problems.append(f"published model {number} is passed over: {error}")

    def problem(self) -> str | None:
        """Return what was wrong with a model, each problem once."""
        return self._problems.pop(0) if self._problems else None
