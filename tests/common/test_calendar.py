"""Weekdays and times of day: agreement with the standard library, and of NumPy with torch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hoser_kd.common.calendar import SECONDS_PER_DAY, hour_of_day, is_weekend, second_of_day

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECONDS = st.lists(st.integers(-(2**33), 2**33), min_size=1, max_size=20)


@given(SECONDS)
def test_numpy_agrees_with_the_standard_library(seconds):
    moments = [EPOCH + timedelta(seconds=value) for value in seconds]
    array = np.array(seconds, np.int64)
    assert is_weekend(array).tolist() == [moment.weekday() >= 5 for moment in moments]
    expected = [moment.hour * 3600 + moment.minute * 60 + moment.second for moment in moments]
    assert second_of_day(array).tolist() == expected
    assert hour_of_day(array).tolist() == [value / 3600 for value in expected]


@given(SECONDS)
def test_torch_agrees_with_numpy(seconds):
    array, tensor = np.array(seconds, np.int64), torch.tensor(seconds)
    np.testing.assert_array_equal(is_weekend(tensor).numpy(), is_weekend(array))
    np.testing.assert_array_equal(second_of_day(tensor).numpy(), second_of_day(array))
    assert is_weekend(tensor).dtype == torch.bool
    assert second_of_day(tensor).dtype == torch.int64


def test_the_weekend_starts_and_ends_at_midnight():
    saturday = 2 * SECONDS_PER_DAY  # 3 January 1970
    at = np.array([saturday - 1, saturday, saturday + 2 * SECONDS_PER_DAY - 1, saturday + 2 * SECONDS_PER_DAY])
    assert is_weekend(at).tolist() == [False, True, True, False]
