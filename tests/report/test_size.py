"""Summaries do not hold what they sum up: a product of four times as many parts takes little more
memory.
"""

import tracemalloc

import matplotlib
import numpy as np
import pytest

from spreadflow.io import store
from spreadflow.parallel import World
from spreadflow.products import BY_KIND, Predict
from spreadflow.report import drawn, module_of, style

N_PARTS = 4
"""Parts of the smaller product."""

N_DRAWN = 10
"""Lattices that stand for all."""

LATTICE_BYTES = 1000
"""Bar: memory for each lattice more, which has several thousand in its parts."""

OF_EVERY_FILE = {"kind", "key", "schema", "software", "time"}
"""Attributes that every product has."""


@pytest.fixture
def many_parts(trial, tmp_path):
    """A function that writes a product with the tables of a finished one again and again, each time
    with other shots, and returns its path and the lattices of a part.
    """

    def write(stage: str, n_parts: int):
        path = getattr(trial, stage)
        path = path[0] if isinstance(path, list) else path
        product = BY_KIND[stage]
        tables = store.read(path, product)
        attributes = store.attributes(path, product)
        out = tmp_path / str(n_parts) / path.name
        parts = store.Parts(out, product, "many", [[number] for number in range(n_parts)])
        for number in range(n_parts):
            for table in tables.tables.values():
                if "shot_id" in table.as_dict():
                    table.put("shot_id", table.as_dict()["shot_id"] + np.uint64(1))
            parts.write(number, tables)
        kept = {name: value for name, value in attributes.items() if name not in OF_EVERY_FILE}
        parts.finish(World(), **kept)
        return out, len(tables.tables["lattices"])

    return write


def peak_bytes(stage: str, path) -> int:
    """The most memory that figures and picture of a product take, beside what is there before."""
    with matplotlib.rc_context(style.STYLE):
        tracemalloc.start()
        module_of(stage).make(stage, [path], [])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.stage
@pytest.mark.parametrize("stage", ["reindex", "annulus", "stage1", "predict"])
def test_memory_does_not_grow_with_the_parts(stage, many_parts, monkeypatch):
    monkeypatch.setattr(drawn, "MOST_LATTICES", N_DRAWN)
    few, n_lattices = many_parts(stage, N_PARTS)
    many, _ = many_parts(stage, 4 * N_PARTS)
    peak_bytes(stage, few)  # what is kept from picture to picture is there
    grown = peak_bytes(stage, many) - peak_bytes(stage, few)
    assert grown <= LATTICE_BYTES * 3 * N_PARTS * n_lattices


def test_lattices_are_drawn_by_their_identities():
    """As many as there may be, the same in any order; all where there are no more."""
    rng = np.random.default_rng(1)
    shot_id = rng.integers(0, 2**63, 5000).astype(np.uint64)
    k = np.zeros(5000, dtype=int)
    chosen = drawn.are_drawn(shot_id, k)
    assert chosen.sum() == drawn.MOST_LATTICES
    order = rng.permutation(5000)
    np.testing.assert_array_equal(drawn.are_drawn(shot_id[order], k[order]), chosen[order])
    assert drawn.are_drawn(shot_id[: drawn.MOST_LATTICES], k[: drawn.MOST_LATTICES]).all()


def test_rows_of_drawn_lattices_refer_to_them(trial):
    predict = store.read(trial.predict, Predict)
    chosen = np.arange(len(predict.lattices)) % 3 == 1
    few = drawn.of_drawn(predict, chosen)
    is_chosen = chosen[predict.reflections.lattice]
    assert len(few.lattices) == chosen.sum() and len(few.reflections) == is_chosen.sum() > 0
    np.testing.assert_array_equal(
        few.lattices.shot_id[few.reflections.lattice],
        predict.lattices.shot_id[predict.reflections.lattice[is_chosen]],
    )
