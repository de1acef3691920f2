"""Fixtures for all tests."""

from pathlib import Path

import numpy as np
import pytest

from spreadflow.io import schema

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference data beside the checkout; the test is skipped where it is absent."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"reference data not present at {path}")
    return path


@pytest.fixture(scope="session")
def filled():
    """A function that gives all columns of a schema kind: those given, zeros elsewhere."""

    def columns(kind: str, sizes: dict[str, int], given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = {}
        for name, dataset in schema.FILES[kind].items():
            shape = [sizes[d] if isinstance(d, str) else d for d in dataset.dims]
            out[name] = np.asarray(given.get(name, np.zeros(shape)), dtype=dataset.dtype)
        return out

    return columns
