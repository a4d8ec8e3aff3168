"""What a report says of denoised images and of the models that made them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from controller.cli import app
from controller.core.decision import Cycle
from controller.core.frame import Denoised
from controller.core.protocols import ModelChange
from controller.recording.pictures import Contrast
from controller.recording.reader import SessionReader
from controller.recording.trust import error_share, trust
from tests.recording.test_report import ATTACK, Recording, acquire, report, scan

RAMP = np.tile(np.linspace(0.0, 10.0, 1001, dtype=np.float32), (4, 1))


@pytest.mark.parametrize(
    ("mean", "std", "share"),
    [
        (RAMP, 0.5, 0.05 / 0.992),
        (RAMP + 100, 0.5, 0.05 / 0.992),
        (RAMP * 7, 3.5, 0.05 / 0.992),
        (np.ones((3, 4)), 0.5, None),
        (RAMP, np.nan, None),
    ],
    ids=["ramp", "offset", "scaled", "flat", "no error"],
)
def test_the_error_is_a_share_of_the_range_that_the_colours_span(
    mean: np.ndarray, std: float, share: float | None
) -> None:
    found = error_share(Denoised(mean, np.full(mean.shape, std), 0))
    assert found == (None if share is None else pytest.approx(share, rel=1e-3))


def test_errors_are_added_up_as_squares_and_unknown_ones_left_out() -> None:
    std = np.zeros_like(RAMP)
    std[0], std[1] = 1.0, np.nan
    assert error_share(Denoised(RAMP, std, 0)) == pytest.approx((1 / 3) ** 0.5 / 9.92, rel=1e-3)


def test_a_level_below_the_declared_models_is_told_in_words() -> None:
    std = np.full_like(RAMP, 0.5)
    texts = [trust(Denoised(RAMP, std, 0, level)).replace("\xa0", " ") for level in (0, 2, 3)]
    assert texts == [
        "error 5 % of the range",
        "error 5 % of the range · level 2: denoised at half the resolution, segmented on some frames only",
        "error 5 % of the range · level 3: denoised by the fallback",
    ]
    assert trust(Denoised(RAMP, std, 0, 3), brief=True).endswith("level 3")


def test_a_range_is_told_with_as_many_digits_as_tell_its_ends_apart() -> None:
    assert Contrast(99.62, 114.2).text == "99.6 to 114 photons"
    assert Contrast(0.0, 11.3).text == "0 to 11 photons"


def film(folder: Path, level: int = 0, frames: int = 12) -> SessionReader:
    session = Recording(folder)
    for n in range(frames):
        now_s = session.clock.now_s()
        session.step(acquire(scan("confocal")), understood=False) if level < 0 else _step(session, level, n)
        assert session.clock.now_s() > now_s
    return session.end()


def _step(session: Recording, level: int, n: int) -> None:
    decision, now_s = acquire(scan("confocal"), f"frame {n}"), session.clock.now_s()
    booking = session.ledger.reserve(decision.settings)
    session.writer.reserve(booking, session.cycles, now_s)
    frame = session.microscope.acquire(decision.settings)
    session.writer.append_frame(frame, session.cycles)
    session.ledger.settle(booking, booking.lit())
    mean = np.tile(np.linspace(0, 10, frame.photons.shape[1], dtype=np.float32), (frame.photons.shape[0], 1))
    clean = Denoised(mean, np.full_like(mean, 0.5), frame.index, level if n % 2 else 0)
    session.writer.append(Cycle(session.cycles, decision, "regions", frame, clean), now_s)
    session.cycles += 1


def test_a_place_is_shown_over_time_raw_above_denoised_in_the_same_colours(tmp_path: Path) -> None:
    found = report(film(tmp_path / "session"))
    text = found.text
    assert "Visit 1 · confocal, over time" in text
    assert "raw above, denoised below; 8 of 12 denoised frames, all in the same colours" in text
    strip = found.source[found.source.index('<div class="strip">') :]
    strip = strip[: strip.index("</article>")]
    assert strip.count("<figure>") == 8
    assert strip.count("data:image/png") == 16
    assert "frame 0" in strip
    assert "frame 11" in strip
    assert "error 5" in strip
    assert strip.count("<image") == strip.count("<svg") == 16


def test_few_or_no_denoised_frames_make_no_strip(tmp_path: Path) -> None:
    assert "over time" not in report(film(tmp_path / "few", frames=3)).text
    assert "over time" not in report(film(tmp_path / "raw", level=-1)).text


def test_frames_worked_on_below_the_declared_models_are_told_at_the_top(tmp_path: Path) -> None:
    text = report(film(tmp_path / "session", level=3)).text
    assert "Know this before you rely on the rest" in text
    assert (
        "not all of the 12 denoised frames were worked on in full: 6 at level 3 (denoised by the fallback)"
        in text
    )
    assert "Know this before" not in report(film(tmp_path / "full")).text


def test_unreadable_images_are_left_out_of_the_strip(tmp_path: Path) -> None:
    reader = film(tmp_path / "session")
    for chunk in (reader.bundle / "000000_denoised/0/c").rglob("*"):
        if chunk.is_file():
            chunk.write_bytes(b"damaged")
    found = report(reader)
    assert "7 of 12 denoised frames" in found.text
    assert "unreadable" in found.text.lower()


def learned(folder: Path, reason: str = "more photons") -> SessionReader:
    session = Recording(folder)
    session.step(acquire(scan("confocal")))
    weights = b"weights"
    sha256 = hashlib.sha256(weights).hexdigest()
    change = ModelChange("denoiser", sha256, weights, {"of": "a test"}, 1.25, 1.5, reason)
    session.writer.append_model(change, session.cycles)
    session.step(acquire(scan("confocal")))
    return session.end()


def test_what_the_models_learned_is_listed_with_its_scores(tmp_path: Path) -> None:
    reader = learned(tmp_path / "session")
    text = report(reader).text
    row = text[text.index("What the models learned", text.index("Decisions")) :]
    assert "1 0.50 s denoiser 1.25 1.5 more photons" in row.replace("\xa0", " ")
    assert reader.changes[0].sha256[:12] in row
    assert "What the models learned" not in report(film(tmp_path / "other")).text
    assert "script" not in report(learned(tmp_path / "attack", ATTACK)).tags


def test_the_command_lists_what_the_models_learned(tmp_path: Path) -> None:
    learned(tmp_path / "session")
    told = CliRunner().invoke(app, ["report", str(tmp_path / "session")])
    assert "denoiser from cycle 1: score 1.25 -> 1.5, more photons" in told.output
    as_json = json.loads(CliRunner().invoke(app, ["report", str(tmp_path / "session"), "--json"]).output)
    assert [(c["cycle"], c["role"], c["score_after"]) for c in as_json["learned"]] == [(1, "denoiser", 1.5)]
