"""``stedfast denoise`` and ``stedfast train denoiser``, and the movies that they read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from controller.cli import app
from controller.config import load
from controller.core.errors import ConfigurationError
from controller.core.frame import Frame
from controller.denoising.causal_unet import CausalUNetDenoiser
from controller.networks.weights import read_weights
from controller.training.denoised_movie import scan_of
from controller.training.movie_files import MovieFile
from tests.denoising.test_adaptive_kalman import calcium_movie
from tests.support import FAKE_HARDWARE

MOVIE = np.random.default_rng(0).poisson(calcium_movie(1, frames=24, size=48)).astype(np.uint16)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.fixture
def movie(tmp_path: Path) -> Path:
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, MOVIE)
    return path


def test_a_movie_is_denoised_as_a_session_would_see_it(movie: Path, tmp_path: Path) -> None:
    mean, std = tmp_path / "mean.ome.tif", tmp_path / "std.ome.tif"
    code, text = run("denoise", movie, mean, "--std", std, "--pixel-size", 50e-9)
    assert code == 0, text
    assert "1 detector units for a photon" in text
    denoiser = CausalUNetDenoiser(CausalUNetDenoiser.Options(learn=False))
    scan = scan_of((48, 48), 50e-9)
    answers = [denoiser.step(Frame(image, scan, index, 0.0)) for index, image in enumerate(MOVIE)]
    assert (tifffile.imread(mean) == np.stack([answer.mean for answer in answers])).all()
    assert (tifffile.imread(std) == np.stack([answer.std for answer in answers])).all()
    with tifffile.TiffFile(mean) as file:
        assert file.series[0].axes == "TYX"
        assert file.ome_metadata is not None
        assert 'PhysicalSizeX="0.05' in file.ome_metadata
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mean.ome.tif", "movie.tif", "std.ome.tif"]


def test_the_filter_without_training_needs_no_weights(movie: Path, tmp_path: Path) -> None:
    code, text = run("denoise", movie, tmp_path / "out.tif", "--denoiser", "adaptive_kalman", "--json")
    assert code == 0, text
    told = json.loads(text)
    assert (told["status"], told["frames"]) == ("ok", 24)
    assert tifffile.imread(tmp_path / "out.tif").shape == MOVIE.shape


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--units-per-photon", "0"), "must be more than 0"),
        (("--denoiser", "magic"), "'magic' is none of causal_unet, adaptive_kalman"),
        (("--denoiser", "adaptive_kalman", "--weights", "x.safetensors"), "adaptive_kalman has none"),
        (("--weights", "x.safetensors"), "--weights: "),
        (("--std", "std.png"), "std.png: the result is an OME-TIFF"),
    ],
)
def test_what_cannot_be_done_is_said_with_exit_code_2(
    movie: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    code, text = run("denoise", movie, tmp_path / "out.tif", *arguments)
    assert (code, says in text) == (2, True), text
    assert not (tmp_path / "out.tif").exists()


def test_nothing_is_overwritten(movie: Path, tmp_path: Path) -> None:
    before = movie.read_bytes()
    code, text = run("denoise", movie, movie)
    assert (code, "exists already" in text) == (2, True)
    assert movie.read_bytes() == before


def test_a_bad_frame_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    broken = MOVIE.astype(np.float32)
    broken[7, 3, 3] = np.nan
    tifffile.imwrite(tmp_path / "broken.tif", broken)
    code, text = run(
        "denoise", tmp_path / "broken.tif", tmp_path / "out.tif", "--denoiser", "adaptive_kalman"
    )
    assert code == 2
    assert "frame 7" in text
    assert [path.name for path in tmp_path.iterdir()] == ["broken.tif"]


def test_movies_are_read_however_they_were_written(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "plain.tif", MOVIE)
    tifffile.imwrite(tmp_path / "imagej.tif", MOVIE, imagej=True)
    tifffile.imwrite(tmp_path / "zlib.tif", MOVIE, compression="zlib", photometric="minisblack")
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for image in MOVIE:
            file.write(image, contiguous=False, metadata=None)
    for path in tmp_path.iterdir():
        with MovieFile(path) as opened:
            assert opened.shape == MOVIE.shape
            piece = opened.piece(slice(3, 9), slice(4, 20), slice(0, 7))
            assert (piece == MOVIE[3:9, 4:20, :7]).all(), path


def all_frames(path: Path) -> int:
    with MovieFile(path) as opened:
        return sum(opened.frame(number).size for number in range(len(opened)))


@pytest.mark.parametrize("kind", ["plain", "zlib", "pages"])
def test_a_movie_that_was_cut_off_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "movie.tif"
    with tifffile.TiffWriter(path) as file:
        if kind == "pages":
            for image in MOVIE:
                file.write(image, contiguous=False, metadata=None)
        else:
            file.write(MOVIE, compression=None if kind == "plain" else "zlib", photometric="minisblack")
    whole = path.read_bytes()
    for part in (0.3, 0.7, 0.97):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(ConfigurationError, match=r"movie\.tif: .*(missing|cut off|corrupted)"):
            all_frames(path)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([np.zeros((8, 9), np.uint16), np.zeros((8, 8), np.uint16)], "frame 1 has shape"),
        ([np.zeros((8, 9, 3), np.uint8)], "a movie of shape"),
        ([np.zeros((8, 9), np.complex64)], "frame 0 must be a picture"),
    ],
)
def test_what_is_no_movie_is_refused(tmp_path: Path, images: list[np.ndarray], says: str) -> None:
    with tifffile.TiffWriter(tmp_path / "odd.tif") as file:
        for image in images:
            file.write(image, contiguous=False, metadata=None)
    with pytest.raises(ConfigurationError, match=says):
        MovieFile(tmp_path / "odd.tif")


def test_training_tells_whether_it_was_worth_it(movie: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.safetensors"
    code, text = run("train", "denoiser", movie, "-o", output, "--steps", 5, "--seed", 3)
    assert code == 0, text
    assert "photons were counted one by one" in text
    assert "better than the weights it began with" in text
    assert "better than adaptive_kalman" in text
    weights = read_weights(output)
    assert weights.card.trained_on[-1] == "movie.tif, 24 frames of 48 x 48 pixels"
    gains = weights.card.metrics
    assert gains["held_out_gain_before_db"] > 3
    with Image.open(tmp_path / "mine.png") as picture:
        assert picture.size == (3 * 288 + 2 * 8, 288)
    code, text = run("train", "denoiser", movie, "-o", output)
    assert (code, "exists already" in text) == (2, True)
    again = tmp_path / "again.safetensors"
    code, text = run("train", "denoiser", movie, "-o", again, "--steps", 5, "--seed", 3, "--json")
    assert (code, again.read_bytes() == output.read_bytes()) == (0, True)
    told = json.loads(text)
    assert told["held_out_gain_db"]["before"] == gains["held_out_gain_before_db"]
    code, text = run("denoise", movie, tmp_path / "out.tif", "--weights", output)
    assert code == 0, text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-o", "weights.bin"), "weights are a .safetensors file"),
        (("--parent", "none.safetensors"), "--parent: "),
        (("-o", "nowhere/x.safetensors"), "there is no folder"),
    ],
)
def test_a_training_that_cannot_be_is_refused_before_it_begins(
    movie: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = run("train", "denoiser", movie, *arguments)
    assert (code, says in text) == (2, True), text


def test_frames_too_few_or_small_to_learn_from_are_refused(tmp_path: Path) -> None:
    for name, image, says in (("one.tif", MOVIE[:1], "too short"), ("small.tif", MOVIE[:, :4], "are needed")):
        tifffile.imwrite(tmp_path / name, image, photometric="minisblack")
        code, text = run("train", "denoiser", tmp_path / name, "-o", tmp_path / "x.safetensors", "--steps", 1)
        assert (code, says in text) == (2, True), text


def test_without_torch_the_extra_to_install_is_named(
    movie: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("controller.denoising.caus")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "hardware.toml").write_text(FAKE_HARDWARE.format(frame_s=0.001, clock="simulated"))
    (tmp_path / "experiment.toml").write_text(
        'schema = "stedfast-experiment/1"\nname = "x"\nhardware = "hardware.toml"\n'
        '[policy]\nname = "fixed"\n[denoiser]\nname = "controller.denoising.causal_unet:CausalUNetDenoiser"\n'
        '[segmenter]\nname = "spots_log"\n'
    )
    with pytest.raises(ConfigurationError, match=r"torch.*pip install 'stedfast\[learn\]'"):
        load(tmp_path)
