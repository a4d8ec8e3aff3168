"""Samples as the segmenter sees them, from files that were imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from controller.labelling.session_images import SessionImages
from controller.labelling.snapshots import collect
from controller.labelling.training_images import Scale, labelled_images
from controller.labels.formats import ImportOptions, import_labels
from controller.labels.store import LabelStore
from controller.segmentation.network_options import NetworkOptions
from controller.segmentation.small_unet import SmallUNetSegmenter

NETWORK = NetworkOptions(
    kind="objects", classes=("background", "ring", "fiber"), object_px=8, pixel_size_m=20e-9
)


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return LabelStore.open(tmp_path, create=True)


def test_an_imported_image_is_learned_from_in_photons_less_its_offset(
    store: LabelStore, tmp_path: Path
) -> None:
    photons = np.random.default_rng(0).poisson(3.0, (24, 32))
    files = tmp_path / "files"
    files.mkdir()
    tifffile.imwrite(files / "cell.tif", (2 * photons + 32768).astype(np.uint16))
    (files / "cell.polys.txt").write_text("0 (4, 4), (12, 4), (12, 12), (4, 12)\n")
    options = ImportOptions(classes=("ring", "fiber"), pixel_size_m=20e-9, units_per_photon=2.0)
    import_labels(store, files, "polys", "ada", folder=tmp_path, options=options)
    (sample,) = store.samples()
    image = SessionImages(tmp_path).image(sample, 16)
    np.testing.assert_array_equal(image.photons, photons)
    assert (image.origin_yx, image.mean) == ((0, 0), None)


def test_an_image_that_is_gone_is_a_key_error(store: LabelStore, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cell.tif", np.ones((8, 8), np.uint16))
    (tmp_path / "cell.polys.txt").write_text("0 (1, 1), (5, 1), (5, 5)\n")
    options = ImportOptions(classes=("ring",), pixel_size_m=20e-9)
    import_labels(store, tmp_path, "polys", "ada", folder=tmp_path, options=options)
    (sample,) = store.samples()
    (tmp_path / sample.uri).unlink()
    with pytest.raises(KeyError):
        SessionImages(tmp_path).image(sample, 0)


def test_a_complete_file_without_outlines_makes_every_pixel_background(
    store: LabelStore, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "cell.tif", np.ones((16, 16), np.uint16))
    (tmp_path / "cell.polys.txt").write_text("")
    options = ImportOptions(classes=("ring", "fiber"), pixel_size_m=20e-9, coverage="image")
    import_labels(store, tmp_path, "polys", "ada", folder=tmp_path, options=options)
    material = collect(store, 0.0)
    assert material is not None
    (item,) = material.items
    scale = Scale(NETWORK, SmallUNetSegmenter.Options())
    image = SessionImages(tmp_path).image(item.sample, 0)
    (seen,) = labelled_images(item.sample, image, item.annotations, material.label_schema, scale)
    target = seen.target(NETWORK)
    assert (target.classes == 0).all()
    assert (target.weights > 0.5).all()
