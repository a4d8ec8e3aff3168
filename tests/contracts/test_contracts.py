"""Each microscope, denoiser, segmenter and policy keeps the contract of its role."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from controller.core.clock import SimulatedClock
from controller.core.protocols import Denoiser, Microscope, Policy, Segmenter
from controller.core.settings import Settings
from controller.microscopes.replay import MovieMicroscope
from controller.plugins import Role, available, find
from controller.testing import (
    CONFOCAL,
    DenoiserContract,
    FakeMicroscope,
    MicroscopeContract,
    PolicyContract,
    SegmenterContract,
    resources,
)
from simulator.sted.microscope import SimulatedMicroscope


def needs_no_file(role: Role, name: str) -> bool:
    """Tell whether a plug-in can be made from its defaults; the tests of the others inherit the contract."""
    return not any(field.is_required() for field in find(role, name).Options.model_fields.values())


def make(role: Role, name: str, seed: int = 0) -> object:
    plugin = find(role, name)
    return plugin.from_options(plugin.Options(), resources(seed))


class TestFakeMicroscope(MicroscopeContract):
    def make(self) -> Microscope:
        return FakeMicroscope(seed=3)


class TestSimulatedMicroscope(MicroscopeContract):
    settings = CONFOCAL.replace(modality="sted", sted_w=0.1)

    def make(self) -> Microscope:
        options = SimulatedMicroscope.Options(fields_yx=(1, 1), field_size_m=2.56e-6)
        return SimulatedMicroscope.from_options(options, resources(3))


class TestMovieMicroscope(MicroscopeContract):
    def make(self) -> Microscope:
        movie = np.random.default_rng(0).poisson(4, (8, 64, 64)).astype(np.uint16)
        options = MovieMicroscope.Options(path="movie.tif", pixel_size_m=20e-9)
        return MovieMicroscope(movie, options, SimulatedClock())


class _EachDenoiser(DenoiserContract):
    name: str

    def make(self) -> Denoiser:
        made = make("denoisers", self.name)
        assert isinstance(made, Denoiser)
        return made


class _EachSegmenter(SegmenterContract):
    name: str

    def make(self) -> Segmenter:
        made = make("segmenters", self.name)
        assert isinstance(made, Segmenter)
        return made


class _EachPolicy(PolicyContract):
    name: str

    def make(self, seed: int = 0) -> Policy:
        made = make("policies", self.name, seed)
        assert isinstance(made, Policy)
        return made


# A contract for each entry point that is installed: a new plug-in is tested without a line here.
# How well each denoiser follows a flash: lag in frames, amplitude. Others have the contract's own limits.
_FLASH = {"raw": (0.1, 0.95), "adaptive_kalman": (0.4, 0.85), "causal_unet": (0.4, 0.88)}
for _name in available("denoisers"):
    _limits = dict(zip(("largest_lag_frames", "smallest_amplitude"), _FLASH.get(_name, ()), strict=False))
    globals()[f"TestDenoiser_{_name}"] = type(
        f"TestDenoiser_{_name}", (_EachDenoiser,), {"name": _name, **_limits}
    )
for _name in filter(partial(needs_no_file, "segmenters"), available("segmenters")):
    globals()[f"TestSegmenter_{_name}"] = type(f"TestSegmenter_{_name}", (_EachSegmenter,), {"name": _name})
for _name in available("policies"):
    globals()[f"TestPolicy_{_name}"] = type(f"TestPolicy_{_name}", (_EachPolicy,), {"name": _name})


ROLES: tuple[Role, ...] = ("microscopes", "denoisers", "segmenters", "policies")


@pytest.mark.parametrize(("role", "name"), [(role, name) for role in ROLES for name in available(role)])
def test_every_plugin_is_made_from_validated_options(role: Role, name: str, tmp_path: Path) -> None:
    plugin = find(role, name)
    assert issubclass(plugin.Options, Settings)
    assert callable(plugin.from_options)
    assert vars(plugin.Options).get("__doc__")


def test_the_first_plugins_are_there() -> None:
    assert set(available("microscopes")) >= {"mmcore", "replay", "simulator", "two_photon"}
    assert set(available("denoisers")) >= {"adaptive_kalman", "causal_unet", "raw"}
    assert set(available("segmenters")) >= {"correlation", "objects", "spots_log", "spots_wavelet"}
    assert available("policies") == ["asking", "events", "fixed", "regions", "thompson"]
