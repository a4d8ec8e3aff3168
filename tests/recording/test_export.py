import csv
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from controller.core.clock import SimulatedClock
from controller.core.decision import Acquire, AskLabel, Cycle, Dose, Question, Stop
from controller.core.dose import DoseLedger, Lit
from controller.core.errors import RecordingError, SessionFolderError
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.settings import AdaptiveIllumination, Region, ScanSettings
from controller.core.spreadsheet import write_table
from controller.recording.export import export_session
from controller.recording.ome_tiff import storable
from controller.recording.reader import SessionReader
from controller.recording.writer import SessionWriter, claim_folder
from controller.testing import CONFOCAL, LIMITS, TWO_STEPS, FakeMicroscope
from tests.recording.test_movies import film, record_movie
from tests.recording.test_writer import START, mixed_frames
from tests.recording.test_writer import record as record_one

STED = CONFOCAL.replace(modality="sted", sted_w=0.03)
ELSEWHERE = CONFOCAL.replace(region=Region(center_yx_m=(1e-6, -2e-6), size_yx_m=(0.32e-6, 0.32e-6)))
PLAN = (CONFOCAL, STED, CONFOCAL, ELSEWHERE)


def record(folder: Path, plan: tuple[ScanSettings, ...] = PLAN, *, segmented: bool = True) -> SessionReader:
    """Record one frame for each of ``plan``, then a question, then the end."""
    clock, ledger = SimulatedClock(), DoseLedger(LIMITS, "test")
    microscope = FakeMicroscope(clock=clock, options=FakeMicroscope.Options(frame_s=0.5))
    start = {
        "run_id": str(uuid.uuid4()),
        "seed": 1,
        "experiment": {"name": "export"},
        "hardware": {"limits": LIMITS.model_dump(mode="json")},
        "config_sha256": "",
        "config_folder": "",
        "hardware_path": "",
        "microscope": {"simulated": True},
        "versions": {},
    }
    writer = SessionWriter.create(claim_folder(folder), start)
    for n, settings in enumerate(plan):
        booking = ledger.reserve(settings)
        writer.reserve(booking, n, clock.now_s())
        now_s = clock.now_s()
        frame = microscope.acquire(settings)
        ledger.settle(booking, Lit.by(settings))
        writer.append_frame(frame, n)
        found = _segment(frame) if segmented else None
        decision = Acquire(
            settings=settings, reason=f'scan {n}, "why", not', evidence={"detail_snr": 1.5 * n}
        )
        clean = Denoised(frame.photons, np.ones_like(frame.photons), frame.index)
        times = {"decide": 0.25}
        writer.append(
            Cycle(n, decision, "plan", frame, clean, found, dose=ledger.delivered, timings_s=times), now_s
        )
    if plan:
        question = Question(
            frame_index=0, region=CONFOCAL.region, kind="choice", text="Ring, or not?", choices=("yes", "no")
        )
        writer.append(Cycle(len(plan), AskLabel(question=question, reason="unsure"), "plan"), clock.now_s())
        writer.append(Cycle(len(plan) + 1, Stop(reason="done"), "plan"), clock.now_s())
    cycles = len(plan) + 2 if plan else 0
    writer.finish("completed", "done", cycles=cycles, faults=0, dose=ledger.delivered, now_s=clock.now_s())
    return SessionReader(folder)


def _segment(frame: Frame) -> Segmentation:
    """One object: the rows 2..3 and columns 4..7."""
    labels = np.zeros(frame.photons.shape, np.int32)
    labels[2:4, 4:8] = 1
    certain = np.ones(labels.shape, np.float32)
    return Segmentation(labels, certain, 0 * certain)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_pixels_come_back_equal_and_each_frame_says_where_it_is(tmp_path: Path) -> None:
    reader = record(tmp_path / "session")
    export_session(reader, tmp_path / "out")
    table = rows(tmp_path / "out" / "frames.csv")
    assert [int(row["frame"]) for row in table] == [0, 1, 2, 3]
    for row in table:
        with tifffile.TiffFile(tmp_path / "out" / row["file"]) as file:
            image = file.pages[int(row["plane"])].asarray()
        photons = reader.frame(int(row["frame"])).photons
        assert image.dtype == photons.dtype
        assert np.array_equal(image, photons)


def test_frames_of_the_same_scan_are_one_time_lapse(tmp_path: Path) -> None:
    reader = record(tmp_path / "session")
    written = export_session(reader, tmp_path / "out")
    names = [path.name for path in written]
    derived = [name for name in names if "_denoised" in name or "_labels" in name]
    assert len(derived) == 6
    assert [name for name in names if name not in derived] == [
        "confocal_000000.ome.tif",
        "sted_000001.ome.tif",
        "confocal_000003.ome.tif",
        "frames.csv",
        "cycles.csv",
        "questions.csv",
        "objects.csv",
    ]
    with tifffile.TiffFile(written[0]) as file:
        assert file.series[0].shape == (2, *CONFOCAL.shape_yx)
        assert file.series[0].axes == "TYX"


def test_a_movie_is_one_file_even_if_other_frames_are_like_it(tmp_path: Path) -> None:
    writer = SessionWriter.create(claim_folder(tmp_path / "session"), START)
    record_one(writer, mixed_frames()[0], 0)
    record_movie(writer, film(1), 1)
    record_movie(writer, film(5, planes=2), 2)
    writer.finish("interrupted", "test", cycles=3, faults=0, dose=Dose(), now_s=0.0)
    reader = SessionReader(tmp_path / "session")
    written = export_session(reader, tmp_path / "out")
    raw = [path for path in written if path.name.count("_") == 1 and path.suffix == ".tif"]
    images = {path.name: tifffile.imread(path) for path in raw}
    assert {name: image.shape[:-2] for name, image in images.items()} == {
        "confocal_000000.ome.tif": (),
        "confocal_000001.ome.tif": (4,),
        "confocal_000005.ome.tif": (2,),
    }
    assert np.array_equal(images["confocal_000001.ome.tif"], [frame.photons for frame in film(1)])
    table = rows(tmp_path / "out" / "frames.csv")
    assert [(row["file"][9:15], row["plane"]) for row in table[:6]] == [
        ("000000", "0"),
        *(("000001", str(plane)) for plane in range(4)),
        ("000005", "0"),
    ]
    cycles = rows(tmp_path / "out" / "cycles.csv")
    assert [row["frame"] for row in cycles] == ["0", "4", "6"]


def test_denoised_images_and_masks_lie_beside_their_frames(tmp_path: Path) -> None:
    reader = record(tmp_path / "session")
    export_session(reader, tmp_path / "out")
    for row in rows(tmp_path / "out" / "frames.csv"):
        cycle = reader.cycles[int(row["cycle"])]
        clean, found = reader.denoised(cycle), reader.segmentation(cycle)
        assert clean is not None
        assert found is not None
        assert row["denoised_file"] == row["file"].replace(".ome.tif", "_denoised.ome.tif")
        with tifffile.TiffFile(tmp_path / "out" / row["denoised_file"]) as file:
            first = 2 * int(row["denoised_plane"])
            assert np.array_equal(file.pages[first].asarray(), clean.mean)
            assert np.array_equal(file.pages[first + 1].asarray(), clean.std)
        with tifffile.TiffFile(tmp_path / "out" / row["labels_file"]) as file:
            mask = file.pages[int(row["labels_plane"])].asarray()
        assert mask.dtype == np.uint16
        assert np.array_equal(mask, found.labels)
    with tifffile.TiffFile(tmp_path / "out" / "confocal_000000_denoised.ome.tif") as file:
        described: dict[str, Any] = tifffile.xml2dict(file.ome_metadata or "")
    pixels = described["OME"]["Image"]["Pixels"]
    assert [channel["Name"] for channel in pixels["Channel"]] == ["mean", "std"]
    assert [(plane["TheT"], plane["TheC"], plane["DeltaT"]) for plane in pixels["Plane"]] == [
        *((0, 0, 0.0), (0, 1, 0.0)),
        *((1, 0, 1.0), (1, 1, 1.0)),
    ]


def test_a_session_without_models_has_no_files_of_them(tmp_path: Path) -> None:
    reader = record(tmp_path / "session", (CONFOCAL, CONFOCAL), segmented=False)
    assert [path.name for path in export_session(reader, tmp_path / "out")][:3] == [
        "confocal_000000.ome.tif",
        "confocal_000000_denoised.ome.tif",
        "frames.csv",
    ]
    assert {row["labels_file"] for row in rows(tmp_path / "out" / "frames.csv")} == {""}


def test_an_unreadable_denoised_image_is_named_and_the_others_keep_their_planes(tmp_path: Path) -> None:
    reader = record(tmp_path / "session")
    for chunk in (reader.bundle / "000000_denoised" / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    with pytest.raises(SessionFolderError, match="denoised image of frame 0"):
        export_session(reader, tmp_path / "out")
    table = rows(tmp_path / "out" / "frames.csv")
    assert [(row["denoised_plane"], row["labels_plane"]) for row in table][::2] == [("", "0"), ("0", "1")]


def test_pixel_size_and_position_are_in_micrometres(tmp_path: Path) -> None:
    export_session(record(tmp_path / "session"), tmp_path / "out")
    with tifffile.TiffFile(tmp_path / "out" / "confocal_000003.ome.tif") as file:
        description: dict[str, Any] = tifffile.xml2dict(file.ome_metadata or "")
        resolution = file.pages.first.tags["XResolution"].value
    pixels = description["OME"]["Image"]["Pixels"]
    assert pixels["PhysicalSizeX"] == pytest.approx(0.02)
    assert pixels["PhysicalSizeY"] == pytest.approx(0.02)
    assert pixels["PhysicalSizeXUnit"] == "µm"
    assert pixels["Channel"]["Name"] == "confocal"
    assert pixels["Plane"]["PositionX"] == pytest.approx(-2.0)
    assert pixels["Plane"]["PositionY"] == pytest.approx(1.0)
    assert pixels["Plane"]["DeltaT"] == pytest.approx(1.5)
    assert resolution[0] / resolution[1] == pytest.approx(1e4 / 0.02)


def test_the_tables_say_what_the_journal_says(tmp_path: Path) -> None:
    reader = record(tmp_path / "session")
    export_session(reader, tmp_path / "out")
    table = rows(tmp_path / "out" / "cycles.csv")
    assert [row["decision"] for row in table] == ["acquire"] * 4 + ["ask", "stop"]
    assert table[1]["reason"] == 'scan 1, "why", not'
    assert float(table[1]["sted_w"]) == STED.sted_w
    assert float(table[2]["evidence_detail_snr"]) == 3.0
    assert float(table[2]["time_decide_s"]) == 0.25
    assert float(table[3]["dose_energy_j"]) == reader.cycles[3].dose.energy_j
    (question,) = rows(tmp_path / "out" / "questions.csv")
    assert (question["text"], question["choices"]) == ("Ring, or not?", "yes | no")


def test_focus_and_steps_have_columns_and_no_text_is_a_formula(tmp_path: Path) -> None:
    steps = STED.replace(adaptive=TWO_STEPS, focus_m=-2e-6)
    export_session(record(tmp_path / "session", (CONFOCAL, steps)), tmp_path / "out")
    plain, adaptive = rows(tmp_path / "out" / "frames.csv")
    assert (plain["focus_m"], plain["adaptive"]) == ("", "")
    assert float(adaptive["focus_m"]) == -2e-6
    assert AdaptiveIllumination.model_validate_json(adaptive["adaptive"]) == TWO_STEPS
    path = write_table(tmp_path / "t.csv", ("text", "number"), [{"text": "=1+1", "number": -2.5}])
    assert path.read_text(encoding="utf-8").splitlines()[1] == "'=1+1,-2.5"


def test_objects_are_measured_in_sample_coordinates(tmp_path: Path) -> None:
    reader = record(tmp_path / "session", (ELSEWHERE,))
    export_session(reader, tmp_path / "out")
    (found,) = rows(tmp_path / "out" / "objects.csv")
    # Rows 2..3 and columns 4..7 of 20 nm, counted from the upper left corner of the region.
    assert float(found["center_y_m"]) == pytest.approx(1e-6 - 0.16e-6 + 3 * 20e-9)
    assert float(found["center_x_m"]) == pytest.approx(-2e-6 - 0.16e-6 + 6 * 20e-9)
    assert float(found["area_m2"]) == pytest.approx(8 * 20e-9**2)
    assert float(found["mean_photons"]) == pytest.approx(reader.frame(0).photons[2:4, 4:8].mean())


def test_nothing_is_overwritten_and_the_session_stays_as_it_is(tmp_path: Path) -> None:
    reader = record(tmp_path / "session")
    before = {p: p.read_bytes() for p in (tmp_path / "session").rglob("*") if p.is_file()}
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    for folder in (taken, taken / "notes.txt", tmp_path / "session", reader.bundle / "new"):
        with pytest.raises(SessionFolderError):
            export_session(reader, folder)
    assert [p.name for p in taken.iterdir()] == ["notes.txt"]
    export_session(reader, tmp_path / "session" / "export")
    assert {p: p.read_bytes() for p in before} == before


def test_an_unreadable_frame_is_named_and_everything_else_is_exported(tmp_path: Path) -> None:
    reader = record(tmp_path / "session")
    for chunk in (reader.bundle / "000001" / "0" / "c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    with pytest.raises(SessionFolderError, match="frame 1"):
        export_session(reader, tmp_path / "out")
    table = rows(tmp_path / "out" / "frames.csv")
    assert [bool(row["problem"]) for row in table] == [False, True, False, False]
    assert (tmp_path / "out" / "objects.csv").exists()


def test_a_session_without_frames_gives_tables_with_headings_only(tmp_path: Path) -> None:
    written = export_session(record(tmp_path / "session", ()), tmp_path / "out")
    assert [path.name for path in written] == ["frames.csv", "cycles.csv", "questions.csv"]
    assert all(path.read_text().startswith(("frame,", "cycle,")) for path in written)


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    reader = record(tmp_path / "session", (CONFOCAL,), segmented=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="cannot be written"):
        export_session(reader, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([[0, 255]], np.int64), "uint8"),
        (np.array([[-1, 300]], np.int64), "int16"),
        (np.array([[0.5, np.nan]], np.float16), "float32"),
        (np.array([[True, False]]), "uint8"),
        (np.array([[0.1]], np.float32), "float32"),
    ],
)
def test_odd_kinds_of_numbers_keep_their_values(values: NDArray[Any], kind: str) -> None:
    assert storable(values).dtype == kind
    assert np.array_equal(storable(values).astype(values.dtype), values, equal_nan=values.dtype.kind == "f")


def test_values_that_ome_cannot_hold_are_refused() -> None:
    with pytest.raises(RecordingError):
        storable(np.array([[2**62 + 1, 0]], np.int64))
