"""Figures of sweeps: scales and labels of the axes, trials in the order of their results."""

from __future__ import annotations

import numpy as np

from hoser_kd import plots
from hoser_kd.plots.sweeps import _axis


def test_axes_are_logarithmic_over_orders_of_magnitude_and_labels_do_not_overlap():
    heights, ticks = _axis([0.001, 0.01, 0.1])
    np.testing.assert_allclose(heights, [0, 0.5, 1])
    assert [label for _, label in ticks] == ["0.001", "0.01", "0.1"]
    heights, ticks = _axis([1.0, 2.0, 2.01, 5.0])
    np.testing.assert_allclose(heights, [0, 0.25, 0.2525, 1])
    assert [label for _, label in ticks] == ["1", "2", "5"]
    heights, ticks = _axis([["kl"], ["kl", "pooled"], ["kl"]])
    assert heights.tolist() == [0, 1, 0]
    assert [label for _, label in ticks] == ["kl", "kl, pooled"]
    assert _axis([3, 3])[0].tolist() == [0.5, 0.5]


def test_the_best_trial_is_drawn_last_on_top():
    values = [0.4, 0.2, 0.9]
    for lower, best in ((True, 0.2), (False, 0.9)):
        figure = plots.parallel_coordinates({"a.b": [1, 2, 3]}, "metric", values, lower_is_better=lower)
        lines = [line for line in figure.axes[0].lines if len(line.get_ydata()) == 2 and line.get_linewidth() > 1]
        assert lines[-1].get_ydata()[0] == (values.index(best)) / 2
    assert plots.png(plots.importances({"a.b": 0.7, "a.c": 0.3})).startswith(b"\x89PNG")
