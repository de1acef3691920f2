"""Weights of templates: one iteration against its formula, and strides against iterations."""

import numpy as np
from scipy.sparse import csr_matrix

from spreadflow.analysis.pixels import component_weights, weight_loops
from spreadflow.analysis.pixels.weight_loops import LitPixels

FACTOR = 10.0
"""Of the templates."""


def drawn() -> tuple[np.ndarray, LitPixels, np.ndarray]:
    """Templates (pixel, node) that overlap, as a matrix and with their pixels, and true weights."""
    rng = np.random.default_rng(3)
    pixel, node = np.mgrid[:200, :40]
    templates = 50.0 * np.exp(-0.5 * ((pixel / 5.0 - node) / 2.0) ** 2)
    templates = np.where(templates > 0.1, templates, 0.0).astype(np.float32)
    true = np.where(np.arange(40) % 7 == 0, 1.0, 0.0)
    true /= true.sum()
    counted = rng.poisson(FACTOR * templates @ true + 2.0).astype(float)
    rows = csr_matrix(templates)
    share = rng.uniform(0.5, 1.0, 200)
    lit = LitPixels(rows.indptr, rows.indices, rows.data, counted, np.full(200, 2.0), share)
    return templates, lit, true


def expectation(templates: np.ndarray, lit: LitPixels) -> component_weights.Expectation:
    """What the pixels say at the factor."""
    return component_weights.Expectation(lit, FACTOR, FACTOR * templates.T @ lit.counting_share)


def loss(templates: np.ndarray, lit: LitPixels, weight: np.ndarray) -> float:
    """What iterations make smaller."""
    model = FACTOR * templates @ weight + lit.background
    return float(lit.counting_share @ (model - lit.counted * np.log(model)))


def test_what_is_observed_of_each_node():
    templates, lit, true = drawn()
    weight = 0.5 * true + 0.5 / 40
    model = FACTOR * templates @ weight + lit.background
    expected = FACTOR * templates.T @ (lit.counting_share * lit.counted / model)
    np.testing.assert_allclose(weight_loops.observed(lit, FACTOR, weight), expected, rtol=1e-5)


def test_strides_go_farther_than_the_iterations_they_take():
    """Ten strides take thirty iterations and are worth more than sixty; no weight remains none."""
    templates, lit, _ = drawn()
    expectations = [expectation(templates, lit)]
    start = np.full(40, 1.0 / 39)
    start[5] = 0.0
    by_iteration = by_stride = start
    for _ in range(60):
        by_iteration = component_weights.iterated(
            by_iteration, expectations, component_weights.sum_up
        )
    for _ in range(10):
        by_stride = component_weights.after_stride(
            by_stride, expectations, component_weights.sum_up
        )
    assert loss(templates, lit, by_stride) < loss(templates, lit, by_iteration)
    assert by_stride.min() == by_stride[5] == 0.0
    np.testing.assert_allclose(by_stride.sum(), 1.0)
