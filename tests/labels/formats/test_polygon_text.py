"""Text files of polygons are read by a grammar; whatever else is in them is refused by its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.labels.formats.labelled import MAX_FILE_BYTES, LabelFileError
from controller.labels.formats.polygon_text import MAX_BYTES, format_polygons, parse_polygons, read_polygons

CORNER = st.tuples(
    st.floats(-0.5, 1e6, allow_nan=False).map(lambda v: round(v * 64) / 64),
    st.floats(-0.5, 1e6, allow_nan=False).map(lambda v: round(v * 64) / 64),
)


def test_a_file_as_the_field_writes_it_is_read_with_x_before_y_and_corners_at_pixel_edges(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.polys.txt"
    path.write_bytes(
        b"\xef\xbb\xbf0 (53.480000, 1.400000), (22.4, 46.2), (44.8, 58.8)\r\n\r\n3 (0,0),(9,0),(9,9)"
    )
    first, second = read_polygons(path)
    assert first.class_number == 0
    assert first.vertices_yx[0] == pytest.approx((0.9, 52.98))
    assert (second.class_number, second.line) == (3, 3)
    assert second.vertices_yx == ((-0.5, -0.5), (-0.5, 8.5), (8.5, 8.5))


def test_an_empty_file_has_no_polygons(tmp_path: Path) -> None:
    (tmp_path / "a.polys.txt").write_text("\n  \n")
    assert read_polygons(tmp_path / "a.polys.txt") == []


@given(st.lists(st.tuples(st.integers(0, 99), st.lists(CORNER, min_size=3, max_size=8)), max_size=5))
def test_what_is_written_is_read_again(polygons: list[tuple[int, list[tuple[float, float]]]]) -> None:
    read = [(p.class_number, list(p.vertices_yx)) for p in parse_polygons(format_polygons(polygons))]
    assert read == polygons


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("__import__('os').system('true')", "line 1, column 1"),
        ("0 __import__('os')", r"line 1, column 3: expected '\(', found \"__import__"),
        ("0 (1, 2), (3, 4), (5, 6)\n1 (1, 2), (exit(), 4), (5, 6)", "line 2, column 12"),
        ("0 " + "(" * 100_000, "line 1, column 4: expected a number"),
        ("0 (nan, 2), (3, 4), (5, 6)", "line 1, column 4: expected a number, found 'nan"),
        ("0 (1, inf), (3, 4), (5, 6)", "column 7"),
        ("0 (1e999, 2), (3, 4), (5, 6)", "column 4"),
        ("0 (0x10, 2), (3, 4), (5, 6)", "column 4"),
        ("0 (1_0, 2), (3, 4), (5, 6)", "column 4"),
        ("0 (" + "9" * 5000 + ", 2), (3, 4), (5, 6)", "column 4"),
        ("0 [1, 2], (3, 4), (5, 6)", r"column 3: expected '\('"),
        ("0 (1, 2], (3, 4), (5, 6)", r"column 8: expected '\)', found '\]"),
        ("0 (1, 2), (3, 4), (5, 6", "column 24: .* found the end of the line"),
        ("0 (1, 2), (3, 4), (5, 6),", "found the end of the line"),
        ("0 (1, 2), (3, 4), (5, 6); 7", "column 25: expected ','"),
        ("0 (1, 2), (3, 4)", "line 1: a polygon has at least 3 corners, this has 2"),
        ("0", "line 1, column 1: expected the number of a class"),
        ("-1 (1, 2), (3, 4), (5, 6)", "column 1"),
        ("0 (1, 2), (3, 4), (5, ٦)", "column 23"),
        ("\x00", "column 1"),
        ("0 " + ", ".join(["(1, 2)"] * 10_001), "no more than 10000 corners"),
        ("0 (1, 2), (3, 4), (5, 7)\n" * 10_001, "line 10001: more than 10000 polygons"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused_by_line_and_column(
    text: str, place: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.polys.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LabelFileError, match=place):
        read_polygons(path)


def test_a_file_too_large_for_polygons_or_for_labels_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.polys.txt"
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(LabelFileError, match=f"allowed are {MAX_BYTES}"):
        read_polygons(path)
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(LabelFileError, match="split it"):
        read_polygons(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.polys.txt").write_bytes(b"0 (1, 2)\xff")
    with pytest.raises(LabelFileError, match="byte 8"):
        read_polygons(tmp_path / "a.polys.txt")
