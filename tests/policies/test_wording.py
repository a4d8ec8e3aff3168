from __future__ import annotations

import pytest

from policies.wording import place_in_words, settings_in_words


@pytest.mark.parametrize(
    ("center_yx_m", "words"),
    [
        ((-3.4e-6, 1.2e-6), "x 1.2 µm, y -3.4 µm"),
        ((-1e-9, 0.0), "x 0.0 µm, y 0.0 µm"),
        ((1.234e-4, -9.96e-6), "x -10.0 µm, y 123.4 µm"),
    ],
)
def test_a_place_is_told_x_first_in_micrometres(center_yx_m: tuple[float, float], words: str) -> None:
    assert place_in_words(center_yx_m) == words


def test_settings_are_told_in_units_that_people_use() -> None:
    values = {"dwell_s": 4.24e-5, "excitation_w": 3.93e-6, "sted_w": 0.197, "pixel_size_m": 20e-9}
    words = "dwell 42 µs, excitation 3.9 µW, STED 197 mW, pixels 20 nm"
    assert settings_in_words(values) == words
    assert settings_in_words({"sted_w": 0.0, "excitation_w": 9.97e-6}) == "STED 0 mW, excitation 10 µW"
