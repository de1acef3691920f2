"""Lists of delays that are evenly spaced, or evenly spaced on a logarithmic axis."""

import numpy as np

MOST_HALVINGS = 20
"""Trials to find as many steps as make the number of distinct delays that was asked for."""


def spaced(start: int, stop: int, number: int, is_logarithmic: bool) -> np.ndarray:
    """Return up to `number` distinct delays from `start` to `stop`, ascending. Where rounding makes
    delays equal, more steps are tried, so that as many as asked for are left if there are any.
    """
    few, many = number, max(number, stop - start + 1) * 2
    if not is_logarithmic:
        return np.unique(np.round(np.linspace(start, stop, number)).astype(np.int64))
    delays = _logarithmic(start, stop, number)
    for _ in range(MOST_HALVINGS):
        if len(delays) == number or many - few < 2:
            break
        middle = (few + many) // 2
        trial = _logarithmic(start, stop, middle)
        if len(trial) <= number:
            few = middle
            delays = trial
        else:
            many = middle
    return delays


def _logarithmic(start: int, stop: int, n_steps: int) -> np.ndarray:
    """Return the distinct whole numbers next to those of a logarithmic axis."""
    return np.unique(np.round(np.geomspace(start, stop, n_steps)).astype(np.int64))
