"""correlate in one process: against its double loop, with the user's class, as configured."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from spreadflow import cli
from spreadflow.config import parcorana
from spreadflow.config.correlate import CorrelateSection
from spreadflow.errors import ConfigError
from spreadflow.io.g2 import differences
from spreadflow.parallel import World
from spreadflow.stages import correlate
from spreadflow.stages.correlate import Request

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


@pytest.mark.parametrize("calculator", ["accumulating", "windowed", "at_end"])
def test_outputs_equal_those_of_the_double_loop(tmp_path, calculator):
    request = Request(section(tmp_path, calculator=calculator))
    correlate.run(request, World())
    correlate.run_alternate(request)
    worst, lines = differences(tmp_path / "g.h5", tmp_path / "t.h5", 1e-6)
    assert lines == []
    assert worst < 1e-6
    figures = json.loads((tmp_path / "g.json").read_text())
    ids = correlate._source(request.section).shot_ids
    assert figures["n_events"] == len(ids)
    assert figures["n_duplicates"] == len(ids) - len(np.unique(ids)) > 5
    assert figures["n_late"] == 0


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

    source = correlate._source(own)
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
    test_mask[2, :3] = 1
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

    words = ["correlate", "-c", str(old_file), "-o", str(folder / "main.h5")]
    assert cli.main([*words, "--test_main"]) == 0
    assert cli.main([*words, "--test_alt"]) == 0
    assert cli.main([*words, "--cmp"]) == 0
    assert "largest relative difference" in capsys.readouterr().out
    with h5py.File(folder / "main.h5") as file:
        assert len(file["system/pixels"]) == 3
    with h5py.File(folder / "t.h5", "r+") as file:
        (update,) = file["user"].values()
        update["sums/G2"][0, 0] = np.nan
    assert cli.main([*words, "--cmp"]) == 4


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
    np.testing.assert_array_equal(correlate._delays(configured.section), [1, 2, 4, 8])
    path.write_text("seed: 1\n")
    with pytest.raises(ConfigError, match="a section `correlate`"):
        parcorana.from_yaml(path, {})
