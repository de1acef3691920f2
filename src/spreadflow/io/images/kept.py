"""Memory that is used again from shot to shot: asking for it anew costs as much as filling it."""

import numpy as np
from numpy.typing import DTypeLike


class KeptArrays:
    """Arrays that one shot after the other is read into, each under a name.

    Whoever makes one owns what is read into it: a shot lasts until the next one is read into the
    same arrays, and what is to last longer has to be copied.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """Return the array of a name, C order, with whatever it held last; a new one where there is
        none of this shape and type.
        """
        array = self._arrays.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            array = np.empty(shape, dtype)
            self._arrays[name] = array
        return array
