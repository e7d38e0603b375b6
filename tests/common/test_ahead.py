"""Results are computed one item ahead."""

from __future__ import annotations

import threading

import pytest

from hoser_kd.common.ahead import computed_ahead


def test_items_come_with_their_results_in_order() -> None:
    assert [*computed_ahead(lambda value: value * value, range(5))] == [(k, k * k) for k in range(5)]
    assert [*computed_ahead(str, [])] == []


def test_the_next_result_is_computed_while_the_caller_works() -> None:
    begun = [threading.Event() for _ in range(3)]
    caller_works = threading.Event()

    def work(number: int) -> bool:
        begun[number].set()
        return number == 0 or caller_works.wait(5)

    pairs = computed_ahead(work, range(3))
    assert next(pairs) == (0, True)
    assert begun[1].wait(10)
    assert not begun[2].is_set()
    caller_works.set()
    assert [*pairs] == [(1, True), (2, True)]


def test_an_error_is_raised_where_its_item_would_come() -> None:
    pairs = computed_ahead(lambda value: 1 // value, [1, 0])
    assert next(pairs) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(pairs)
