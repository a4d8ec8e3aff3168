"""Whether the STED engine has the law of pySTED: many seeds of both, and the law in closed form.

``python benchmarks/sted_equality.py [--seeds N] [--ours N]`` prints two tables (about ten minutes at
200 seeds). The first holds the probabilities of :class:`simulator.sted.equality.Equality`: under the same
law each is uniform between 0 and 1. The second compares both engines with the closed form: by how many
standard errors the mean number of survivors is off (z), and the root mean square of the same for the
photons of each pixel and the survivors of each map pixel, which is 1 under that law.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace

import numpy as np

from simulator.specimens import SpecimenName, make_specimen
from simulator.sted.engine import STEDEngine
from simulator.sted.equality import compare
from simulator.sted.oracle import Law, law_of_scan
from simulator.sted.pysted_reference import PystedEngine
from simulator.sted.scanning import AdaptiveExposure, Exposure, Molecules, PixelExposure, Scanned, Seeds, Step

AnyExposure = Exposure | PixelExposure | AdaptiveExposure

STED = Exposure(1, 10e-6, 10e-6, 150e-3)
DYMIN = AdaptiveExposure(
    1,
    (
        Step(10e-6, 10e-6, 0.0, fewest_photons=8),
        Step(10e-6, 10e-6, 37.5e-3, fewest_photons=8),
        Step(30e-6, 10e-6, 150e-3),
    ),
    dark_is_zero=True,
)
RESCUE = AdaptiveExposure(
    1,
    (Step(10e-6, 10e-6, 150e-3, fewest_photons=2, enough_photons=8), Step(30e-6, 10e-6, 150e-3)),
    sums=True,
    dark_is_zero=True,
    scaled_to_s=30e-6,
)
COLLECTED = 0.05 * 0.5


def pixel_exposure(side: int) -> PixelExposure:
    rng = np.random.default_rng(1)
    return PixelExposure(
        1,
        rng.choice([5e-6, 10e-6, 20e-6], (side, side)),
        rng.choice([5e-6, 10e-6], (side, side)),
        rng.choice(np.linspace(0.01, 0.2, 16), (side, side)),
    )


def seeds(engine: int, number: int) -> Seeds:
    """Return seeds of a scan; the two engines never share one."""
    return Seeds(
        np.random.SeedSequence([77, engine, number, 1]), np.random.SeedSequence([77, engine, number, 2])
    )


def cut(scanned: Scanned, edge: int) -> Scanned:
    """Return a scan of the reference on the grid of the engine, whose margin is narrower."""
    return replace(scanned, survivors=scanned.survivors[edge:-edge, edge:-edge])


def against_law(scans: list[Scanned], molecules: Molecules, law: Law, dwell_s: float) -> str:
    photons = np.array([scanned.photons for scanned in scans], dtype=np.float64)
    survivors = np.array([scanned.survivors for scanned in scans], dtype=np.float64)
    count = len(scans)
    mean = law.photons_hz * COLLECTED * dwell_s
    variance = mean + law.variance_hz2 * (COLLECTED * dwell_s) ** 2
    bright = mean > 0.2
    pixel_z = (photons.mean(axis=0) - mean)[bright] / np.sqrt(variance[bright] / count)
    expected, spread = molecules * law.survival, molecules * law.survival * (1 - law.survival)
    many = spread > 0.2
    place_z = (survivors.mean(axis=0) - expected)[many] / np.sqrt(spread[many] / count)
    total_z = (survivors.sum(axis=(1, 2)).mean() - expected.sum()) / np.sqrt(spread.sum() / count)
    rms = [float(np.sqrt(np.mean(z**2))) for z in (pixel_z, place_z)]
    return f"{expected.sum():.1f} | {total_z:+.2f} | {rms[0]:.3f} | {rms[1]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=200, help="scans of pySTED for each row")
    parser.add_argument("--ours", type=int, default=400, help="scans of the engine for each row")
    parser.add_argument("--permutations", type=int, default=1999)
    arguments = parser.parse_args()
    engine, reference = STEDEngine.like_pysted(), PystedEngine()
    edge = reference.margin_px - engine.margin_px
    rows: list[tuple[SpecimenName, str, int, AnyExposure]] = [
        *((name, "even", 64, STED) for name in ("synapses", "factin", "psd95", "tubulin")),
        *((name, "by pixel", 48, pixel_exposure(48)) for name in ("synapses", "tubulin")),
        *((name, "DyMIN", 48, DYMIN) for name in ("synapses", "tubulin")),
        *((name, "RESCue", 48, RESCUE) for name in ("synapses", "tubulin")),
    ]
    laws: list[str] = []
    probabilities: list[float] = []
    titles = ["means", "variances", "histogram", "bright", "photons", "survivors by place", "survivors"]
    print(
        f"pySTED {arguments.seeds} scans, ours {arguments.ours}\n\n| map | light | "
        + " | ".join(titles)
        + " |"
    )
    print("|---|---" + "|---" * len(titles) + "|")
    for name, kind, side, exposure in rows:
        wide = make_specimen(
            name, (side + 2 * reference.margin_px,) * 2, 40.0, np.random.default_rng(5)
        ).molecules
        inside = np.ascontiguousarray(wide[edge:-edge, edge:-edge])
        theirs = [cut(reference.scan(wide, exposure, seeds(1, n)), edge) for n in range(arguments.seeds)]
        ours = [engine.scan(inside, exposure, seeds(2, n)) for n in range(arguments.ours)]
        found = asdict(compare(ours, theirs, np.random.default_rng(2), arguments.permutations))
        probabilities += found.values()
        print(
            f"| {name} {side} | {kind} | " + " | ".join(f"{p:.3f}" for p in found.values()) + " |", flush=True
        )
        if isinstance(exposure, Exposure):
            light = engine.light(exposure.excitation_w, exposure.sted_w)
            law = law_of_scan(inside, (light, exposure.dwell_s), within_dwell=False)
            for who, scans in (("pySTED", theirs), ("ours", ours)):
                laws.append(
                    f"| {name} {side} | {who} | {against_law(scans, inside, law, exposure.dwell_s)} |"
                )
    smallest = min(probabilities)
    chance = 1 - (1 - smallest) ** len(probabilities)
    print(f"\nsmallest of {len(probabilities)}: {smallest:.4f}; one as small by chance: {chance:.2f}\n")
    print("| map | engine | survivors expected | z of all | rms z, pixels | rms z, survivors by place |")
    print("|---|---|---|---|---|---|")
    print("\n".join(laws))


if __name__ == "__main__":
    main()
