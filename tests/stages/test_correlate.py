"""correlate in one process: against its double loop, with the user's class, as configured."""

import json
import logging
import sys
from collections import OrderedDict
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from spreadflow import cli
from spreadflow.analysis.correlation.history import History
from spreadflow.analysis.correlation.multi_tau import delays_of
from spreadflow.callbacks import CALLBACKS, UserCorrelation
from spreadflow.config.correlate import CorrelateSection, SpeckleSection
from spreadflow.errors import ConfigError, FileError
from spreadflow.io.g2 import differences
from spreadflow.log import logger
from spreadflow.parallel import World
from spreadflow.report import correlate as report
from spreadflow.stages import correlate, correlation_callbacks, parcorana
from spreadflow.stages.correlation_setting import Request, setting_of
from spreadflow.stages.correlation_source import source_of
from spreadflow.stages.correlation_workers import WorkerData

SIMULATED = {
    "n_shots": 200,
    "shape": [3, 5],
    "missing": 0.1,
    "duplicate": 0.1,
    "disordered": 0.2,
    "n_dead": 1,
    "n_saturated": 1,
    "mean_photons": 3.0,
}


def section(folder: Path, **keys) -> CorrelateSection:
    """Return a section with outputs in a folder."""
    defaults = {
        "simulated": SIMULATED,
        "delays": [1, 2, 5, 11, 30],
        "buffer_shots": 60,
        "block_shots": 32,
        "out": str(folder / "g.h5"),
        "test_out": str(folder / "t.h5"),
    }
    return CorrelateSection.model_validate(defaults | keys)


@pytest.mark.parametrize("buffer_shots", [60, 20])
@pytest.mark.parametrize("calculator", ["accumulating", "windowed", "at_end"])
def test_outputs_equal_those_of_the_double_loop(tmp_path, calculator, buffer_shots):
    """The shorter buffer reaches not as far as the longest delay, and shots are late for it."""
    request = Request(section(tmp_path, calculator=calculator, buffer_shots=buffer_shots))
    correlate.run(request, World())
    correlate.run_alternate(request)
    worst, lines = differences(tmp_path / "g.h5", tmp_path / "t.h5", 1e-6)
    assert lines == []
    assert worst < 1e-6
    figures, of_loop = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "gt")
    ids = source_of(request.section).shot_ids
    assert figures["n_events"] == len(ids)
    counted = ("n_events", "n_dropped", "n_duplicates", "n_late")
    assert [figures[name] for name in counted] == [of_loop[name] for name in counted]
    if buffer_shots == 60:
        assert figures["n_duplicates"] == len(ids) - len(np.unique(ids)) > 5
        assert figures["n_late"] == 0


def test_shots_that_are_late_and_delays_out_of_reach_are_the_same_in_the_double_loop(tmp_path):
    simulated = SIMULATED | {"late": 0.05, "late_shots": 40}
    own = section(tmp_path, simulated=simulated, buffer_shots=20)
    correlate.run(Request(own), World())
    correlate.run_alternate(Request(own))
    assert differences(tmp_path / "g.h5", tmp_path / "t.h5", 1e-6)[1] == []
    figures, of_loop = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "gt")
    assert figures["n_late"] == of_loop["n_late"] > 5
    with h5py.File(tmp_path / "g.h5") as file:
        (update,) = file["user"].values()
        assert update["delay_counts"][-1] == 0 < update["delay_counts"][0]


def test_multi_tau_has_an_even_number_of_lags(tmp_path):
    with pytest.raises(ValidationError, match="multiple of 2"):
        section(tmp_path, calculator="multi_tau", n_lags=7)


def test_multi_tau_has_no_double_loop(tmp_path):
    request = Request(section(tmp_path, calculator="multi_tau", n_levels=2))
    correlate.run(request, World())
    with pytest.raises(ConfigError, match="Multi-tau"):
        correlate.run_alternate(request)


def test_every_update_is_in_the_file_in_the_old_layout(tmp_path):
    correlate.run(Request(section(tmp_path, update_shots=64)), World())
    with h5py.File(tmp_path / "g.h5") as file:
        updates = sorted(file["user"], key=lambda name: int(name.split("_")[-1]))
        assert len(updates) == 4
        last = file["user"][updates[-1]]
        n = last["delay_counts"][()]
        assert (np.diff(n) < 0).all()
        sums = last["sums/G2"][()]
        np.testing.assert_allclose(last["G2/delay_000005"][()].ravel(), sums[2] / n[2], rtol=1e-6)
        assert last["is_bad"][-1] == 1
        assert last["delay_curve_color_1"].shape == (5,)
        assert file["system/system_params/times"][()] == 60


class Contrast:
    """A user's class that calculates something else: mean, and mean of squares."""

    def __init__(self, user_params, system_params, mpiParams, testAlternate):
        self.scale = user_params["scale"]
        self.delays = system_params["delays"]
        assert mpiParams.maskNdarrayCoords.dtype == bool

    def fwArrayNames(self):
        return ["SQ"]

    def serverEventOk(self, evt):
        return evt.shot_id % 3 != 0

    def serverFinalDataArray(self, dataArray, evt):
        return None if evt.shot_id % 5 == 0 else dataArray * self.scale

    def workerInit(self, numElementsWorker):
        self.sums = np.zeros((len(self.delays), numElementsWorker))
        self.n = np.zeros(len(self.delays), np.int64)

    def workerAdjustData(self, data):
        data += 1

    def workerBeforeDataRemove(self, tm, row, workerData):
        assert workerData.minTimeForStoredData() == tm
        self.sums -= workerData.X[row].astype(float) ** 2
        self.n -= 1

    def workerAfterDataInsert(self, tm, row, workerData):
        assert workerData.tm2idx(tm) == row
        self.sums += workerData.X[row].astype(float) ** 2
        self.n += 1

    def workerCalc(self, workerData):
        flags = np.zeros(self.sums.shape[1], np.int8)
        return {"SQ": self.sums}, self.n, flags

    def viewerPublish(self, counts, lastEventTime, name2delay2ndarray, int8array, h5GroupUser):
        group = h5GroupUser.create_group(f"at_{lastEventTime['counter']}")
        group["mean_square"] = name2delay2ndarray["SQ"][1] / counts[0]
        group["n"] = counts[0]


@pytest.mark.parametrize("is_alternate", [False, True])
def test_one_process_has_one_object_of_a_class(tmp_path, is_alternate):
    objects = []

    class Counted:
        def __init__(self, user_params, system_params, mpiParams, testAlternate):
            objects.append(testAlternate)
            self.n_read = 0

        def serverEventOk(self, evt):
            self.n_read += 1
            return True

        def viewerPublish(self, counts, lastEventTime, name2delay2ndarray, int8array, h5GroupUser):
            h5GroupUser["n_read"] = self.n_read

    request = Request(section(tmp_path), Counted)
    if is_alternate:
        correlate.run_alternate(request)
    else:
        correlate.run(request, World())
    assert objects == [is_alternate]
    with h5py.File(tmp_path / ("t.h5" if is_alternate else "g.h5")) as file:
        assert file["user/n_read"][()] == len(source_of(request.section).shot_ids)


def test_what_else_a_user_calculates_needs_another_way_to_be_compared_with(tmp_path):
    own = section(tmp_path, user_params={"scale": 2.0})
    with pytest.raises(ConfigError, match=r"Contrast.calcAndPublishForTestAlt: .*\['SQ'\]"):
        correlate.run_alternate(Request(own, Contrast))
    assert not list(tmp_path.iterdir())


def test_what_a_worker_is_asked_for_each_shot_sorts_no_times(monkeypatch):
    rng = np.random.default_rng(2)
    data = WorkerData(20, 1)
    assert data.empty()
    with pytest.raises(IndexError):
        data.maxTimeForStoredData()
    for time in rng.permutation(np.repeat(np.arange(60), 2)).tolist():
        data.history.insert(np.array([time]))
        times = data.timesForStoredData()
        with monkeypatch.context() as forbidding:
            forbidding.setattr(History, "times", property(lambda self: pytest.fail("sorted")))
            ends = (data.minTimeForStoredData(), data.maxTimeForStoredData())
            assert (data.empty(), data.filledX()) == (False, len(times) == 20)
        assert ends == (times[0], times[-1])


class EarlyContrast(Contrast):
    """The same by the earlier names."""

    workerBeforeDataRemove = None
    workerAfterDataInsert = None

    def workerAdjustTerms(self, mode, dataIdx, pivotIndex, lenT, T, X):
        assert T[pivotIndex] == T[:lenT].min()
        self.sums += mode * X[dataIdx].astype(float) ** 2
        self.n += mode

    def workerCalc(self, T, numTimesFilled, X):
        np.testing.assert_allclose(np.sum(X.astype(float) ** 2, axis=0), self.sums[0])
        assert (np.diff(T) > 0).all()
        assert len(T) == numTimesFilled
        return super().workerCalc(None)


@pytest.mark.parametrize("user_class", [Contrast, EarlyContrast])
def test_a_user_calculates_something_else_by_either_names(tmp_path, user_class):
    own = section(tmp_path, user_params={"scale": 2.0})
    correlate.run(Request(own, user_class), World())

    source = source_of(own)
    held = {}
    n_kept = 0
    for block in source.blocks(0, 1, lambda _event: True):
        for shot_id, image in zip(block.shot_ids.tolist(), block.images, strict=True):
            if shot_id % 3 and shot_id % 5:
                n_kept += 1
                held.setdefault(shot_id, image * 2.0 + 1)
    newest = sorted(held)[-60:]
    expected = np.mean([held[time].astype(float) ** 2 for time in newest], axis=0)
    with h5py.File(tmp_path / "g.h5") as file:
        (update,) = file["user"].values()
        assert update["n"][()] == 60
        np.testing.assert_allclose(update["mean_square"][()], expected, rtol=1e-6)
    figures = json.loads((tmp_path / "g.json").read_text())
    assert figures["n_events"] == n_kept


N_BEFORE, N_AFTER = 32, 96
"""Shots before and after which there is no beam: two whole blocks."""


def stored(folder: Path, **how) -> dict:
    """Write shots to a file; return keys of them. how: arguments of h5py."""
    images = np.random.default_rng(4).poisson(3.0, (160, 3, 5)).astype(np.float32)
    with h5py.File(folder / "shots.h5", "w") as file:
        file.create_dataset("images", data=images, chunks=(1, 3, 5), **how)
    return {"simulated": None, "files": [str(folder / "shots.h5")], "dataset": "images"}


def has_beam(event) -> bool:
    """Whether there is beam."""
    return not N_BEFORE <= event.shot_id < N_AFTER


class Refusing:
    """A user's class that refuses shots without beam."""

    def serverEventOk(self, evt):
        return has_beam(evt)


class Dropping:
    """A user's class that drops them when it has seen their image."""

    def serverFinalDataArray(self, dataArray, evt):
        return dataArray if has_beam(evt) else None


@pytest.mark.parametrize("user_class", [Refusing, Dropping, None])
def test_blocks_without_a_shot_are_counted(tmp_path, user_class):
    keys = stored(tmp_path, compression="gzip")
    if user_class is None:
        path = tmp_path / "shots.h5"
        with h5py.File(path) as file:
            chunk = file["images"].id.get_chunk_info
            places = [chunk(i).byte_offset for i in range(N_BEFORE, N_AFTER)]
        damaged = bytearray(path.read_bytes())
        for place in places:
            damaged[place : place + 8] = bytes(8)
        path.write_bytes(damaged)
    correlate.run(Request(section(tmp_path, **keys, update_shots=32), user_class), World())
    figures = json.loads((tmp_path / "g.json").read_text())
    assert (figures["n_events"], figures["n_dropped"]) == (96, 64)
    with h5py.File(tmp_path / "g.h5") as file:
        counts = [update["delay_counts"][0] for update in file["user"].values()]
        assert sorted(counts) == [31, 62, 94]


@pytest.mark.parametrize("calculator", ["accumulating", "fft", "multi_tau"])
def test_a_run_without_shots_has_an_output_of_none(tmp_path, calculator):
    keys = {**stored(tmp_path), "calculator": calculator}
    keys["two_time"] = {"n_shots": 20, "n_ages": 2}
    dark = type("Dark", (), {"serverEventOk": lambda self, evt: False})
    request = Request(section(tmp_path, **keys), dark)
    handler = Telling()
    log = logger("correlate", World())
    log.addHandler(handler)
    try:
        correlate.run(request, World())
    finally:
        log.removeHandler(handler)
    assert "no shot was correlated: the output has none" in handler.said
    figures = json.loads((tmp_path / "g.json").read_text())
    assert (figures["n_events"], figures["n_dropped"], figures["contrast"]) == (0, 160, {})
    if calculator != "multi_tau":
        correlate.run_alternate(request)
        _, lines = differences(tmp_path / "g.h5", tmp_path / "t.h5", 0.0)
        assert all("two_time" in line or "twotime" in line for line in lines)


class OnlyScaled:
    """A user's class that differs in one callback alone."""

    def __init__(self, user_params, system_params, mpiParams, testAlternate):
        pass

    def workerAdjustData(self, data):
        data *= 2


def test_what_a_user_leaves_out_is_as_without_a_class(tmp_path):
    correlate.run(Request(section(tmp_path)), World())
    scaled = section(tmp_path, out=str(tmp_path / "s.h5"))
    correlate.run(Request(scaled, OnlyScaled), World())
    with h5py.File(tmp_path / "g.h5") as one, h5py.File(tmp_path / "s.h5") as two:
        (name,) = one["user"]
        own, other = (file["user"][name] for file in (one, two))
        np.testing.assert_allclose(other["sums/IP"][:, 1:], 2 * own["sums/IP"][:, 1:], rtol=1e-5)
        np.testing.assert_array_equal(other["delay_counts"], own["delay_counts"])


class Wrong(Contrast):
    """A user's class whose arrays have another shape than agreed."""

    def workerCalc(self, workerData):
        return {"SQ": self.sums[1:]}, self.n, np.zeros(self.sums.shape[1], np.int8)


def test_a_wrong_shape_names_the_callback(tmp_path):
    own = section(tmp_path, user_params={"scale": 1.0})
    with pytest.raises(ConfigError, match=r"Wrong\.workerCalc: expected SQ of shape \(5, 15\)"):
        correlate.run(Request(own, Wrong), World())
    assert (tmp_path / "g.h5.inprogress").exists()


class Minimal:
    """A user's class with one method, and nothing else."""

    def workerAdjustData(self, data):
        data *= 2


class Inheriting(UserCorrelation):
    """A user's class that inherits the others, and calls them."""

    calculator = "accumulating"

    def serverEventOk(self, evt):
        return super().serverEventOk(evt)

    def serverFinalDataArray(self, dataArray, evt):
        assert self.maskNdarrayCoords.all()
        return super().serverFinalDataArray(2 * dataArray, evt)


@pytest.mark.parametrize("user_class", [Minimal, Inheriting])
def test_a_user_writes_only_what_differs(tmp_path, user_class):
    correlate.run(Request(section(tmp_path, out=str(tmp_path / "s.h5")), OnlyScaled), World())
    correlate.run(Request(section(tmp_path), user_class), World())
    worst, lines = differences(tmp_path / "g.h5", tmp_path / "s.h5", 1e-6)
    assert [line for line in lines if "user/" in line] == []
    assert worst < np.inf


def test_every_callback_has_a_default():
    user = Inheriting({}, {"delays": [1]}, SimpleNamespace(logger=None, maskNdarrayCoords=None), 0)
    callbacks = correlation_callbacks.Callbacks(user)
    own = {"serverEventOk", "serverFinalDataArray"}
    assert {name for name in CALLBACKS if callbacks.get(name)} == own
    assert len(CALLBACKS) == 13
    assert callbacks.array_names == ("G2", "IF", "IP")


class Unreachable:
    """A user's class whose plots nobody takes."""

    def viewerInit(self, mask, h5GroupUser):
        raise ConnectionRefusedError("no plot at port 12301")


class Unplotted:
    """A user's class whose plots nobody takes any more."""

    def viewerPublish(self, counts, lastEventTime, name2delay2ndarray, int8array, h5GroupUser):
        raise ConnectionRefusedError("no plot at port 12301")


@pytest.mark.parametrize("user_class", [Unreachable, Unplotted])
def test_an_error_of_a_user_is_not_one_of_the_disk(tmp_path, user_class):
    with pytest.raises(ConnectionRefusedError, match="port 12301"):
        correlate.run(Request(section(tmp_path), user_class), World())


@pytest.mark.parametrize(("key", "value"), [("n_levels", 70), ("n_lags", 10**6)])
def test_delays_of_multi_tau_stay_whole_numbers(tmp_path, key, value):
    with pytest.raises(ValueError, match=key):
        section(tmp_path, calculator="multi_tau", **{key: value})
    longest = delays_of(40, 1024)
    assert (np.diff(longest) > 0).all()


def returning(name: str, value: object) -> type:
    """Return a user's class one of whose methods returns something."""
    return type("Mine", (Contrast,), {name: lambda self, *_arguments: value})


ONES = np.ones((5, 15))
N = np.ones(5, np.int64)
FLAGS = np.zeros(15, np.int8)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("fwArrayNames", [], "a list of different names"),
        ("fwArrayNames", ["A", "A"], "a list of different names"),
        ("fwArrayNames", "SQ", "a list of different names"),
        ("serverEventOk", None, "True or False"),
        ("serverFinalDataArray", np.ones(3), r"an image of shape \(3, 5\)"),
        ("serverFinalDataArray", np.full((3, 5), "a"), r"an image of .*, numbers"),
        ("workerAdjustData", np.ones(15), "nothing"),
        ("workerCalc", None, "three things"),
        ("workerCalc", ({"G2": ONES}, N, FLAGS), "arrays"),
        ("workerCalc", ({"SQ": ONES + np.nan}, N, FLAGS), "SQ finite"),
        ("workerCalc", ({"SQ": ONES.astype(complex)}, N, FLAGS), r"SQ of shape .*, numbers"),
        ("workerCalc", ({"SQ": ONES}, N[1:], FLAGS), r"counts of shape \(5,\)"),
        ("workerCalc", ({"SQ": ONES}, N.astype(float), FLAGS), "counts .*whole numbers"),
        ("workerCalc", ({"SQ": ONES}, N, FLAGS[1:]), r"flags of shape \(15,\)"),
        ("workerCalc", ({"SQ": ONES}, N, FLAGS + 200.0), "flags .*whole numbers"),
        ("workerCalc", ({"SQ": ONES}, N, FLAGS.astype(int) + 200), "flags from 0 to 127"),
    ],
)
def test_what_a_callback_returns_is_checked_and_the_error_names_it(tmp_path, name, value, expected):
    own = section(tmp_path, out=None, user_params={"scale": 1.0})
    with pytest.raises(ConfigError, match=rf"Mine\.{name}: expected {expected}"):
        correlate.run(Request(own, returning(name, value)), World())


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("serverEventOk", lambda self: True),
        ("viewerPublish", lambda self, counts: None),
        ("__init__", lambda self, user_params: None),
    ],
)
def test_arguments_of_callbacks_are_checked_before_the_first_shot(tmp_path, name, method):
    user_class = type("Mine", (Contrast,), {name: method})
    own = section(tmp_path, user_params={"scale": 1.0})
    with pytest.raises(ConfigError, match=rf"Mine\.{name}: expected arguments"):
        correlate.run(Request(own, user_class), World())
    assert not list(tmp_path.iterdir())


def test_arrays_of_other_names_need_who_forms_and_publishes_them(tmp_path):
    user_class = type("Mine", (), {"fwArrayNames": lambda self: ["SQ"]})
    with pytest.raises(ConfigError, match="no workerCalc and no viewerPublish"):
        correlate.run(Request(section(tmp_path), user_class), World())


def test_a_class_asks_for_a_calculator_that_there_is(tmp_path):
    windowed = type("Mine", (), {"calculator": "windowed"})
    assert (
        setting_of(Request(section(tmp_path), windowed), World()).section.calculator == "windowed"
    )
    with pytest.raises(ConfigError, match=r"Mine\.calculator"):
        setting_of(Request(section(tmp_path), type("Mine", (), {"calculator": "fast"})), World())


def test_a_calculator_that_a_class_asks_for_fits_the_other_keys(tmp_path):
    by_fft = type("Mine", (), {"calculator": "fft"})
    with pytest.raises(ConfigError, match=r"class asks for: correlate: engine: expected numba"):
        setting_of(Request(section(tmp_path, engine="jax"), by_fft), World())


def test_a_class_is_found_by_an_entry_point(monkeypatch):
    point = EntryPoint("minimal", "collections:OrderedDict", correlation_callbacks.GROUP)
    points = EntryPoints([point])
    monkeypatch.setattr(correlation_callbacks, "entry_points", lambda group: points)
    assert correlation_callbacks.load_class("minimal") is OrderedDict
    with pytest.raises(ConfigError, match="'minimal'"):
        correlation_callbacks.load_class("maximal")
    with pytest.raises(ConfigError, match="nowhere"):
        correlation_callbacks.load_class("nowhere:Class")


class Telling:
    """A handler that keeps what is logged."""

    level = 0

    def __init__(self):
        self.said = []

    def handle(self, record):
        self.said.append(record.getMessage())


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_tells_of_pixels_without_a_colour(tmp_path, rank):
    colours = np.zeros((3, 5), np.int32)
    colours[1] = 1
    np.save(tmp_path / "colours.npy", colours)
    world = SimpleNamespace(rank=rank)
    handler = Telling()
    log = logger("correlate", world)
    log.addHandler(handler)
    try:
        setting_of(Request(section(tmp_path, colours=tmp_path / "colours.npy")), world)
    finally:
        log.removeHandler(handler)
    assert len(handler.said) == (rank == 0)


def test_the_log_says_why_shots_are_dropped(tmp_path):
    for name in ("a.h5", "c.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file["images"] = np.ones((6, 3, 5))
    (tmp_path / "b.h5").write_bytes(b"nothing")
    source = {"files": [str(tmp_path / "*.h5")], "dataset": "images", "simulated": None}
    handler = Telling()
    log = logger("correlate", World())
    log.addHandler(handler)
    try:
        correlate.run(Request(section(tmp_path, **source, out=str(tmp_path / "o.hdf5"))), World())
    finally:
        log.removeHandler(handler)
    assert any("shot 6 can't be read" in line and "b.h5" in line for line in handler.said)
    figures = json.loads((tmp_path / "o.json").read_text())
    assert (figures["n_events"], figures["n_dropped"]) == (12, 1)


def test_the_verbosity_of_a_correlation_is_not_that_of_the_next(tmp_path):
    log = logger("correlate", World())
    setting_of(Request(section(tmp_path), verbosity="error"), World())
    assert log.level == logging.ERROR
    setting_of(Request(section(tmp_path)), World())
    assert log.level == logging.INFO


@pytest.mark.parametrize(("delays", "n_told"), [([1, 5, 500, 900], 1), ([1, 5], 0)])
def test_delays_without_partners_are_told(tmp_path, delays, n_told):
    handler = Telling()
    log = logger("correlate", World())
    log.addHandler(handler)
    try:
        correlate.run(Request(section(tmp_path, delays=delays, update_shots=64)), World())
    finally:
        log.removeHandler(handler)
    told = [line for line in handler.said if "no partners" in line]
    assert len(told) == n_told
    assert all("2 of 4 delays have no partners, 500 to 900" in line for line in told)


OLD = """
import numpy as np
system_params = {
    "dataset": "%(folder)s/shots.h5",
    "src": "images",
    "psanaType": None,
    "maskNdarrayCoords": "%(folder)s/mask.npy",
    "testMaskNdarrayCoords": "%(folder)s/test_mask.npy",
    "numServers": 1,
    "serverHosts": None,
    "times": 30,
    "update": 0,
    "delays": [1, 2, 4],
    "h5output": "%(folder)s/g_%%C.h5",
    "testH5output": "%(folder)s/t.h5",
    "overwrite": False,
    "verbosity": "warning",
    "numEvents": 0,
    "testNumEvents": 20,
    "userClass": "G2IncrementalAccumulator",
    "favourite": 3,
}
user_params = {
    "colorNdarrayCoords": "%(folder)s/colours.npy",
    "colorFineNdarrayCoords": "%(folder)s/colours.npy",
    "saturatedValue": 1 << 15,
    "LLD": 1e-9,
    "notzero": 1e-5,
}
"""


@pytest.fixture
def old_file(tmp_path) -> Path:
    """A configuration of ParCorAna with its files."""
    rng = np.random.default_rng(6)
    with h5py.File(tmp_path / "shots.h5", "w") as file:
        file["images"] = rng.poisson(3.0, (50, 4, 6))
    mask = np.ones((4, 6), np.int8)
    mask[0] = 0
    colours = rng.integers(1, 3, (4, 6))
    test_mask = np.zeros_like(mask)
    test_mask[2:] = 1
    for name, array in (("mask", mask), ("test_mask", test_mask), ("colours", colours)):
        np.save(tmp_path / f"{name}.npy", array)
    path = tmp_path / "config.py"
    path.write_text(OLD % {"folder": tmp_path})
    return path


def test_a_configuration_of_parcorana_runs_and_passes_its_tests(old_file, capsys):
    folder = old_file.parent
    assert cli.main(["correlate", "-c", str(old_file)]) == 0
    assert "favourite is not known" in capsys.readouterr().err
    with h5py.File(folder / "g_000.h5") as file:
        (update,) = file["user"].values()
        np.testing.assert_array_equal(update["delay_counts"], [49, 48, 46])
        assert {"delay_curve_color_1", "delay_curve_color_2"} < set(update)
        assert not update["G2/delay_000001"][0].any()  # masked
        mask, colours = (np.load(folder / f"{name}.npy") for name in ("mask", "colours"))
        images = {
            "system_params/maskNdarrayCoords": (np.int8, mask),
            "user_params/colorNdarrayCoords": (np.int32, mask * colours),
            "user_params/colorFineNdarrayCoords": (np.int32, mask * colours),
        }
        for name, (kind, expected) in images.items():
            written = file["system"][name]
            assert written.dtype == kind
            np.testing.assert_array_equal(written, expected)
        assert file["system/user_params/notzero"][()] == 1e-5

    words = ["correlate", "-c", str(old_file), "-o", str(folder / "main.h5")]
    assert cli.main([*words, "--test_main"]) == 0
    assert cli.main([*words, "--test_alt"]) == 0
    assert cli.main([*words, "--cmp"]) == 0
    assert "largest relative difference" in capsys.readouterr().out
    with h5py.File(folder / "main.h5") as file:
        assert len(file["system/pixels"]) == 12
    with h5py.File(folder / "t.h5", "r+") as file:
        (update,) = file["user"].values()
        update["sums/G2"][0, 0] = np.nan
    assert cli.main([*words, "--cmp"]) == 4


def test_an_output_of_parcorana_is_reported_as_others_are(old_file):
    assert cli.main(["correlate", "-c", str(old_file)]) == 0
    figures, page = report.make("correlate", [old_file.parent / "g_000.h5"], [])
    assert figures["n_events"] == 50
    (axes,) = page.axes
    np.testing.assert_allclose(axes.lines[0].get_xdata(), np.array([1, 2, 4]) / 120)


def test_outputs_whose_names_have_a_number_are_compared(old_file, capsys):
    words = ["correlate", "-c", str(old_file)]
    for option in ("--test_main", "--test_main", "--test_alt", "--cmp"):
        assert cli.main([*words, option]) == 0, option
    printed = capsys.readouterr().out
    assert "largest relative difference" in printed
    figures = [
        json.loads((old_file.parent / f"g_{number}.json").read_text()) for number in ("000", "001")
    ]
    assert ["max_relative_error_vs_loop" in one for one in figures] == [False, True]


def test_a_mask_for_tests_has_few_pixels(old_file):
    folder = old_file.parent
    np.save(folder / "test_mask.npy", np.eye(4, 6, dtype=np.int8))
    read = parcorana.read(old_file, {})
    with pytest.raises(FileError, match="10 to 100 pixels"):
        setting_of(Request(read.section, is_test=True), World())


LCLS = """
import os
import numpy as np
import psana
import ParCorAna
import ParCorAna.UserG2 as UserG2
from bright_shots import BrightShots

experiment = 'xcs84213'
run = 117
folder = os.path.dirname(os.path.abspath(__file__))

system_params = {}
system_params['dataset'] = folder + '/shots.h5'
system_params['src'] = 'images'
system_params['psanaType'] = psana.CsPad.DataV2
system_params['ndarrayProducerOutKey'] = 'ndarray'
system_params['ndarrayCalibOutKey'] = None
system_params['psanaOptions'], \\
    system_params['outputArrayType'] = ParCorAna.makePsanaOptions(
        srcString=system_params['src'],
        psanaType=system_params['psanaType'],
        ndarrayOutKey=system_params['ndarrayProducerOutKey'],
        ndarrayCalibOutKey=system_params['ndarrayCalibOutKey'])
system_params['psanaOptions']['psana.calib-dir'] = '/reg/d/psdm/xcs/xcs84213/calib'
system_params['workerStoreDtype'] = np.float32
system_params['maskNdarrayCoords'] = folder + '/mask.npy'
system_params['testMaskNdarrayCoords'] = folder + '/test_mask.npy'
system_params['numServers'] = 1
system_params['serverHosts'] = None
system_params['serversRoundRobin'] = True
system_params['times'] = 40
system_params['update'] = 20
system_params['delays'] = ParCorAna.makeDelayList(start=1, stop=30, num=6, spacing='log',
                                                  logbase=np.e)
system_params['userClass'] = BrightShots
system_params['h5output'] = folder + '/g2calc_%s-r%4.4d.h5' % (experiment, run)
system_params['testH5output'] = folder + '/g2calc_test_%s-r%4.4d.h5' % (experiment, run)
system_params['overwrite'] = False
system_params['verbosity'] = 'INFO'
system_params['numEvents'] = 0
system_params['testNumEvents'] = 30

user_params = {}
user_params['colorNdarrayCoords'] = folder + '/colours.npy'
user_params['colorFineNdarrayCoords'] = folder + '/colours.npy'
user_params['saturatedValue'] = (1<<15)
user_params['LLD'] = 1E-9
user_params['notzero'] = 1E-5
user_params['psmon_plot'] = False
user_params['ipimb_threshold_lower'] = .05
user_params['ipimb_srcs'] = []
user_params['least_mean'] = 2.9

if __name__ == '__main__':
    from pprint import pprint
    pprint(system_params)
    pprint(user_params)
    ParCorAna.checkParams(system_params, user_params, checkUserParams=True)
"""

BRIGHT_SHOTS = """
import psana
from ParCorAna.UserG2 import G2IncrementalAccumulator

class BrightShots(G2IncrementalAccumulator):
    def __init__(self, user_params, system_params, mpiParams, testAlternate):
        super(BrightShots, self).__init__(user_params, system_params, mpiParams, testAlternate)
        self.leastMean = self.user_params['least_mean']

    def serverFinalDataArray(self, dataArray, evt):
        if dataArray[self.maskNdarrayCoords].mean() < self.leastMean:
            self.logDebug('dark')
            return None
        return dataArray
"""


def test_a_file_and_a_module_as_at_lcls_run_unchanged(old_file, capsys):
    folder = old_file.parent
    config = folder / "lcls.py"
    config.write_text(LCLS)
    (folder / "bright_shots.py").write_text(BRIGHT_SHOTS)
    words = ["correlate", "-c", str(config)]
    assert cli.main([*words, "--check"]) == 0
    said = capsys.readouterr()
    assert "psanaType, psanaOptions" in said.err
    assert yaml.safe_load(said.out)["correlate"]["delays"] == [1, 2, 4, 8, 15, 30]
    assert "user_class: bright_shots:BrightShots" in said.out
    assert "psana" not in sys.modules

    assert cli.main(words) == 0
    with h5py.File(folder / "shots.h5") as file:
        images = file["images"][()]
    mask = np.load(folder / "mask.npy").astype(bool)
    kept = np.flatnonzero(images[:, mask].mean(axis=1) >= 2.9)
    assert 5 < len(kept) < 45
    with h5py.File(folder / "g2calc_xcs84213-r0117.h5") as file:
        last = max(file["user"], key=lambda name: int(name.rpartition("_")[2]))
        counts = file["user"][last]["delay_counts"][()]
        assert file["system/system_params/psanaType"][()] == b'"psana.CsPad.DataV2"'
    in_hand = {int(time) for time in kept}
    expected = [len(in_hand & {t + d for t in in_hand}) for d in (1, 2, 4, 8, 15, 30)]
    np.testing.assert_array_equal(counts, expected)

    for test in ("--test_main", "--test_alt", "--cmp"):
        assert cli.main([*words, "-o", str(folder / "main.h5"), test]) == 0


@pytest.mark.parametrize(
    ("dataset", "src", "expected"),
    [
        ("exp=mfx1:run=20", "epix", {"experiment": "mfx1", "run": 20, "dataset": "epix.raw.calib"}),
        ("exp=mfx1:run=20:live:dir=/d", "a.raw.raw", {"is_live": True, "folder": "/d"}),
        ("exp=mfx1:run=20", "DetInfo(MfxEndstation.0:Epix100a.0)", "docs/files.md, XTC"),
        ("exp=mfx1:run=20-22", "epix", "one run"),
    ],
)
def test_a_dataset_of_psana_is_one_of_psana_2(old_file, dataset, src, expected):
    text = old_file.read_text().replace(f"{old_file.parent}/shots.h5", dataset)
    text = text.replace('"times": 30,', '"times": 30, "rate_hz": 33.0,')
    old_file.write_text(text.replace('"src": "images"', f'"src": "{src}"'))
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            parcorana.read(old_file, {})
        return
    section = parcorana.read(old_file, {}).section
    found = section.psana.model_dump() | {"dataset": section.dataset}
    assert expected.items() <= found.items()
    assert section.files == []
    assert (section.shot_ids, section.rate_hz) == (None, 33.0)  # delays are in events


@pytest.mark.parametrize(
    ("source", "dataset", "expected"),
    [
        (
            {"psana": {"experiment": "a", "run": 7, "folder": "/d"}, "shot_ids": "t.raw.id"},
            "exp=mfx1:run=8:live",
            {"run": 8, "folder": None, "is_live": True, "shot_ids": "t.raw.id", "files": []},
        ),
        (
            {"files": ["a.h5"], "shot_ids": "ids", "monitors": {"i0": "i0"}},
            "exp=mfx1:run=8",
            {"run": 8, "dataset": "epix.raw.calib", "shot_ids": None, "monitors": {}, "files": []},
        ),
        ({"simulated": {}}, "b_*.h5", {"files": ["b_*.h5"], "simulated": None}),
        ({"stream": {"endpoint": "tcp://a:1", "shape": [2]}}, "b.h5", {"stream": None}),
        ({"psana": {"experiment": "a", "run": 7}}, "b.h5", {"psana": None, "files": ["b.h5"]}),
    ],
)
def test_d_replaces_whatever_source_there_was(tmp_path, source, dataset, expected):
    path = tmp_path / "c.yaml"
    keys = {"dataset": "epix", "rate_hz": 100.0} | source
    path.write_text(yaml.safe_dump({"correlate": keys}))
    section = parcorana.from_yaml(path, {}, dataset).section
    found = section.model_dump()
    found |= section.psana.model_dump() if section.psana else {}
    assert expected.items() <= found.items()


def test_d_replaces_the_dataset_of_a_python_file(old_file):
    text = old_file.read_text().replace(f"{old_file.parent}/shots.h5", "exp=mfx1:run=7")
    old_file.write_text(text.replace('"times": 30,', '"times": 30, "rate_hz": 33.0,'))
    read = parcorana.read(old_file, {}, "exp=mfx1:run=8:dir=/d")
    assert (read.section.psana.run, read.section.psana.folder) == (8, "/d")
    assert read.system_params["dataset"] == "exp=mfx1:run=8:dir=/d"
    by_file = parcorana.read(old_file, {}, "b.h5").section
    assert (by_file.files, by_file.dataset, by_file.psana) == (["b.h5"], "images", None)


def test_the_clock_of_psana_is_stated(old_file, tmp_path):
    text = old_file.read_text().replace(f"{old_file.parent}/shots.h5", "exp=mfx1:run=20")
    old_file.write_text(text)
    with pytest.raises(ConfigError, match=r"rate_hz: expected units .* 928571 of timing"):
        parcorana.read(old_file, {})
    path = tmp_path / "c.yaml"
    keys = {"psana": {"experiment": "mfx1", "run": 20}, "dataset": "epix.raw.calib"}
    path.write_text(yaml.safe_dump({"correlate": keys}))
    with pytest.raises(ConfigError, match="rate_hz: expected units"):
        parcorana.from_yaml(path, {})
    path.write_text(yaml.safe_dump({"correlate": keys | {"rate_hz": 928571}}))
    assert parcorana.from_yaml(path, {"readers": 2}).section.rate_hz == 928571


VISIBILITY = Path(__file__).parents[2] / "docs" / "visibility.py"


@pytest.mark.stage
def test_the_class_of_the_tutorial_measures_how_fast_speckle_fades(tmp_path):
    exposures = [1, 2, 4, 8, 16, 32, 64]
    own = section(
        tmp_path,
        simulated={"n_shots": 1500, "shape": [32, 32], "decay": 0.05, "mean_photons": 2.0},
        delays=exposures,
        buffer_shots=1500,
        user_class=f"{VISIBILITY}:Visibility",
    )
    correlate.run(Request(own), World())
    with h5py.File(tmp_path / "g.h5") as file:
        (group,) = file["user"].values()
        contrast = group["contrast"][()]
    for n, found in zip(exposures, contrast, strict=True):
        i = np.arange(n)
        expected = np.mean(np.exp(-2 * 0.05 * np.abs(i[:, None] - i)))
        # 1024 pixels see 75 coherence times: 1 % of scatter, and as much in the mean
        assert abs(found / expected - 1) < 0.05, n


def test_a_configuration_is_printed_and_checked_and_nothing_is_done(old_file, capsys):
    folder = old_file.parent
    before = {path.name for path in folder.iterdir()}
    assert cli.main(["correlate", "-c", str(old_file), "--check"]) == 0
    printed = capsys.readouterr().out
    section = CorrelateSection.model_validate(yaml.safe_load(printed)["correlate"])
    assert section.calculator == "accumulating"
    assert section.buffer_shots == 30
    assert "18 pixels are correlated in 2 colours" in printed
    np.save(folder / "colours.npy", np.full((4, 6), 1 << 15))
    assert cli.main(["correlate", "-c", str(old_file), "--check"]) == 4
    assert {path.name for path in folder.iterdir()} == before


def test_options_replace_keys(old_file):
    folder = old_file.parent
    mask = np.zeros((4, 6), np.int8)
    mask[1, 1] = 1
    np.save(folder / "one.npy", mask)
    words = ["-n", "10", "-m", str(folder / "one.npy"), "-o", str(folder / "o.h5")]
    assert cli.main(["correlate", "-c", str(old_file), *words]) == 0
    with h5py.File(folder / "o.h5") as file:
        np.testing.assert_array_equal(file["system/pixels"], [7])
        assert file["system/system_params/times"][()] == 10  # of 30
        (update,) = file["user"].values()
        np.testing.assert_array_equal(update["delay_counts"], [9, 8, 6])


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ('"times": 30,', "", "times"),
        ('"times": 30,', '"times": 0,', "buffer_shots"),
        ("import numpy as np", "import a_module_that_is_nowhere", "a_module_that_is_nowhere"),
        ("user_params = {", "others = {", "one of them missing"),
        ('"delays": [1, 2, 4],', '"delays": 3,', "a list of whole numbers"),
        ('"delays": [1, 2, 4],', '"delays": [],', "delays: expected .* at least 1 item"),
        ('"verbosity": "warning",', '"verbosity": "INFO2",', r"verbosity: expected one of debug"),
        ('"G2IncrementalAccumulator"', "3", "a class or the name of one"),
        ('"G2IncrementalAccumulator"', '"G2nothing"', "entry points are"),
    ],
)
def test_a_wrong_configuration_is_refused(old_file, before, after, found):
    old_file.write_text(old_file.read_text().replace(before, after))
    with pytest.raises(ConfigError, match=found):
        parcorana.read(old_file, {})


def test_the_section_of_a_trial_is_read(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("correlate: {delays: {start: 1, stop: 8, num: 4}, readers: 2}\n")
    configured = parcorana.from_yaml(path, {"readers": 3})
    assert configured.section.readers == 3
    simulated = configured.section.model_copy(update={"simulated": SpeckleSection()})
    np.testing.assert_array_equal(setting_of(Request(simulated), World()).delays, [1, 2, 4, 8])
    path.write_text("seed: 1\n")
    with pytest.raises(ConfigError, match="a section `correlate`"):
        parcorana.from_yaml(path, {})
