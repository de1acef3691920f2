"""The reference of all exact calculators: a plain loop over all two shots of a list."""

import numpy as np

from spreadflow.analysis.correlation.sums import Sums


def double_loop(times: np.ndarray, values: np.ndarray, delays: np.ndarray) -> Sums:
    """Return the sums over all partners among some shots. times: (shot,) distinct int64. values:
    (shot, pixel), as they are correlated. None of the pixels is marked as bad.
    """
    number_of = {int(delay): i for i, delay in enumerate(delays)}
    counts = np.zeros(len(delays), np.int64)
    g2, past, future = np.zeros((3, len(delays), values.shape[1]))
    order = np.argsort(times)
    for place, first in enumerate(order):
        for second in order[place + 1 :]:
            i = number_of.get(int(times[second]) - int(times[first]))
            if i is None:
                continue
            earlier = values[first].astype(np.float64)
            later = values[second].astype(np.float64)
            counts[i] += 1
            g2[i] += earlier * later
            past[i] += earlier
            future[i] += later
    is_bad = np.zeros(values.shape[1], np.int8)
    return Sums(np.asarray(delays, np.int64), counts, g2, past, future, is_bad)
