from __future__ import annotations

import numpy as np
import pytest

from policies.box_filters import box_mean, box_sum


def test_box_sums_are_those_of_counting_each_box() -> None:
    image = np.random.default_rng(7).random((9, 13))
    sums = box_sum(image, 2)
    for row, column in ((0, 0), (4, 6), (8, 12), (2, 11)):
        box = image[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
        assert sums[row, column] == pytest.approx(box.sum())
        assert box_mean(image, 2)[row, column] == pytest.approx(box.mean())
