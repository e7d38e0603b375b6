"""Sums of values computed part by part equal NumPy's sums of the whole, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from hoser_kd.common.array_files import GrowingArray
from hoser_kd.common.pairwise import mean_and_std, pairwise_sum


@pytest.mark.parametrize("count", [1, 7, 128, 129, 1000, 4097, 100_003])
def test_no_rounding_differs(count):
    values = np.random.default_rng(count).lognormal(0, 3, count)
    for at_once in (128, 1000, 1 << 20):
        assert pairwise_sum(lambda first, last: values[first:last], count, at_once) == values.sum()
        statistics = mean_and_std(lambda first, last: values[first:last], count, at_once)
        assert statistics == (values.mean(), values.std())


def test_nothing_has_no_mean():
    assert np.isnan(mean_and_std(lambda _, __: np.zeros(0), 0)).all()


def test_an_array_grows_on_disk(tmp_path):
    with GrowingArray(tmp_path / "values", np.int64) as array:
        array.append(np.arange(3))
        array.append(np.zeros(0))
        array.append(np.arange(5)[::2])
        mapped = array.mapped()
    assert mapped.tolist() == [0, 1, 2, 0, 2, 4]
    assert not mapped.flags.writeable
    assert list(tmp_path.iterdir()) == []
    with GrowingArray(tmp_path / "none", np.float32) as array:
        assert array.mapped().dtype == np.float32
