"""A sheet of all generated samples with their truth, for the documents.

``python benchmarks/specimen_sheet.py OUT.png [--seed N] [--rare F]`` draws one row a sample: its
molecules, its truth (classes in colour, points as dots), and what a confocal and a STED scan see of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simulator.specimens import GENERATED, Specimen, SpecimenName, SpecimenOptions, make_specimen
from simulator.sted.detector import Detector
from simulator.sted.engine import STEDEngine
from simulator.sted.scanning import Exposure, Seeds

#: Side of each picture in pixels, and of what it shows in map pixels of 20 nm.
SIDE = 224
CROPS: dict[str, int] = {"neurons": 2016}
CROP = 224
MADE = 700

#: Colours that people with any colour vision tell apart (Okabe & Ito), by class; the rare class is the last.
COLOURS = [(0, 0, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0)]
RARE = (213, 94, 0)

Picture = NDArray[np.uint8]


def grey(image: NDArray[np.generic], side: int = SIDE) -> Picture:
    """Return an image as a grey picture; the brightest thousandth is white. 32 levels keep files small."""
    values = np.asarray(image, dtype=np.float64)
    factor = values.shape[0] // side
    values = values.reshape(side, factor, side, factor).mean(axis=(1, 3))
    scaled = np.sqrt(np.clip(values / max(float(np.quantile(values, 0.999)), 1e-9), 0, 1))
    levels = (np.rint(scaled * 31) * (255 / 31)).astype(np.uint8)
    return np.repeat(levels[:, :, None], 3, axis=2)


def truth(specimen: Specimen, side: int = SIDE) -> Picture:
    """Return the classes in colour and the points as white dots."""
    factor = specimen.classes.shape[0] // side
    blocks = specimen.classes.reshape(side, factor, side, factor)
    colours = [*COLOURS[: len(specimen.class_names) - 1], RARE]
    picture: Picture = np.array(colours, np.uint8)[blocks.max(axis=(1, 3))]
    pixels = specimen.points_yx_m / specimen.pixel_size_m / factor + side / 2 - 0.5
    for y, x in np.clip(np.rint(pixels).astype(int), 0, side - 1):
        picture[y, x] = 255
    return picture


def scans(specimen: Specimen, rng: np.random.Generator) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the photons of a confocal and a STED scan of the whole sample, without bleaching between."""
    engine = STEDEngine(detector=Detector(background_hz=2000.0))
    padded = np.pad(specimen.molecules, engine.margin_px)
    coarse = 3 if specimen.name == "neurons" else 1
    frames = []
    for sted_w in (0.0, 0.15):
        seeds = Seeds(*(np.random.SeedSequence(int(rng.integers(2**63))) for _ in range(2)))
        exposure = Exposure(coarse, 20e-6, 10e-6, sted_w)
        frames.append(engine.scan(padded, exposure, seeds).photons)
    return frames[0], frames[1]


def best_part(specimen: Specimen, side: int) -> Specimen:
    """Return the part of a sample in which most different things can be seen."""
    size = specimen.molecules.shape[0] - side
    if size <= 0:
        return specimen

    def score(y: int, x: int) -> tuple[int, int, int]:
        found, counts = np.unique(specimen.classes[y : y + side, x : x + side], return_counts=True)
        return len(found), int(counts.min()), -int(counts.max())

    places = [(y, x) for y in range(0, size + 1, 60) for x in range(0, size + 1, 60)]
    return specimen.crop(max(places, key=lambda place: score(*place)), (side, side))


def row(name: SpecimenName, seed: int, rare: float) -> Picture:
    """Return the four pictures of one sample, side by side."""
    rng = np.random.default_rng([seed, GENERATED.index(name)])
    crop = CROPS.get(name, CROP)
    made = max(MADE, crop)
    specimen = make_specimen(name, (made, made), 5.0, rng, SpecimenOptions(rare_fraction=rare))
    part = best_part(specimen, crop)
    confocal, sted = scans(part, rng)
    gap = np.full((SIDE, 4, 3), 255, np.uint8)
    pictures = [grey(part.molecules), truth(part), grey(confocal), grey(sted)]
    return np.hstack([piece for picture in pictures for piece in (picture, gap)][:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rare", type=float, default=0.2)
    arguments = parser.parse_args()
    bar = 18
    rows = []
    for name in GENERATED:
        pictures = row(name, arguments.seed, arguments.rare)  # type: ignore[arg-type]
        title = Image.new("RGB", (pictures.shape[1], bar), "white")
        extent_m = CROPS.get(name, CROP) * 20e-9
        text = f"{name}, {extent_m * 1e6:.1f} um:  molecules | truth | confocal | STED 150 mW"
        ImageDraw.Draw(title).text((2, 3), text, fill="black")
        rows += [np.asarray(title), pictures]
    sheet = Image.fromarray(np.vstack(rows)).quantize(64, dither=Image.Dither.NONE)
    sheet.save(arguments.out, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
