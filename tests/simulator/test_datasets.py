from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError
from typer.testing import CliRunner

from controller.cli import app
from controller.recording.dataset import Manifest, item_problem, split_of
from simulator.datasets import STEDDataset
from simulator.two_photon.datasets import TwoPhotonDataset

Options = STEDDataset.Options
SMALL = Options(specimens=("synapses", "beads"), size_px=24)


@pytest.fixture(scope="module")
def maker() -> STEDDataset:
    return STEDDataset(SMALL, seed=3)


def simulate(*words: str | Path, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["simulate", *map(str, words), "--workers", "1", "--json"])
    assert result.exit_code == code, result.output
    return dict(json.loads(result.stdout))


def checksums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def stored(item: Path, path: str) -> NDArray[Any]:
    array = zarr.open_group(item / "images.ome.zarr", mode="r")[f"{path}/0"]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[...])


def test_an_item_depends_on_its_number_alone(maker: STEDDataset) -> None:
    first = maker.item(5)
    maker.item(2)
    for again in (maker.item(5), STEDDataset(SMALL, seed=3).item(5)):
        for name, image in first.images.items():
            assert np.array_equal(image, again.images[name])
    assert not np.array_equal(first.images["photons"], STEDDataset(SMALL, seed=4).item(5).images["photons"])
    assert not np.array_equal(first.images["photons"], maker.item(7).images["photons"])


def test_photons_are_counts_of_what_is_expected() -> None:
    maker = STEDDataset(Options(specimens=("microtubules",), size_px=64, bleaching=0.5), seed=1)
    items = [maker.item(index) for index in range(6)]
    photons = np.stack([item.images["photons"] for item in items]).astype(float)
    expected = np.stack([item.images["expected"] for item in items])
    # Poisson: the residual in units of its own standard deviation has mean 0 and variance 1.
    residual = (photons - expected) / np.sqrt(expected)
    assert residual.mean() == pytest.approx(0, abs=5 / np.sqrt(residual.size))
    assert residual.var() == pytest.approx(1, abs=0.1)
    assert expected.std() > 1


def test_truth_lies_where_the_light_comes_from() -> None:
    options = Options(specimens=("beads",), size_px=48, pixel_size_m=40e-9, bleaching=0.0, sted_w=0.0)
    item = STEDDataset(options, seed=2).item(0)
    assert item.settings.modality == "confocal"
    structures, expected = item.labels["structures"], item.images["expected"]
    assert structures.shape == expected.shape == (48, 48)
    assert expected[structures > 0].mean() > 2 * expected[structures == 0].mean()
    points = item.tables["points"]
    assert len(points["y_m"]) > 0
    pixels = np.floor(np.stack([points["y_m"], points["x_m"]]) / 40e-9 + 24).astype(int)
    assert np.all(structures[tuple(pixels)] > 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size_px": 4}, "greater than or equal to 8"),
        ({"size_px": 4096, "pixel_size_m": 100e-9}, "allowed are 67108864"),
        ({"pixel_size_m": 30e-9}, "not a multiple"),
        ({"excitation_w": 10.0}, "microwatts are e-6"),
        ({"dwell_s": 0.0}, "greater than 0"),
        ({"specimens": ()}, "at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SMALL.replace(**changes)


def test_a_data_set_is_valid_ome_zarr_with_truth_and_checksums(tmp_path: Path, maker: STEDDataset) -> None:
    told = simulate(
        tmp_path / "set",
        *("--images", "4", "--size", "24", "--seed", "3", "--specimen", "synapses", "--specimen", "beads"),
    )
    assert (told["status"], told["items"], told["there_before"]) == ("complete", 4, 0)
    manifest = Manifest.model_validate_json((tmp_path / "set/manifest.json").read_bytes())
    assert manifest.status == "complete"
    assert manifest.licences == ("CC0-1.0",)
    assert sum(manifest.split.values()) == 4
    assert {"stedfast", "numpy", "python"} <= manifest.plan.versions.keys()
    for index, entry in enumerate(manifest.items):
        folder = tmp_path / "set/items" / entry.name
        assert hashlib.sha256((folder / "item.json").read_bytes()).hexdigest() == entry.sha256
        bundle, item = folder / "images.ome.zarr", maker.item(index)
        for group in (".", *item.images, "photons/labels", "photons/labels/structures"):
            yaozarrs.validate_zarr_store(str(bundle / group))
        for name, image in item.images.items():
            assert np.array_equal(stored(folder, name), image)
        for name, labels in item.labels.items():
            assert np.array_equal(stored(folder, f"photons/labels/{name}"), labels)
        document = json.loads((folder / "item.json").read_text())
        assert document["seeds"]["photons"] == [3, 3, index]
        assert document["specimen"] == ["synapses", "beads"][index % 2]
        rows = (folder / "points.csv").read_text().splitlines()
        assert rows[0] == "y_m,x_m,size_m,class,structure"
        assert [float(row.split(",")[0]) for row in rows[1:]] == list(item.tables["points"]["y_m"])


def test_any_number_of_workers_makes_the_same_files(tmp_path: Path) -> None:
    simulate(tmp_path / "one", "--images", "5", "--size", "16", "--seed", "8")
    words = ["simulate", str(tmp_path / "two"), "--images", "5", "--size", "16", "--seed", "8"]
    command = [sys.executable, "-m", "controller", *words, "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")


def test_it_goes_on_grows_and_mends_and_is_the_same(tmp_path: Path) -> None:
    words = ("--size", "16", "--seed", "1")
    simulate(tmp_path / "whole", "--images", "5", *words)
    whole, part = checksums(tmp_path / "whole"), tmp_path / "part"
    simulate(part, "--images", "3", *words)
    (part / "items/.making-000004-1-1").mkdir()
    damaged = part / "items/000001/images.ome.zarr/photons/0/c/0/0"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (part / "items/000002/points.csv").unlink()
    told = simulate(part, "--images", "5", *words)
    assert (told["items"], told["there_before"]) == (5, 1)
    assert [problem.split(":")[0] for problem in told["problems"]] == ["item 000001", "item 000002"]
    now = checksums(part)
    # What was damaged is kept under another name, for whoever wants to know.
    assert {name.split("/")[1][:9] for name in now.keys() - whole.keys()} == {".damaged-"}
    assert {name: digest for name, digest in now.items() if ".damaged-" not in name} == whole
    assert simulate(part, "--images", "5", *words)["there_before"] == 5


def test_another_configuration_is_refused_with_what_differs(tmp_path: Path) -> None:
    simulate(tmp_path / "set", "--images", "2", "--size", "16")
    before = checksums(tmp_path)
    told = simulate(tmp_path / "set", "--size", "32", "--seed", "4", "--sted", "0", "--images", "1", code=2)
    assert told["problems"][1:] == [
        "  options.size_px: 16 there, 32 asked",
        "  options.sted_w: 0.15 there, 0.0 asked",
        "  seed: 0 there, 4 asked",
        "  images: 2 there, 1 asked; it can only grow",
    ]
    assert checksums(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--specimen", "nothing"), "specimens"),
        (("--size", "5000"), "size_px"),
        (("--pixel-size", "3e-8"), "not a multiple"),
        (("--excitation", "nan"), "excitation_w"),
        (("--excitation", "-1"), "excitation_w"),
        (("--sted", "1000"), "milliwatts"),
        (("--microscope", "nothing"), "installed are"),
        (("--config", "absent.toml"), "cannot be read"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    tmp_path: Path, words: tuple[str, ...], problem: str
) -> None:
    told = simulate(tmp_path / "set", *words, code=2)
    assert problem in "\n".join(told["problems"])
    assert not (tmp_path / "set").exists()


def test_zero_images_are_refused(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["simulate", str(tmp_path / "set"), "--images", "0"]).exit_code == 2
    (tmp_path / "none.toml").write_text("images = 0")
    told = simulate(tmp_path / "set", "--config", tmp_path / "none.toml", code=2)
    assert "none.toml:1: images:" in told["problems"][0]


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is not a folder" in simulate(tmp_path / "file", code=2)["problems"][0]
    assert "cannot be written to" in simulate(tmp_path / "file/set", code=2)["problems"][0]
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("")
    assert "holds other files" in simulate(tmp_path / "full", code=2)["problems"][0]
    (tmp_path / "full/manifest.json").write_text("{}")
    assert "is not the manifest" in simulate(tmp_path / "full", code=2)["problems"][0]
    if os.access("/proc", os.W_OK):
        assert "cannot be written to" in simulate("/proc/set", code=2)["problems"][0]


def test_a_toml_file_says_the_same_and_options_replace_it(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text(
        'images = 2\nseed = 5\n[options]\nsize_px = 16\nspecimens = ["beads"]\nsample.density = 2.0\n'
    )
    simulate(tmp_path / "set", "--config", tmp_path / "set.toml", "--seed", "6")
    plan = json.loads((tmp_path / "set/manifest.json").read_text())["plan"]
    assert (plan["images"], plan["seed"], plan["options"]["sample"]["density"]) == (2, 6, 2.0)
    (tmp_path / "set.toml").write_text("[options]\nsize = 16\n")
    told = simulate(tmp_path / "new", "--config", tmp_path / "set.toml", code=2)
    assert "set.toml:2: options.size: there is no such key" in told["problems"][0]


def test_an_item_that_fails_is_named_and_the_rest_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = STEDDataset.item

    def item(self: STEDDataset, index: int) -> Any:
        if index == 1:
            raise RuntimeError("no light")
        return whole(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(STEDDataset, "item", item)
        told = simulate(tmp_path / "set", "--images", "3", "--size", "16", code=1)
    assert (told["status"], told["items"]) == ("incomplete", 2)
    assert told["problems"] == ["item 000001: RuntimeError: no light"]
    assert simulate(tmp_path / "set", "--images", "3", "--size", "16")["there_before"] == 2


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start a data set far too large to be completed, and wait for its first items."""
    words = ["simulate", str(folder), "--images", "100000", "--size", "32", "--json", *options]
    command = [sys.executable, "-m", "controller", *words]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline_s = time.monotonic() + 30
    while len(list(folder.glob("items/[0-9]*"))) < 4:
        assert time.monotonic() < deadline_s
        assert running.poll() is None
        time.sleep(0.01)
    return running


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_ends_it_with_true_counts(tmp_path: Path, workers: str) -> None:
    check_that_ctrl_c_ends_it(tmp_path, "--workers", workers)


def check_that_ctrl_c_ends_it(tmp_path: Path, *options: str) -> None:
    running = start(tmp_path / "set", *options)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all processes
    out, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    told, items = json.loads(out), list((tmp_path / "set/items").iterdir())
    assert told["status"] == "interrupted"
    assert told["items"] == len(items) == len({item.name for item in items if item.name.isdigit()})
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert (manifest["status"], len(manifest["items"])) == ("incomplete", len(items))


def test_a_killed_run_leaves_whole_items_only(tmp_path: Path) -> None:
    running = start(tmp_path / "set", "--workers", "2")
    second = CliRunner().invoke(
        app, ["simulate", str(tmp_path / "set"), "--images", "100000", "--size", "32", "--workers", "1"]
    )
    assert second.exit_code == 2
    assert "another program is making this data set" in second.stderr
    running.kill()
    running.communicate(timeout=30)
    items = [item for item in (tmp_path / "set/items").iterdir() if item.name.isdigit()]
    assert len(items) >= 4
    assert [item_problem(item) for item in items] == [None] * len(items)


def test_a_group_is_in_one_part_of_a_split_whatever_else_there_is() -> None:
    parts = [split_of(f"{index:06d}", 1) for index in range(5000)]
    assert [round(parts.count(part) / 500) for part in ("train", "val", "test")] == [8, 1, 1]
    assert parts != [split_of(f"{index:06d}", 2) for index in range(5000)]


def test_images_of_shared_maps_stay_together_and_under_their_licence() -> None:
    pytest.importorskip("pysted", reason="the shipped maps come with pysted")
    maker = STEDDataset(Options(specimens=("psd95", "beads"), size_px=16), seed=0)
    items = [maker.item(index) for index in range(4)]
    assert [item.group for item in items] == ["psd95", "000001", "psd95", "000003"]
    assert [item.licence for item in items] == ["MIT", "CC0-1.0"] * 2


MOVIES = TwoPhotonDataset.Options(frames=8, size_px=32, pixel_size_m=2e-6)


def test_movies_come_with_what_the_neurons_did(tmp_path: Path) -> None:
    words = ("--microscope", "two_photon", "--frames", "8", "--size", "32", "--pixel-size", "2e-6")
    assert simulate(tmp_path / "set", "--images", "1", "--seed", "2", *words)["items"] == 1
    folder, item = tmp_path / "set/items/000000", TwoPhotonDataset(MOVIES, seed=2).item(0)
    assert np.array_equal(stored(folder, "frames"), item.images["frames"])
    assert np.array_equal(stored(folder, "expected"), item.images["expected"])
    assert item.images["expected"].shape == (8, 32, 32)
    for group in (".", "frames", "expected", "frames/labels", "frames/labels/neurons"):
        yaozarrs.validate_zarr_store(str(folder / "images.ome.zarr" / group))
    document = json.loads((folder / "item.json").read_text())
    grey = item.images["expected"].mean() * document["grey_per_photon"] + document["offset_grey"]
    assert item.images["frames"].mean() == pytest.approx(grey, rel=0.05)
    ome = json.loads((folder / "images.ome.zarr/frames/zarr.json").read_text())["attributes"]["ome"]
    scale = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
    assert scale == pytest.approx([document["frame_s"], 2.0, 2.0])
    numbers = np.unique(item.labels["neurons"])[1:]
    assert len(numbers) > 0
    assert list(item.tables["traces"]) == ["time_s", *(f"neuron_{number}" for number in numbers)]
    assert set(item.tables["spikes"]["neuron"]) <= set(numbers)
    times_s = item.tables["traces"]["time_s"]
    assert np.diff(times_s) == pytest.approx(document["frame_s"])
    assert 0 < times_s[0] < document["frame_s"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--specimen", "beads"), "options.specimens: there is no such key"),
        (("--sted", "0.1"), "options.sted_w: there is no such key"),
        (("--pixel-size", "3e-7"), "not a multiple"),
        (("--dwell", "1e-9"), "too short"),
        (("--size", "2048", "--frames", "100"), "pixels in a movie"),
        (("--size", "2048", "--frames", "1"), "lower"),
    ],
)
def test_movies_that_cannot_be_are_refused(tmp_path: Path, words: tuple[str, ...], problem: str) -> None:
    told = simulate(tmp_path / "set", "--microscope", "two_photon", *words, code=2)
    assert problem in "\n".join(told["problems"])


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    told = simulate(tmp_path / "set", "--ray", "local", code=2)
    assert "pip install 'stedfast[scale]'" in told["problems"][0]


def test_a_ray_address_that_does_not_answer_is_told_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'stedfast[scale]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        for asked, words in ((address, "nobody answers"), ("nowhere", "host:port")):
            assert words in simulate(tmp_path / "set", "--ray", asked, code=2)["problems"][0]


def test_a_ray_cluster_makes_the_same_files_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'stedfast[scale]'")
    words = ["simulate", str(tmp_path / "ray"), "--images", "4", "--size", "16", "--json"]
    command = [sys.executable, "-m", "controller", *words, "--ray", "local", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["items"]) == (0, 4), done.stderr
    simulate(tmp_path / "here", "--images", "4", "--size", "16")
    assert checksums(tmp_path / "ray") == checksums(tmp_path / "here")
    check_that_ctrl_c_ends_it(tmp_path, "--ray", "local", "--workers", "1")


def test_the_page_explains_every_option() -> None:
    text = (Path(__file__).parents[2] / "docs/datasets.md").read_text()
    for options in (STEDDataset.Options, TwoPhotonDataset.Options):
        for name in options.model_fields:
            assert f"`{name}`" in text, name
