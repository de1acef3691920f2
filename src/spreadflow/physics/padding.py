"""Tables padded to few sizes, so that few programs are compiled."""

from typing import Any

import jax
import numpy as np


def to_few_sizes(tree: Any, least: int = 64) -> Any:
    """Return the arrays (n, ...) of a tuple with zeros up to 2ᵏ or 1.5·2ᵏ rows, `least` or more."""

    def grown(column: np.ndarray) -> np.ndarray:
        n = len(column)
        power_of_two = max(least, 1 << max(n - 1, 0).bit_length())
        three_quarters = 3 * power_of_two // 4
        size = three_quarters if least <= three_quarters >= n else power_of_two
        other_axes = ((0, 0),) * (np.ndim(column) - 1)
        return np.pad(column, ((0, size - n), *other_axes))

    return jax.tree.map(grown, tree)
