"""Bootstrap intervals: how often they hold the truth, and what they are made of."""

import math

import numpy as np
import pytest

from airpipe.reporting.intervals import Sampled, interval, mean


@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_the_interval_of_95_percent_holds_the_true_mean_in_93_to_97_percent_of_experiments(kind):
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(500):
        values = generator.normal(size=68) if kind == "normal" else generator.gamma(4, size=68) - 4
        low, high = interval([Sampled("cbsd68", values)])
        hits += low <= 0 <= high
    assert 465 <= hits <= 485


def test_equal_scores_give_equal_intervals_around_their_mean():
    values = np.random.default_rng(0).normal(28, 4, 50)
    low, high = interval([Sampled("a", values)])
    assert (low, high) == interval([Sampled("a", values.copy())])
    assert low < values.mean() < high
    half = 1.96 * values.std(ddof=1) / math.sqrt(50)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_measurements_on_the_same_images_are_drawn_together():
    values = np.random.default_rng(1).normal(0, 1, 60)
    together = interval([Sampled("a", values), Sampled("a", values)])
    assert together == pytest.approx(interval([Sampled("a", values)]))  # the same photographs twice tell nothing new
    apart = interval([Sampled("a", values), Sampled("b", values)])
    assert (apart[1] - apart[0]) / (together[1] - together[0]) == pytest.approx(1 / math.sqrt(2), rel=0.1)


def test_weights_are_relative():
    parts = [Sampled("a", np.array([1.0, 3.0]), 2.0), Sampled("b", np.array([8.0, 8.0]), 6.0)]
    assert mean(parts) == pytest.approx((2 * 2 + 6 * 8) / 8)


@pytest.mark.parametrize("values", [[30.0], [30.0, math.inf], [math.inf, math.inf]])
def test_one_image_that_counts_or_none_has_no_interval(values):
    assert all(math.isnan(end) for end in interval([Sampled("a", np.array(values))]))


def test_infinite_values_count_neither_in_means_nor_in_intervals_unless_all_are():
    finite = np.random.default_rng(2).normal(28, 4, 20)
    values = np.insert(finite, [3, 20], math.inf)
    assert mean([Sampled("a", values)]) == pytest.approx(finite.mean())
    assert interval([Sampled("a", values)]) == interval([Sampled("a", finite)])
    assert mean([Sampled("a", np.full(3, math.inf))]) == math.inf


def test_images_that_count_in_one_measurement_only_are_not_drawn_as_if_they_were_the_others():
    values = np.random.default_rng(4).normal(0, 1, 40)
    shifted = np.insert(values[:-1], 0, math.inf)  # as many values as below, of other images
    together = interval([Sampled("a", values), Sampled("a", values)])
    apart = interval([Sampled("a", values), Sampled("a", shifted)])
    assert apart[1] - apart[0] < 0.85 * (together[1] - together[0])
