"""What the figures of several stages are made with."""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np


def outcome_counts(outcome: np.ndarray, outcomes: type[IntEnum]) -> dict[str, int]:
    """Return how often each outcome happened, by its name in lower case."""
    return {end.name.lower(): int((outcome == end).sum()) for end in outcomes}


def median(values: np.ndarray | Sequence[float]) -> float | None:
    """Return the median, or None where there is no value."""
    return float(np.median(values)) if len(values) else None


def root_mean_square(values: np.ndarray) -> float | None:
    """Return the root of the mean square, or None where there is no value."""
    return float(np.sqrt(np.mean(values**2))) if values.size else None
