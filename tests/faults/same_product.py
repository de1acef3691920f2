"""Whether two products are equal, whatever happened on the way."""

from pathlib import Path

import numpy as np

from spreadflow.io import store
from spreadflow.products import Product


def assert_same(a: Path, b: Path, product: type[Product]) -> None:
    """Assert that two products are equal in every dataset, bit for bit, but the time spent."""
    first, second = (store.read(path, product).datasets() for path in (a, b))
    assert first.keys() == second.keys()
    for path, column in first.items():
        if not path.endswith("seconds"):
            np.testing.assert_array_equal(second[path], column, err_msg=path)
    keys = [store.attributes(path, product)["key"] for path in (a, b)]
    assert keys[0] == keys[1]
