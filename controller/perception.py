"""What a session makes of its frames: denoised and segmented, at the level that its time allows.

Two denoisers may be at work. One answers; from level 1 on the other takes every frame in as well, so
that it is warm when its turn comes. One that has missed frames forgets the past before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from controller.answers import checked_denoised, checked_segmentation
from controller.core.clock import timed
from controller.core.decision import Cycle
from controller.core.frame import LEVELS, Denoised, Frame, Segmentation
from controller.core.protocols import Clock, Coarsens, Denoiser, Segmenter, Watches
from controller.ladder import COARSE, FALLBACK, FULL, SPARSE, Ladder, RealTime
from controller.stages import Ran, Stage

# A whole image has four times the pixels of one at half the resolution: it takes no longer than this.
_WHOLE_TO_COARSE = 4.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Perceived:
    """What was made of a frame, and what went wrong.

    ``segmentation_of`` is the earlier frame that ``segmentation`` was kept from, ``None`` if it is new.
    ``level`` is the one that the session goes on at.
    """

    denoised: Denoised | None
    segmentation: Segmentation | None
    segmentation_of: Frame | None
    level: int
    faults: tuple[str, ...]


class Perception:
    """Denoises and segments the frames of one session.

    Times are taken on the session's clock, so that a simulated session never steps down.
    """

    def __init__(
        self, denoiser: Stage[Denoiser], segmenter: Stage[Segmenter], clock: Clock, real_time: RealTime
    ) -> None:
        self._denoiser, self._segmenter, self._clock = denoiser, segmenter, clock
        # Without a budget no level is chosen for want of time, so none of them has to save it.
        self._every = 1 if real_time.budget_s is None else real_time.segment_every
        self._can_coarsen = isinstance(denoiser.plugin, Coarsens)  # asked once: it takes its time
        self.ladder = Ladder(real_time.budget_s, self._levels())
        self.kept: tuple[Segmentation, Frame] | None = None
        self._frames_since = 0  # that was segmented
        self._segment_s = 0.0
        self._behind: set[int] = set()  # denoisers that have missed a frame, by identity
        self._resting: set[int] = set()  # those that fail even at taking frames in

    def observe(self, frame: Frame) -> list[str]:
        """Show a frame that nobody waits for; return what went wrong."""
        level = self.ladder.level
        ran, waiting = self._ask(level, lambda denoiser: denoiser.observe(frame))
        faults = [*ran.faults, *self._keep_warm(waiting, level, frame)]
        if isinstance(self._segmenter.plugin, Watches):
            shown = self._segmenter.run(lambda s: s.observe(frame) if isinstance(s, Watches) else None)
            faults += shown.faults
        return faults

    def perceive(
        self, frame: Frame, timings: dict[str, float], recorded: tuple[int, int] | None = None
    ) -> Perceived:
        """Denoise and segment a frame.

        Parameters
        ----------
        timings
            Receives the wall time of each step, in seconds.
        recorded
            The level that it was worked on at and the one after it, of a record that is followed.
        """
        level = self.ladder.level if recorded is None else recorded[0]
        start_s = self._clock.now_s()
        with timed(timings, "denoise"):
            clean, waiting = self._ask(level, lambda d: checked_denoised(self._step(d, frame, level), frame))
        denoised = clean.answer
        if denoised is not None:
            worked_at = FALLBACK if clean.by_fallback else level
            denoised = replace(denoised, level=worked_at, latency_s=timings["denoise"])
        denoise_s = self._clock.now_s() - start_s
        segmentation, kept_from, faults = self._segment(frame, denoised, level, timings)
        if kept_from is None:
            self._segment_s = self._clock.now_s() - start_s - denoise_s
        faults = clean.faults + faults
        if recorded is None:
            faults += self._go_on(clean, level, denoise_s)
        faults += self._keep_warm(waiting, level, frame)
        if recorded is not None:
            self.ladder.follow(recorded[1])
        return Perceived(denoised, segmentation, kept_from, self.ladder.level, faults)

    def remember(self, cycle: Cycle) -> None:
        """Take a finished cycle into account, a new one or one of an earlier part of the session."""
        self.ladder.follow(cycle.level)
        if cycle.frame is None:
            return
        if cycle.segmentation is None:
            self.kept = None
        elif cycle.segmentation_of is None:
            self.kept, self._frames_since = (cycle.segmentation, cycle.frame), 0
        else:
            self._frames_since += 1

    def _step(self, denoiser: Denoiser, frame: Frame, level: int) -> Denoised:
        is_declared = denoiser is self._denoiser.plugin and not self._denoiser.is_replaced
        if level == COARSE and is_declared and isinstance(denoiser, Coarsens):
            return denoiser.step_coarse(frame)
        return denoiser.step(frame)

    def _segment(
        self, frame: Frame, denoised: Denoised | None, level: int, timings: dict[str, float]
    ) -> tuple[Segmentation | None, Frame | None, tuple[str, ...]]:
        """Segment a frame, or keep the last segmentation; return the frame that it was kept from."""
        if self.kept is not None and not self._is_due(frame, level):
            return *self.kept, ()
        with timed(timings, "segment"):
            ran = self._segmenter.run(lambda s: checked_segmentation(s.step(frame, denoised), frame))
        return ran.answer, None, ran.faults

    def _is_due(self, frame: Frame, level: int) -> bool:
        """Tell whether a frame is segmented; always, if the last one showed something else."""
        if level == FULL or self.kept is None or self._frames_since + 1 >= self._every:
            return True
        ours, theirs = frame.settings, self.kept[1].settings
        return (ours.scanned_region, ours.pixel_size_m, ours.modality) != (
            theirs.scanned_region,
            theirs.pixel_size_m,
            theirs.modality,
        )

    def _ask(self, level: int, call: Callable[[Denoiser], T]) -> tuple[Ran[T], Denoiser | None]:
        """Ask the denoiser of a level, or its fallback; return who has not seen the frame then, if any."""
        stage = self._denoiser
        declared, spare = stage.plugin, None if stage.fallback is None else stage.fallback[1]

        def ready(denoiser: Denoiser) -> T:
            self._catch_up(denoiser)
            return call(denoiser)

        if level == FALLBACK and spare is not None:
            ran = stage.ask_fallback(ready)
            return ran, declared
        ran = stage.run(ready)
        return ran, None if ran.by_fallback else spare

    def _keep_warm(self, waiting: Denoiser | None, level: int, frame: Frame) -> tuple[str, ...]:
        """Let the denoiser that waits take a frame in; at level 0 it only falls behind."""
        stage = self._denoiser
        if waiting is None or stage.is_replaced:
            return ()
        if level == FULL or id(waiting) in self._resting:
            self._behind.add(id(waiting))
            return ()

        def take_in(denoiser: Denoiser) -> None:
            self._catch_up(denoiser)
            denoiser.observe(frame)

        ran = stage.ask(take_in) if waiting is stage.plugin else stage.ask_fallback(take_in)
        if ran.faults:
            # Once is enough to know; it is tried again when the level changes.
            self._behind.add(id(waiting))
            self._resting.add(id(waiting))
        return ran.faults

    def _catch_up(self, denoiser: Denoiser) -> None:
        """Let a denoiser that has missed frames forget those before: its past is not the frame's past."""
        if id(denoiser) in self._behind:
            denoiser.reset("it has missed frames")
            self._behind.discard(id(denoiser))

    def _go_on(self, clean: Ran[Denoised | None], level: int, denoise_s: float) -> tuple[str, ...]:
        """Choose the level of the next frame, and say so if it is not the time that chose it."""
        ladder = self.ladder
        ladder.allow(self._levels())
        if clean.is_exhausted and level != FALLBACK:
            ladder.fall(COARSE)
        has_failed = ladder.level != level
        if not has_failed:
            # Each frame bears its share of a segmentation that serves several.
            share = 1 if level == FULL else self._every
            whole_s = denoise_s * (_WHOLE_TO_COARSE if level == COARSE else 1.0)
            ladder.count(denoise_s + self._segment_s / share, whole_s + self._segment_s)
        if ladder.level != level:
            self._resting.clear()
        if not has_failed:
            return ()
        return (f"the session goes on at level {ladder.level}: {LEVELS[ladder.level]}",)

    def _levels(self) -> list[int]:
        stage = self._denoiser
        if stage.is_replaced:
            return [FALLBACK]
        coarse = [COARSE] if self._can_coarsen else []
        return [FULL, SPARSE, *coarse, *([FALLBACK] if stage.fallback is not None else [])]
