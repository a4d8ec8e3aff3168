"""What the newest published model would draw, for a person to correct instead of to draw it all."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Self

import numpy as np

from controller.core.frame import Denoised, Frame
from controller.core.settings import Region, ScanSettings
from controller.labelling.session_images import SessionImages
from controller.labels.records import Request, Sample
from controller.learning.annotations import Annotation, MaskAnnotation
from controller.recording.following import FollowedSession
from controller.segmentation.published import Follower, published_folder
from controller.segmentation.small_unet import SmallUNetSegmenter
from controller.web.desk import Proposal

#: Pixels around a sample that the network sees.
_CONTEXT_PX = 16


class Proposer:
    """Proposes masks for questions that are asked after the session; live ones nobody is led in.

    Parameters
    ----------
    folder
        Of the session.
    images
        Where pixels come from.
    options
        How the session's segmenter uses its weights.
    """

    def __init__(self, folder: Path, images: SessionImages, options: SmallUNetSegmenter.Options) -> None:
        self._images, self._options = images, options.replace(follow_labels=False)
        self._follower = Follower(published_folder(folder))
        self._segmenter: SmallUNetSegmenter | None = None
        self._lock = threading.Lock()  # several people look at once

    @classmethod
    def of_session(cls, folder: Path, images: SessionImages) -> Self:
        """Make one that uses weights as the session's segmenter does, if that is the network."""
        told = FollowedSession(folder).reader().start.experiment.get("segmenter", {})
        options = told.get("options", {}) if told.get("name") == "small_unet" else {}
        return cls(folder, images, SmallUNetSegmenter.Options.model_validate_json(json.dumps(options)))

    def propose(self, request: Request, sample: Sample) -> Proposal | None:
        """Return a mask of what the model finds; ``None`` without a model, or if it finds nothing."""
        if request.is_live or request.kind != "mask":
            return None
        with self._lock:
            if (newer := self._follower.newer()) is not None:
                self._segmenter = SmallUNetSegmenter(self._options, newer.weights)
                self._follower.took(newer.number)
            if self._segmenter is None:
                return None
            drawn = self._drawn(self._segmenter, sample)
            return (
                None if drawn is None else Proposal(model_sha256=self._segmenter.sha256, annotations=(drawn,))
            )

    def _drawn(self, segmenter: SmallUNetSegmenter, sample: Sample) -> Annotation | None:
        image = self._images.image(sample, _CONTEXT_PX)
        rows, columns = image.photons.shape
        size_m = rows * sample.pixel_size_m, columns * sample.pixel_size_m
        scan = ScanSettings(
            modality="overview",
            region=Region(center_yx_m=(0.0, 0.0), size_yx_m=size_m),
            pixel_size_m=sample.pixel_size_m,
            dwell_s=1e-6,
            excitation_w=1e-6,
        )
        frame = Frame(image.photons, scan, 0, 0.0)
        denoised = None
        if image.mean is not None and image.std is not None:
            denoised = Denoised(image.mean, image.std, 0)
        found = segmenter.assess(frame, denoised)
        top, left = image.origin_yx
        part = np.s_[top : top + sample.roi.rows, left : left + sample.roi.columns]
        # Of each pixel of an object the most probable class that is not background.
        classes = 1 + found.classes[1:].argmax(axis=0)
        drawn = np.where(found.segmentation.labels > 0, classes, 0)[part]
        if not drawn.any():
            return None
        names = segmenter.network_options.classes[1:]
        return MaskAnnotation.from_array(drawn, values="classes", value_classes=names)
