"""Populations of cells in JSON and in covariance pickles of uc_metrics, of which nothing is run."""

import json
import pickle
import pickletools
import sys

import numpy as np
import pytest

import uc_metrics_pickle
from spreadflow.analysis.merging import cells
from spreadflow.errors import FileError
from spreadflow.io import frozen_cells, pickled_records, store
from uc_metrics_pickle import OtherPrograms

FEATURES = ["a", "b", "c"]
LOCATION = np.array([[117.0, 223.0, 308.6], [116.1, 221.5, 306.9]])
COVARIANCE = np.array([np.diag([0.09, 0.16, 0.25]) + 0.01, np.diag([0.04, 0.09, 0.16]) - 0.01])


@pytest.fixture
def uc_metrics(monkeypatch) -> type:
    return uc_metrics_pickle.plant_uc_metrics(monkeypatch)


@pytest.fixture
def other_programs(uc_metrics, monkeypatch) -> OtherPrograms:
    return OtherPrograms(uc_metrics, uc_metrics_pickle.plant_scikit_learn(monkeypatch))


def content(other_programs: OtherPrograms) -> dict:
    """What uc_metrics pickles of these populations."""
    return uc_metrics_pickle.content(other_programs, FEATURES, LOCATION, COVARIANCE)


def assert_same(frozen: frozen_cells.FrozenCells) -> None:
    """Check that populations are those that were pickled."""
    assert frozen.features == FEATURES
    assert frozen.space_group is None
    assert frozen.mean is None
    assert frozen.chosen == 0
    np.testing.assert_array_equal(frozen.n, [3, 2])
    np.testing.assert_array_equal(frozen.location, LOCATION)
    np.testing.assert_array_equal(frozen.covariance, COVARIANCE)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_covariance_pickle_is_read_without_the_programs_that_it_names(
    protocol, other_programs, tmp_path, monkeypatch
):
    path = tmp_path / "covariance.pickle"
    path.write_bytes(pickle.dumps(content(other_programs), protocol))
    for name in list(sys.modules):
        if name.startswith("uc_metrics"):
            monkeypatch.delitem(sys.modules, name)
    assert_same(frozen_cells.read(path))
    assert not any(name.startswith("uc_metrics") for name in sys.modules)


@pytest.mark.stage
def test_distances_are_those_of_scikit_learn_itself(uc_metrics, tmp_path):
    """cctbx.xfel.merge keeps a lattice by the root of what this estimator calls a distance."""
    from sklearn.covariance import EmpiricalCovariance

    pickled = content(OtherPrograms(uc_metrics, EmpiricalCovariance))
    path = tmp_path / "covariance.pickle"
    path.write_bytes(pickle.dumps(pickled, 4))
    assert b"_sklearn_version" in path.read_bytes()
    frozen = frozen_cells.read(path)
    assert_same(frozen)

    x = LOCATION[:1] + np.array([[0.3, -0.8, 0.4], [-1.0, 1.5, 2.0]])
    of_both = zip(pickled["populations"].fit_components, frozen.location, strict=True)
    for (estimator, location), covariance in zip(of_both, frozen.covariance, strict=True):
        ours = cells.mahalanobis(x, location, covariance)
        np.testing.assert_allclose(ours**2, estimator.mahalanobis(x))


class Harm:
    """A pickle of it writes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class Indirect:
    """A pickle of it looks up a function by its name."""

    def __reduce__(self):
        return getattr, ("text", "upper")


@pytest.mark.parametrize("where", ["populations", "features", "info", "sample", "beside"])
def test_nothing_of_a_pickle_is_executed(where, other_programs, tmp_path):
    path = tmp_path / "covariance.pickle"
    harm = tmp_path / "harm"
    path.write_bytes(pickle.dumps(content(other_programs) | {where: Harm(harm)}, 4))
    with pytest.raises(FileError, match=r"the name (_io|io|builtins)\.open"):
        frozen_cells.read(path)
    assert not harm.exists()


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "numpy.load", "sklearn.covariance"])
def test_names_that_are_not_listed_are_refused(name, tmp_path):
    module, _, attribute = name.rpartition(".")
    path = tmp_path / "x.pickle"
    path.write_bytes(f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(pickle.UnpicklingError, match=name):
        pickled_records.read(path, frozen_cells.NAMED)
    with pytest.raises(FileError, match=name):
        frozen_cells.read(path)


def test_a_name_within_a_listed_one_is_refused(tmp_path):
    """`numpy.dtype.mro` and the like: dots of a name are followed by other unpicklers."""
    opcodes = pickle.dumps(Indirect(), 4)
    assert any("getattr" in str(argument) for _, argument, _ in pickletools.genops(opcodes))
    (tmp_path / "a").write_bytes(opcodes)
    dotted = b"\x80\x04\x8c\x05numpy\x8c\x09dtype.mro\x93."
    (tmp_path / "b").write_bytes(dotted)
    for path in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(pickle.UnpicklingError, match="the name"):
            pickled_records.read(path, frozen_cells.NAMED)


def test_what_one_pickle_sets_is_not_there_for_the_next(tmp_path):
    """A pickle may set attributes of what a name stands for, which is another one each time."""
    path = tmp_path / "x.pickle"
    path.write_bytes(b"\x80\x04cnumpy\ndtype\n.")
    first, second = (pickled_records.read(path, ()) for _ in range(2))
    assert first is not second
    first.name = "changed"
    assert second.name == "numpy.dtype"
    assert pickled_records.Record.name == ""


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(4, dtype=">i4"),
        np.array([True, False]),
        np.float32(2.5),
        np.int64(-3),
    ],
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_numbers_come_back(array, protocol, tmp_path):
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(array, protocol))
    back = pickled_records.value(pickled_records.read(path, ()))
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([{}], object), np.array([1j])])
def test_arrays_of_anything_but_real_numbers_are_refused(array, tmp_path):
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(array, 4))
    with pytest.raises(ValueError, match="type"):
        pickled_records.value(pickled_records.read(path, ()))


def broken(other_programs, what: str):
    """The content of a pickle with one thing wrong."""
    good = content(other_programs)
    populations = vars(good["populations"])
    fits = populations["fit_components"]
    if what == "not a mapping":
        return [good]
    if what == "no populations":
        del good["populations"]
    if what == "no components":
        populations["fit_components"] = populations["main_components"] = []
    if what == "components without names":
        populations["main_components"] = [np.int64(1)]
    if what == "a number of features":
        good["features"] = 3
    if what == "one component":
        populations["fit_components"] = fits[0]
    if what == "text for a covariance":
        vars(fits[0])["covariance_"] = "diagonal"
    if what == "unknown feature":
        good["features"] = ["a", "b", "volume"]
    if what == "another number of features":
        good["features"] = ["a", "b"]
    if what == "no covariance":
        vars(fits[0])["covariance_"] = np.diag([1.0, -1.0, 1.0])
    if what == "components of unlike size":
        vars(fits[1])["location_"] = np.zeros(2)
    return good


@pytest.mark.parametrize(
    "what",
    [
        "not a mapping",
        "no populations",
        "no components",
        "components without names",
        "a number of features",
        "one component",
        "text for a covariance",
        "unknown feature",
        "another number of features",
        "no covariance",
        "components of unlike size",
    ],
)
def test_pickles_that_hold_no_populations_are_refused(what, other_programs, tmp_path):
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(broken(other_programs, what), 4))
    with pytest.raises(FileError, match="populations of cells"):
        frozen_cells.read(path)


@pytest.mark.parametrize("whole", [b"", b"no pickle", b"\x80\x04", b"cnumpy\ndtype\n", b"I1\n."])
def test_bytes_that_are_no_pickle_are_refused(whole, tmp_path):
    path = tmp_path / "x.pickle"
    path.write_bytes(whole)
    with pytest.raises(FileError, match="covariance pickle of uc_metrics"):
        frozen_cells.read(path)
    with pytest.raises(FileError, match="nothing"):
        frozen_cells.read(tmp_path / "no.pickle")


@pytest.fixture
def product(tmp_path, filled):
    """A cells.h5 of two populations."""
    planted = {
        "clusters/n": [3, 2],
        "clusters/mean": np.hstack([LOCATION, np.full((2, 3), 90.0)]),
        "clusters/location": LOCATION,
        "clusters/covariance": COVARIANCE,
        "lattices/cluster": [0, 0, -1, 1, 0, 1],
    }
    content = filled("cells", {"lattices": 6, "clusters": 2, "features": 3}, planted)
    path = tmp_path / "cells.h5"
    store.write(path, content, key="k", space_group="P 21 21 21", features=FEATURES, chosen=1)
    return path


def test_json_has_the_populations_of_a_product(product, tmp_path):
    [path] = frozen_cells.export(product, tmp_path / "cells")
    assert path.name == "cells_populations.json"
    written = json.loads(path.read_text())
    assert written["labels"] == [0, 0, -1, 1, 0, 1]
    assert written["features"] == FEATURES
    assert written["space_group"] == "P 21 21 21"
    assert written["populations"][1]["n"] == 2

    from_json = frozen_cells.read(path)
    from_product = frozen_cells.read(product)
    for own, other in zip(from_json, from_product, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"features": ["a", "b", "volume"]}, "volume"),
        ({"features": FEATURES, "chosen": 2}, "chosen"),
        ({"populations": []}, "populations"),
        ({"more": 1}, "more"),
        ({"labels": None}, "labels"),
    ],
)
def test_json_that_holds_no_populations_is_refused(change, place, product, tmp_path):
    [path] = frozen_cells.export(product, tmp_path / "cells")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FileError, match=place):
        frozen_cells.read(path)
