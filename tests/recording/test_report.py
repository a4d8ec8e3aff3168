import re
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from controller.core.clock import SimulatedClock
from controller.core.decision import Acquire, AskLabel, Cycle, Decision, Question, Stop
from controller.core.dose import DoseLedger, Lit
from controller.core.errors import RecordingError
from controller.core.frame import Denoised, Frame, Segmentation
from controller.core.settings import Region, ScanSettings
from controller.recording import units
from controller.recording.pictures import Contrast, contrast, outlines, png_uri
from controller.recording.reader import SessionReader
from controller.recording.report import write_report
from controller.recording.writer import SessionWriter, claim_folder
from controller.testing import LIMITS, FakeMicroscope

ATTACK = '<script>alert("1")</script>'
VOID = {"meta", "link", "br", "img", "hr", "input"}


def scan(modality: str, y_m: float = 0.0, side_m: float = 0.64e-6, **more: Any) -> ScanSettings:
    pixel_m = 100e-9 if modality == "overview" else 20e-9
    region = Region(center_yx_m=(y_m, 0.0), size_yx_m=(side_m, side_m))
    fields = {"pixel_size_m": pixel_m, "dwell_s": 10e-6, "excitation_w": 10e-6, **more}
    return ScanSettings.model_validate({"modality": modality, "region": region, **fields})


def acquire(settings: ScanSettings, reason: str = "as planned", **evidence: float) -> Acquire:
    return Acquire(settings=settings, reason=reason, evidence=evidence)


class Recording:
    """Records a session step by step."""

    def __init__(self, folder: Path, **start: Any) -> None:
        self.folder, self.clock, self.ledger = folder, SimulatedClock(), DoseLedger(LIMITS, "test")
        options = FakeMicroscope.Options(frame_s=0.5)
        self.microscope = FakeMicroscope(clock=self.clock, options=options)
        document = {
            "run_id": str(uuid.uuid4()),
            "seed": 4711,
            "experiment": {"name": "Vesicles", "policy": {"name": "regions"}},
            "hardware": {"name": "bench", "limits": LIMITS.model_dump(mode="json")},
            "config_sha256": "c0ffee",
            "config_folder": "",
            "hardware_path": "",
            "microscope": {"simulated": True},
            "versions": {"numpy": "2.0"},
        }
        self.writer = SessionWriter.create(claim_folder(folder), document | start)
        self.cycles = 0

    def step(self, decision: Decision, *, understood: bool = True, **more: Any) -> None:
        now_s, frame, found, clean = self.clock.now_s(), None, None, None
        if isinstance(decision, Acquire) and "refused" not in more:
            booking = self.ledger.reserve(decision.settings, decision.frames)
            self.writer.reserve(booking, self.cycles, now_s)
            for plane in range(decision.frames):
                frame = self.microscope.acquire(decision.settings)
                self.writer.append_frame(frame, self.cycles, plane if decision.frames > 1 else None)
            self.ledger.settle(booking, Lit.sum([Lit.by(decision.settings)] * decision.frames))
            if understood and frame is not None:
                clean = Denoised(frame.photons, np.ones_like(frame.photons), frame.index)
                found = _segment(frame)
        cycle = Cycle(
            self.cycles, decision, "regions", frame, clean, found, dose=self.ledger.delivered, **more
        )
        self.writer.append(cycle, now_s)
        self.cycles += 1

    def end(self, status: Any = "completed", reason: str = "all is done") -> SessionReader:
        self.writer.finish(
            status, reason, cycles=self.cycles, faults=0, dose=self.ledger.delivered, now_s=self.clock.now_s()
        )
        return SessionReader(self.folder)

    def cut_off(self) -> SessionReader:
        self.writer.reserve(self.ledger.reserve(scan("confocal")), self.cycles, self.clock.now_s())
        self.end()
        journal = self.folder / "journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[:-1]))
        return SessionReader(self.folder)


def _segment(frame: Frame) -> Segmentation:
    labels = np.zeros(frame.photons.shape, np.int32)
    labels[1:3, 1:4] = 1
    certain = np.full(labels.shape, 0.5, np.float32)
    return Segmentation(labels, certain, certain)


def full(folder: Path, **start: Any) -> SessionReader:
    session = Recording(folder, **start)
    session.step(acquire(scan("overview", side_m=6.4e-6)))
    for n in range(5):
        place = -2e-6 + n * 1e-6
        session.step(acquire(scan("confocal", place), f"region {n}"))
        session.step(acquire(scan("sted", place, sted_w=0.03 + 0.01 * n), f"STED of region {n}"))
        session.step(acquire(scan("confocal", place), "after", detail_snr=1.0 + n))
    question = Question(
        frame_index=2,
        region=scan("sted", -2e-6, 0.2e-6).region,
        kind="choice",
        text="A ring?",
        choices=("yes",),
    )
    session.step(AskLabel(question=question, reason="undecided"))
    session.step(acquire(scan("sted", sted_w=0.9)), refused="sted_w=0.9 W is outside 0..0.3 W")
    session.step(acquire(scan("confocal")), faults=("the denoiser was late",))
    session.step(Stop(reason="all is done"))
    return session.end()


class Page(HTMLParser):
    """Parses a page strictly: every tag is closed in order; text, tags and attributes are kept."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def pictures(self) -> int:
        return sum(value.startswith("data:image/png") for _, value in self.attributes)


def report(reader: SessionReader, **more: Any) -> Page:
    return Page(write_report(reader, reader.folder / "report.html", **more))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return report(full(tmp_path_factory.mktemp("full") / "session"))


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    links = [value for name, value in page.attributes if name in {"src", "href", "xlink:href", "action"}]
    assert links
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in links)
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert "@import" not in page.source
    assert not re.search(r"url\(", page.source)


def test_every_drawing_is_well_formed_and_has_a_name(page: Page) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page.source, re.DOTALL)
    assert len(drawings) > 20
    for drawing in drawings:
        root = ET.fromstring(drawing)  # noqa: S314  # our own page
        assert root.get("aria-label") or root.get("aria-hidden")
        numbers = re.findall(r"nan|inf", " ".join(e.get("d", "") for e in root.iter()))
        assert not numbers


def test_links_inside_the_page_lead_somewhere(page: Page) -> None:
    targets = {value for name, value in page.attributes if name == "id"}
    inside = {value[1:] for name, value in page.attributes if name == "href" and value.startswith("#")}
    assert inside
    assert inside <= targets


def test_images_are_in_the_unit_that_the_microscope_told(page: Page, tmp_path: Path) -> None:
    told = {"simulated": True, "details": {"unit": "grey levels", "offset_grey": 200.0}}
    text = report(full(tmp_path / "session", microscope=told)).text
    assert len(re.findall(r"\d to [\d.]+ grey levels", text)) == len(
        re.findall(r"\d to [\d.]+ photons", page.text)
    )
    assert "grey levels per pixel" in text
    assert "photons" not in text
    assert "Signal: mean photons per pixel" in page.text


@pytest.mark.parametrize("unit", ["", 7, None, ATTACK])
def test_a_unit_that_is_none_is_not_believed(unit: Any, tmp_path: Path) -> None:
    found = report(full(tmp_path / "session", microscope={"details": {"unit": unit}}))
    assert ("photons" in found.text) is (unit != ATTACK)
    assert "script" not in found.tags


def test_the_numbers_agree_with_the_journal(tmp_path: Path) -> None:
    reader = full(tmp_path / "session")
    text = report(reader).text
    assert reader.stop is not None
    energy, budget = reader.stop.dose.energy_j, LIMITS.session_energy_max_j
    for expected in (
        f"Frames {len(reader.frames)} 1 overview, 11 confocal, 5 STED",
        f"Cycles {len(reader.cycles)}",
        f"{units.quantity(energy, 'J')} of {units.quantity(budget, 'J')}".replace("\xa0", " "),
        units.quantity(reader.stop.dose.peak_j_per_m2, "J/m²").replace("\xa0", " "),
        "Questions asked 1",
        "Requests refused 1",
        "Faults 1",
        "Completed",
        "all is done",
        "STED 70 mW",
        "A ring?",
        "sted_w=0.9 W is outside 0..0.3 W",
        "the denoiser was late",
        reader.start.run_id,
        "4711",
        "c0ffee",
        "simulated clock",
        "stedfast replay session",
    ):
        assert expected in text, expected
    assert "Know this before" not in text


def test_a_visit_shows_before_raw_denoised_segmented_uncertainty_and_after(page: Page) -> None:
    row = page.text[page.text.index("Visit 1 · STED") :]
    titles = ("Before, confocal", "STED, raw", "Denoised", "Segmented", "Uncertainty", "After, confocal")
    places = [row.index(title) for title in titles]
    assert places == sorted(places)
    assert "STED of region 0" in row
    # The figure comes two decisions later, after the second confocal frame.
    assert "Judged afterwards" in row


def test_what_a_session_says_is_never_taken_for_html(tmp_path: Path) -> None:
    experiment = {"name": ATTACK, "policy": {"name": ATTACK}}
    session = Recording(
        tmp_path / "a & <b>", experiment=experiment, config_sha256=ATTACK, versions={ATTACK: ATTACK}
    )
    session.step(acquire(scan("confocal"), ATTACK, **{ATTACK: 1.0}), faults=(ATTACK,))
    question = Question(
        frame_index=0, region=scan("confocal").region, kind="choice", text=ATTACK, choices=(ATTACK,)
    )
    session.step(AskLabel(question=question, reason=ATTACK))
    session.step(acquire(scan("confocal"), ATTACK), refused=ATTACK)
    found = report(session.end("failed", ATTACK), answers={1: (ATTACK,)})
    assert "script" not in found.tags
    assert "<script" not in found.source
    assert found.text.count("alert(") >= 12


def empty(folder: Path) -> SessionReader:
    return Recording(folder).end("failed", "the shutter does not answer")


def time_lapse(folder: Path) -> SessionReader:
    session = Recording(folder)
    for n in range(40):
        session.step(acquire(scan("confocal"), brightness=1 / (n + 1)), understood=False)
    return session.end("interrupted", "Ctrl-C")


def unfinished(folder: Path) -> SessionReader:
    session = Recording(folder)
    session.step(acquire(scan("confocal")))
    return session.cut_off()


def only_an_overview(folder: Path) -> SessionReader:
    session = Recording(folder)
    session.step(acquire(scan("overview", side_m=6.4e-6)))
    return session.end()


def odd_shapes(folder: Path) -> SessionReader:
    session = Recording(folder)
    for height_m, width_m in ((20e-9, 2e-6), (2e-6, 20e-9), (20e-9, 20e-9)):
        region = Region(center_yx_m=(0.0, 0.0), size_yx_m=(height_m, width_m))
        session.step(acquire(scan("confocal").replace(region=region)), understood=False)
    return session.end()


def movies(folder: Path) -> SessionReader:
    """Two movies at one place, a picture at another, and a movie that was cut off."""
    session = Recording(folder)
    movie = Acquire(settings=scan("confocal"), reason="what happens there?", frames=6)
    session.step(movie)
    session.step(acquire(scan("confocal", 2e-6)))
    session.step(movie)
    booking = session.ledger.reserve(scan("confocal"), 5)
    session.writer.reserve(booking, session.cycles, 9.0)
    for plane in range(2):
        session.writer.append_frame(session.microscope.acquire(scan("confocal")), session.cycles, plane)
    session.ledger.settle(booking, booking.lit())
    return session.end("failed", "the power failed")


def strange_record(folder: Path) -> SessionReader:
    session = Recording(folder, experiment={}, hardware={"limits": {"of": "another version"}}, microscope={})
    session.step(acquire(scan("confocal")))
    return session.end()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            empty,
            ["Failed", "the shutter does not answer", "No frame was acknowledged", "No cycle was finished"],
        ),
        (time_lapse, ["Interrupted", "Ctrl-C", "No overview was taken", "1 place", "Show 40 decisions"]),
        (unfinished, ["Unfinished", "1 scan booked without all frames", "stedfast resume session"]),
        (only_an_overview, ["Completed", "1 overview", "0 visits"]),
        (
            movies,
            [
                "15 confocal, in 3 movies",
                "3 visits",
                "frames 7 to 12",
                "frames 0 to 5, the last of them",
                "movie of 6 frames",
                "1 scan booked without all frames",
            ],
        ),
        (odd_shapes, [f"100 {units.TIMES} 1 px", f"1 {units.TIMES} 100 px"]),
        (strange_record, ["Unnamed experiment", "limits in the record are not understood", "session clock"]),
    ],
)
def test_odd_sessions_get_a_true_report(
    tmp_path: Path, make: Callable[[Path], SessionReader], words: list[str]
) -> None:
    text = report(make(tmp_path / "session")).text
    for word in words:
        assert word in text


def test_unreadable_images_are_said_in_their_place_and_at_the_top(tmp_path: Path) -> None:
    reader = full(tmp_path / "session")
    for path in ("000002/0/c", "000002_denoised/0/c", "000005_probability/0/c"):
        for chunk in (reader.bundle / path).rglob("*"):
            if chunk.is_file():
                chunk.write_bytes(b"damaged")
    found = report(reader)
    assert found.text.count("unreadable") >= 4
    assert "Know this before you rely on the rest" in found.text
    for what in ("frame 2", "denoised image of cycle 2", "segmentation of cycle 5"):
        assert what in found.text


def test_a_long_session_stays_small_and_quick(tmp_path: Path) -> None:
    session = Recording(tmp_path / "session")
    session.step(acquire(scan("overview", side_m=6.4e-6)))
    session.step(acquire(scan("confocal")))
    reader = session.end()
    # Many cycles without the time it would take to write them.
    cycle, frame = reader.cycles[1], reader.frames[1]
    for n in range(2, 5000):
        reader.cycles.append(cycle.model_copy(update={"index": n, "frame_index": n, "now_s": float(n)}))
        reader.frames[n] = frame.model_copy(update={"index": n, "reservation": n, "started_s": float(n)})
    start = perf_counter()
    found = report(reader)
    assert perf_counter() - start < 10
    assert len(found.source) < 2_000_000
    assert "4 600 cycles in between are left out" in found.text


def test_large_frames_do_not_make_a_heavy_page(tmp_path: Path) -> None:
    session = Recording(tmp_path / "session")
    for n in range(12):
        large = scan("sted", n * 0.5e-6 - 3e-6, 5.12e-6, pixel_size_m=10e-9, dwell_s=2e-6)
        session.step(acquire(large), understood=n < 2)
    found = report(session.end())
    assert found.pictures() > 12
    assert len(found.source) < 6_000_000


def test_answers_are_told_only_where_they_are_known(tmp_path: Path) -> None:
    reader = full(tmp_path / "session")
    assert "nswered" not in report(reader).text
    known = report(reader, answers={16: ("yes",)}).text
    assert "1 answered" in known
    assert "Answered: yes" in known
    assert "Not answered yet" in report(reader, answers={}).text


def test_an_older_report_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    reader = empty(tmp_path / "session")
    path = tmp_path / "new" / "report.html"
    assert write_report(reader, path) == path
    path.write_text("old")
    write_report(reader, path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(RecordingError, match="cannot be written"):
        write_report(reader, path / "below" / "report.html")


def test_pictures_survive_what_images_may_hold() -> None:
    for image in (
        np.zeros((3, 4)),
        np.full((2, 2), np.nan),
        np.array([[np.inf, 1.0]]),
        np.ones((1, 1), bool),
    ):
        shown = contrast(image)
        assert shown.high > shown.low
        assert png_uri(image, shown).startswith("data:image/png;base64,")
    assert png_uri(np.zeros((1, 1)), Contrast(0, 1), "viridis") != png_uri(
        np.ones((1, 1)), Contrast(0, 1), "viridis"
    )


def test_outlines_follow_the_edges_of_pixels() -> None:
    labels = np.zeros((5, 6), np.int32)
    labels[1:3, 2:5] = 1
    path, grid = outlines(labels)
    assert grid == (5, 6)
    assert sorted(re.findall(r"M[^M]+", path)) == ["M2 1h3", "M2 1v2", "M2 3h3", "M5 1v2"]
    noise = np.random.default_rng(0).integers(0, 2, (400, 400)).astype(np.int32)
    assert len(outlines(noise)[0]) < 60_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.quantity(0.03, "W"), "30 mW"),
        (units.quantity(20e-9, "m"), "20 nm"),
        (units.quantity(9.9999999e-7, "m"), "1 µm"),
        (units.quantity(1.234e10, "J/m²"), "12.3 GJ/m²"),
        (units.quantity(0.0, "J"), "0 J"),
        (units.quantity(float("inf"), "J"), "∞"),
        (units.quantity(1431.2, "photons"), "1 430 photons"),
        (units.number(-0.00123), "\N{MINUS SIGN}0.00123"),
        (units.number(float("nan")), "not a number"),
        (units.number(1.5e300), "1.50·10^300"),
        (units.duration(59.94), "59.9 s"),
        (units.duration(90), "1 min 30 s"),
        (units.duration(7260), "2 h 1 min"),
        (units.percent(0.00001), "< 0.1 %"),
        (units.percent(0.27), "27 %"),
        (units.figure("bleached_fraction", 0.25), "Bleached fraction 25 %"),
        (units.figure("sted_w", 0.02), "STED 20 mW"),
    ],
)
def test_numbers_read_as_people_write_them(text: str, expected: str) -> None:
    assert text.replace("\xa0", " ").replace("\N{NARROW NO-BREAK SPACE}", " ") == expected
