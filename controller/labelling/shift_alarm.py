"""Says when images differ from those that models were trained on, before labels are wasted on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from controller.labelling.places import Place
from controller.labelling.whole_files import write_whole
from controller.learning.domain_shift import (
    LEAST_GROUPS,
    Look,
    Shift,
    ShiftOptions,
    domain_shift,
    image_statistics,
    statistics_of,
)

REFERENCE_NAME = "reference.safetensors"

#: Images that are remembered of what models were trained on, and frames that they must come from.
_KEPT, _FRAMES = 200, 2 * LEAST_GROUPS
#: New frames after which is looked again; looking often makes false alarms likely.
_EVERY_FRAMES = 10
_OPTIONS = ShiftOptions(alpha=0.005)

Encode = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Images that models were trained on.

    Attributes
    ----------
    crops
        Shape ``(n, y, x)``, photons, float32.
    frames
        Which frame each comes from, shape ``(n,)``.
    pixel_size_m
        Of all of them.
    """

    crops: NDArray[np.float32]
    frames: NDArray[np.int64]
    pixel_size_m: float

    @classmethod
    def of(cls, places: Sequence[Place]) -> Reference:
        """Return what places show."""
        return cls(
            np.stack([place.photons for place in places]),
            np.array([place.sample.frame_index or 0 for place in places], np.int64),
            places[0].sample.pixel_size_m,
        )

    @classmethod
    def read(cls, path: Path) -> Reference | None:
        """Return what an earlier session wrote; ``None`` if there is nothing, or it is damaged."""
        try:
            found = load(path.read_bytes())
            return cls(found["crops"], found["frames"], float(found["pixel_size_m"][0]))
        except (OSError, SafetensorError, KeyError, IndexError):
            return None

    def write(self, path: Path) -> None:
        """Write it for sessions that begin with what this one learned."""
        tensors: dict[str, NDArray[Any]] = {
            "crops": self.crops,
            "frames": self.frames,
            "pixel_size_m": np.array([self.pixel_size_m]),
        }
        write_whole(path, save(tensors))

    def look(self, encode: Encode) -> Look:
        """Return what an encoder and statistics say of them."""
        statistics = statistics_of([image_statistics(crop, self.pixel_size_m) for crop in self.crops])
        return Look(encode(self.crops).astype(np.float64), statistics, self.frames)


class ShiftAlarm:
    """Compares new frames with the ones that an earlier session, or this one's beginning, was labelled on.

    Parameters
    ----------
    encode
        From crops to features.
    folder
        Of the labels of this session, where its own reference is kept.
    earlier
        Of the labels of the session whose weights this one begins with; ``None`` if there is none.
    seed
        Of all chance.
    """

    def __init__(self, encode: Encode, folder: Path, earlier: Path | None, seed: int) -> None:
        self._encode, self._own, self._seed = encode, folder / REFERENCE_NAME, seed
        self._is_of_earlier = False
        self._reference = Reference.read(self._own)
        self._looked_at = -1
        self._last_frame = -1 if self._reference is None else int(self._reference.frames.max())
        if earlier is not None and (found := Reference.read(earlier / REFERENCE_NAME)) is not None:
            self._reference, self._is_of_earlier, self._last_frame = found, True, -1

    def look(self, places: Sequence[Place]) -> Shift | None:
        """Return a shift if one has been found; looks only now and then."""
        if self._reference is None:
            self._remember(places)
            return None
        if places and places[0].sample.pixel_size_m != self._reference.pixel_size_m:
            return None  # other pixels are another image; the segmenter brings them to its scale
        today = [p for p in places if (p.sample.frame_index or 0) > self._last_frame]
        frames = sorted({p.sample.frame_index or 0 for p in today})
        new = sum(frame > self._looked_at for frame in frames)
        if len(frames) < _FRAMES or (self._looked_at >= 0 and new < _EVERY_FRAMES):
            return None
        self._looked_at = frames[-1]
        rng = np.random.default_rng([self._seed, 4, self._looked_at])
        found = domain_shift(
            self._reference.look(self._encode), Reference.of(today).look(self._encode), rng, _OPTIONS
        )
        return found if found.is_shifted else None

    @property
    def compared_with(self) -> str:
        """Return what new frames are compared with, for people."""
        return (
            "the session that its weights come from"
            if self._is_of_earlier
            else "the beginning of this session"
        )

    def _remember(self, places: Sequence[Place]) -> None:
        """Take the first frames as what this session is labelled on."""
        frames = sorted({place.sample.frame_index or 0 for place in places})
        if len(frames) < _FRAMES:
            return
        rng = np.random.default_rng([self._seed, 5])
        chosen = np.sort(rng.permutation(len(places))[:_KEPT])
        self._reference = Reference.of([places[n] for n in chosen])
        self._last_frame = frames[-1]
        self._reference.write(self._own)
