"""The places of a session that could be asked about, with what an encoder says of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controller.core.errors import SessionFolderError
from controller.labelling.places import Place, Run, is_asked_about, places_of
from controller.labels.plan import LabelPlan
from controller.learning.patch_encoder import PatchEncoder, PretrainingOptions, pretrain, untrained
from controller.networks.weights import read_weights, write_weights
from controller.recording.reader import SessionReader

#: An encoder is trained once, when there are so many places to learn from, for so many steps.
PRETRAIN_FROM, PRETRAIN_STEPS = 200, 120
#: Places that an encoder is trained on at most: half a minute of one core.
_PRETRAIN_MAX = 2000


class Pool:
    """Collects places from the frames of a session, newest first, each once.

    Parameters
    ----------
    plan
        What is asked about.
    seed
        Of the encoder.
    kept
        File for the encoder once it has learned, so that who starts again sees the same.
    """

    def __init__(self, plan: LabelPlan, seed: int, kept: Path) -> None:
        self._plan, self._seed, self._kept = plan, seed, kept
        self._places: dict[tuple[int, int], Place] = {}
        self._features: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._seen: set[int] = set()
        self._finest_m = float("inf")
        self.is_pretrained = kept.exists()
        self._encoder = (
            PatchEncoder.from_weights(read_weights(kept))
            if self.is_pretrained
            else untrained(np.random.default_rng(seed))
        )

    def __len__(self) -> int:
        return len(self._places)

    @property
    def places(self) -> list[Place]:
        """Return all places, the oldest first."""
        return list(self._places.values())

    def take_in(self, reader: SessionReader) -> int:
        """Cut what is new of a session into places; return how many are new or newly scanned."""
        plan, added = self._plan, 0
        run = Run(reader.start.run_id, str(reader.start.microscope.get("name") or "unknown"))
        new = [reader.frames[index] for index in sorted(set(reader.frames) - self._seen)]
        finest_m = min([self._finest_m, *(f.settings.pixel_size_m for f in new)])
        if plan.modality is None and finest_m < self._finest_m / 1.01:
            # What was coarser was only the way here.
            self._places.clear()
            self._features.clear()
        self._finest_m = finest_m
        for document in new:
            self._seen.add(document.index)
            if not is_asked_about(document.settings, plan, finest_m):
                continue
            try:
                photons = np.asarray(reader.frame(document.index).photons, np.float32)
            except SessionFolderError:
                continue  # damaged: the report says so, and nobody can be shown it
            for place in places_of(document, photons, plan, run):
                self._places.pop(place.key, None)
                self._places[place.key] = place
                self._features.pop(place.key, None)
                added += 1
        while len(self._places) > plan.candidates_max:
            oldest = next(iter(self._places))
            del self._places[oldest]
            self._features.pop(oldest, None)
        return added

    def pretrain(self) -> bool:
        """Let the encoder learn from the places there are, if it is time; return whether it did."""
        if self.is_pretrained or len(self._places) < PRETRAIN_FROM:
            return False
        crops = np.stack([place.photons for place in self.places[-_PRETRAIN_MAX:]])
        self._encoder = pretrain(
            crops, PRETRAIN_STEPS, np.random.default_rng([self._seed, 1]), PretrainingOptions(batch=64)
        )
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        write_weights(self._encoder.to_weights(), self._kept)
        self._features.clear()
        self.is_pretrained = True
        return True

    def features(self, places: Sequence[Place]) -> NDArray[np.float32]:
        """Return what the encoder says of places, shape ``(n, features)``; computed once for each."""
        missing = [place for place in places if place.key not in self._features]
        if missing:
            found = self._encoder.encode(np.stack([place.photons for place in missing]))
            self._features |= {place.key: row for place, row in zip(missing, found, strict=True)}
        return np.stack([self._features[place.key] for place in places])

    def encode(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the encoder says of other crops, shape ``(n, features)``; of none, nothing."""
        if not len(crops):
            return np.zeros((0, self._encoder.options.features), np.float32)
        return self._encoder.encode(crops)
