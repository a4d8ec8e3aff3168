"""Events in a field of neurons, and how well scans show them: what a simulator knows.

An event is a burst of spikes of one neuron whose cell body lies in the field, after a silence. A scan
shows it by the photons that its cell body gives above those at the onset, against the shot noise of all
photons from there: ``d² = signal² / (photons · excess noise)``. Scans of one event add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from controller.core.frame import Frame
from controller.core.settings import NonNegative, Positive, Region, ScanSettings, Settings
from simulator.environments.brain_samples import BrainTruth
from simulator.two_photon.focal_plane import MAP_PIXEL_M

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

#: A body counts if so much of it is cut by the focus, and so large a part of that lies in the field.
_BODY_MIN_M2 = 40e-12
_INSIDE_MIN = 0.7
#: Spikes of an event are counted so long after its onset.
_COUNTED_S = 0.2


class EventOptions(Settings):
    """What an event is, and when it counts as seen."""

    spikes_min: Annotated[int, Field(ge=1)] = 3
    """Spikes within the first 0.2 s of it."""
    silence_s: Positive = 0.5
    """Time without any spike before it."""
    window_s: Positive = 0.4
    """Scans that begin later after the onset do not count."""
    snr_seen: NonNegative = 5.0
    """Signal to noise ratio, of all scans in the window together, from which it counts as seen."""
    snr_full: Positive = 30.0
    """That of a quality of 1; below, it is proportional."""


@dataclass(frozen=True, slots=True, eq=False)
class Bodies:
    """Cell bodies in a field. ``n`` of them, ``m`` map pixels together.

    Attributes
    ----------
    neurons
        Their numbers, ``(n,)``.
    center_yx_m
        Their middles, ``(n, 2)``.
    pixels_yx_m, body
        The map pixels of all of them, ``(m, 2)``, and whose each is, ``(m,)``.
    own, other
        Filled part of the spot, summed over the map pixels of a body, ``(n,)``: what it gives itself at
        rest, and what is seen with it.
    """

    neurons: Indices
    center_yx_m: Floats
    pixels_yx_m: Floats
    body: Indices
    own: Floats
    other: Floats

    @classmethod
    def in_field(cls, truth: BrainTruth, depth_m: float, field: Region) -> Bodies:
        """Find the cell bodies that a plane shows in a field."""
        plane = truth.microscope.brain.plane(depth_m)
        shape = np.array(plane.labels.shape)
        y, x = np.nonzero(plane.labels)
        place = (np.stack([y, x], axis=1) + 0.5 - shape / 2) * MAP_PIXEL_M
        label, body, area = np.unique(plane.labels[y, x], return_inverse=True, return_counts=True)
        y0, x0, y1, x1 = field.bounds_yx_m
        inside = (place >= (y0, x0)).all(axis=1) & (place <= (y1, x1)).all(axis=1)
        seen = np.bincount(body, inside, len(label))
        kept = (area * MAP_PIXEL_M**2 >= _BODY_MIN_M2) & (seen >= _INSIDE_MIN * area)
        new = np.cumsum(kept) - 1
        is_kept = kept[body] & inside
        place, body = place[is_kept], new[body[is_kept]]
        count = int(kept.sum())
        of_pixel = np.full(plane.labels.size, -1, np.intp)
        of_pixel[(y * shape[1] + x)[is_kept]] = body
        neurons = label[kept].astype(np.intp) - 1
        whose = of_pixel[plane.pixels]
        known = whose >= 0
        mine = neurons[whose[known]] == plane.neurons[known]
        parts = [
            np.bincount(whose[known][chosen], plane.values[known][chosen], count) for chosen in (mine, ~mine)
        ]
        ground = plane.neuropil.ravel()[np.flatnonzero(of_pixel >= 0)]
        around = np.bincount(of_pixel[of_pixel >= 0], ground, count)
        size = np.maximum(1, np.bincount(body, minlength=count))[:, None]
        center = np.stack([np.bincount(body, place[:, axis], count) for axis in (0, 1)], axis=1) / size
        return cls(
            neurons=neurons,
            center_yx_m=np.asarray(center, np.float64),
            pixels_yx_m=place,
            body=body.astype(np.intp),
            own=np.asarray(parts[0], np.float64),
            other=np.asarray(parts[1] + around, np.float64),
        )

    def covered(self, region: Region) -> Floats:
        """Return which part of each body lies in a region, 0..1."""
        y0, x0, y1, x1 = region.bounds_yx_m
        place, count = self.pixels_yx_m, len(self.neurons)
        inside = (place >= (y0, x0)).all(axis=1) & (place <= (y1, x1)).all(axis=1)
        return np.bincount(self.body, inside, count) / np.maximum(1, np.bincount(self.body, minlength=count))


@dataclass(frozen=True, slots=True, eq=False)
class Photons:
    """Photons to expect of some bodies in a scan, each of shape ``(n,)``.

    Attributes
    ----------
    times_s, dff
        When their middles are scanned, and ΔF/F then.
    at_rest
        Of their own dye, if they did not fire.
    all_of_it
        With their activity, what is seen through and beside them, and background.
    """

    times_s: Floats
    dff: Floats
    at_rest: Floats
    all_of_it: Floats


class Events:
    """The events of an episode, and what was seen of each.

    Parameters
    ----------
    truth, depth_m, field
        What is watched.
    start_s, end_s
        On the session's clock. Events count if their whole window lies between.
    options
        See :class:`EventOptions`.

    Attributes
    ----------
    onset_s, body
        When each event began, sorted, and which of ``bodies`` it is, ``(events,)``.
    snr_squared
        Of all scans in its window together, ``(events,)``.
    seen_s
        When it was seen first; ``nan``: not yet.
    """

    def __init__(
        self,
        truth: BrainTruth,
        depth_m: float,
        field: Region,
        options: EventOptions,
        *,
        start_s: float,
        end_s: float,
    ) -> None:
        self._truth, self._depth_m, self._options = truth, depth_m, options
        self.bodies = Bodies.in_field(truth, depth_m, field)
        self.onset_s, self.body = self._found(start_s, end_s - options.window_s)
        self._before = self._dff(self.body, self.onset_s)
        self.snr_squared = np.zeros(len(self.onset_s))
        self.seen_s = np.full(len(self.onset_s), np.nan)

    def __len__(self) -> int:
        return len(self.onset_s)

    def are_on(self, now_s: float) -> NDArray[np.bool_]:
        """Tell which events scans could add to now."""
        age_s = now_s - self.onset_s
        return np.asarray((age_s >= 0) & (age_s <= self._options.window_s))

    def quality(self) -> Floats:
        """Return how well each event was seen so far: 0 below ``snr_seen``, at most 1."""
        snr = np.sqrt(self.snr_squared)
        return np.where(snr >= self._options.snr_seen, np.minimum(1, snr / self._options.snr_full), 0.0)

    def look(self, frame: Frame) -> bool:
        """Add what a scan shows of the events that are on; tell whether there was any in its region."""
        settings = frame.settings
        covered = self.bodies.covered(settings.scanned_region)[self.body]
        on = np.flatnonzero(self.are_on(frame.started_s) & (covered > 0))
        if not len(on):
            return False
        seen = self.photons(settings, frame.started_s, self.body[on])
        signal = covered[on] * seen.at_rest * np.maximum(0, seen.dff - self._before[on])
        detector = self._truth.detector
        noise = covered[on] * seen.all_of_it * detector.variance_per_photon / detector.units_per_photon**2
        self.snr_squared[on] += signal**2 / np.maximum(noise, 1e-12)
        is_new = np.isnan(self.seen_s[on]) & (self.snr_squared[on] >= self._options.snr_seen**2)
        self.seen_s[on[is_new]] = seen.times_s[is_new]
        return True

    def photons(self, settings: ScanSettings, started_s: float, body: Indices) -> Photons:
        """Return what a scan is to count in some bodies, were it to cover all of them."""
        microscope, optics = self._truth.microscope, self._truth.optics
        top_m = settings.scanned_region.bounds_yx_m[0]
        line = ((self.bodies.center_yx_m[body, 0] - top_m) / settings.pixel_size_m).astype(np.intp)
        times_s = microscope.timing(settings).middles_s(started_s, line)
        dff = self._dff(body, times_s)
        # A scan has one pixel for so many map pixels.
        time_s = (MAP_PIXEL_M / settings.pixel_size_m) ** 2 * settings.pixel_time_s
        bright = time_s * optics.photon_rate_hz(settings.excitation_w, self._depth_m)
        at_rest = (
            bright * self.bodies.own[body] * microscope.brain.bleaching.neurons[self.bodies.neurons[body]]
        )
        size = np.bincount(self.bodies.body, minlength=len(self.bodies.neurons))[body]
        dark = time_s * self._truth.detector.background_hz * size
        return Photons(times_s, dff, at_rest, at_rest * (1 + dff) + bright * self.bodies.other[body] + dark)

    def _dff(self, body: Indices, times_s: Floats) -> Floats:
        """Return ΔF/F of each of some bodies at a time of its own."""
        if not len(body):
            return np.zeros(0)
        order = np.argsort(times_s, kind="stable")
        who, which = np.unique(body, return_inverse=True)
        table = self._truth.microscope.brain.activity.dff(self.bodies.neurons[who], times_s[order])
        dff = np.empty(len(body))
        dff[order] = table[which[order], np.arange(len(body))]
        return dff

    def _found(self, start_s: float, last_s: float) -> tuple[Floats, Indices]:
        options = self._options
        spikes = self._truth.microscope.brain.activity.spikes(
            start_s - options.silence_s, last_s + _COUNTED_S
        )
        onsets, bodies = [np.zeros(0)], [np.zeros(0, np.intp)]
        for body, neuron in enumerate(self.bodies.neurons):
            times_s = spikes.times_s[spikes.neurons == neuron]
            first = times_s[np.diff(times_s, prepend=-np.inf) > options.silence_s]
            count = np.searchsorted(times_s, first + _COUNTED_S) - np.searchsorted(times_s, first)
            first = first[(first >= start_s) & (first <= last_s) & (count >= options.spikes_min)]
            onsets.append(first)
            bodies.append(np.full(len(first), body))
        onset_s, whose = np.concatenate(onsets), np.concatenate(bodies)
        order = np.argsort(onset_s, kind="stable")
        return onset_s[order], whose[order]
