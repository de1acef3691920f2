"""correlate on ranks: the same numbers for any number of readers and workers, and one error."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from spreadflow.errors import RanksError
from spreadflow.io.g2 import differences
from spreadflow.parallel import roles

MPIEXEC = shutil.which("mpiexec", path=Path(sys.prefix, "bin")) or shutil.which("mpiexec")

CONFIG = {
    "simulated": {
        "n_shots": 300,
        "shape": [7, 9],
        "missing": 0.1,
        "duplicate": 0.05,
        "disordered": 0.1,
        "late": 0.02,
        "late_shots": 150,
        "n_saturated": 2,
    },
    "delays": [1, 2, 5, 12, 40],
    "buffer_shots": 70,
    "block_shots": 32,
    "update_shots": 96,
}


def test_readers_are_taken_from_one_host_after_the_other():
    hosts = ["a", "a", "a", "b", "b", "b"]
    assert roles.assign(hosts, 2, 9) == roles.Assignment(0, 2, (1, 3), (4, 5))
    assert roles.assign(hosts, 2, 9, ["b"]) == roles.Assignment(0, 1, (3, 4), (2, 5))
    assert roles.assign(["a"] * 4, 1, 9) == roles.Assignment(0, 2, (1,), (3,))


def test_ranks_without_a_pixel_are_idle():
    assert roles.assign(["a"] * 7, 2, 2) == roles.Assignment(0, 3, (1, 2), (4, 5), (6,))


@pytest.mark.parametrize(("n_ranks", "n_readers"), [(3, 1), (5, 3), (6, 0)])
def test_too_few_ranks_are_refused(n_ranks, n_readers):
    with pytest.raises(RanksError):
        roles.assign(["a"] * n_ranks, n_readers, 9)


def test_workers_own_pixels_whose_numbers_differ_by_one_at_most():
    for n_pixels, n_workers in ((63, 5), (5, 5), (64, 3)):
        widths = roles.widths_of(n_pixels, n_workers)
        assert sum(widths) == n_pixels
        assert max(widths) - min(widths) <= 1


class Waiting:
    """A viewer that publishes nothing until it may."""

    def __init__(self):
        self.begun = threading.Event()
        self.may = threading.Event()
        self.published: list[int] = []

    def publish(self, update, results):
        self.begun.set()
        self.may.wait(60)
        self.published.append(update.n_shots)


def test_a_viewer_holds_up_nobody_and_publishes_all_in_the_end():
    viewer = Waiting()
    with roles._publishing(viewer, roles.MOST_WAITING) as publisher:
        for n in range(1 + roles.MOST_WAITING):
            publisher.put(roles.Update(n, 0, n, is_last=False), [])
        assert viewer.published == []
        viewer.may.set()
    assert viewer.published == list(range(1 + roles.MOST_WAITING))


def test_an_interrupted_viewer_finishes_what_it_publishes():
    viewer = Waiting()
    with (
        pytest.raises(KeyboardInterrupt),
        roles._publishing(viewer, roles.MOST_WAITING) as publisher,
    ):
        for n in range(1 + roles.MOST_WAITING):
            publisher.put(roles.Update(n, 0, n, is_last=False), [])
        viewer.begun.wait(60)
        threading.Timer(0.05, viewer.may.set).start()
        raise KeyboardInterrupt
    assert viewer.published == [0]


def test_a_publication_that_fails_ends_the_viewer():
    def publish(update, results):
        raise OSError("no room")

    viewer = SimpleNamespace(publish=publish)
    with pytest.raises(OSError, match="no room"), roles._publishing(viewer, 0) as publisher:
        publisher.put(roles.Update(1, 0, 1, is_last=False), [])
        pytest.fail("a failure was passed over")


def command(folder: Path, ranks: int, out: str, *words: str, **keys) -> list[str]:
    """Return the command that correlates on ranks."""
    assert MPIEXEC, "no mpiexec: install the extra `mpi`"
    config = folder / f"{out}.yaml"
    config.write_text(json.dumps({"correlate": CONFIG | keys | {"out": str(folder / out)}}))
    launcher = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    program = [sys.executable, "-m", "spreadflow.cli", "correlate", "-c", str(config)]
    return [*launcher, *program, *words]


def launch(folder: Path, ranks: int, out: str, *words: str, **keys) -> subprocess.CompletedProcess:
    """Correlate on ranks."""
    return subprocess.run(
        command(folder, ranks, out, *words, **keys), capture_output=True, text=True, timeout=240
    )


FEW = ((0, 0), (1, 2))
"""Readers and workers; without any, one process does all."""

MANY = ((0, 0), (1, 1), (1, 2), (3, 1), (3, 5))
"""The same for who has the time."""


@pytest.mark.chain
@pytest.mark.parametrize(
    ("calculator", "numbers"),
    [
        pytest.param("windowed", FEW),
        pytest.param("windowed", MANY, marks=pytest.mark.long),
        pytest.param("multi_tau", MANY, marks=pytest.mark.long),
    ],
)
def test_any_number_of_readers_and_workers_gives_the_same_numbers(tmp_path, calculator, numbers):
    keys = {"calculator": calculator, "n_levels": 4}
    for n_readers, n_workers in numbers:
        ranks = n_readers + n_workers + 2 if n_readers else 1
        words = ("-s", str(n_readers)) if n_readers else ()
        out = f"g{n_readers}{n_workers}.h5"
        done = launch(tmp_path, ranks, out, *words, **keys)
        assert done.returncode == 0, done.stderr
        worst, lines = differences(tmp_path / "g00.h5", tmp_path / out, 0.0)
        assert lines == []
        assert worst == 0.0
    with h5py.File(tmp_path / "g00.h5") as file:
        assert len(file["user"]) == 3


DARK = '''
class Dark:
    """A user's class without beam for two whole blocks."""

    def serverEventOk(self, evt):
        return not 64 <= evt.number < 128
'''


@pytest.mark.chain
def test_blocks_without_a_shot_and_ranks_without_a_pixel_change_nothing(tmp_path):
    """One worker of three is idle: the mask has two pixels."""
    mask = np.zeros((7, 9), np.int8)
    mask[3, 4:6] = 1
    np.save(tmp_path / "mask.npy", mask)
    (tmp_path / "dark.py").write_text(DARK)
    keys = {"mask": str(tmp_path / "mask.npy"), "user_class": f"{tmp_path / 'dark.py'}:Dark"}
    for ranks, out in ((1, "one.h5"), (6, "six.h5")):
        done = launch(tmp_path, ranks, out, **keys)
        assert done.returncode == 0, done.stderr
    assert "1 ranks have no pixel, and are idle" in done.stderr
    assert differences(tmp_path / "one.h5", tmp_path / "six.h5", 0.0) == (0.0, [])
    figures = json.loads((tmp_path / "six.json").read_text())
    assert figures["n_dropped"] == 64


@pytest.fixture
def two_halves(tmp_path) -> dict:
    """Keys of a stack whose blocks are of the first half of the time, and of the second, by turns:
    of two readers, each reads one half.
    """
    n = CONFIG["block_shots"]
    blocks = np.arange(8 * n).reshape(2, 4, n)
    path = tmp_path / "shots.h5"
    with h5py.File(path, "w") as file:
        file["ids"] = blocks.transpose(1, 0, 2).ravel()
        file["images"] = np.random.default_rng(1).poisson(3.0, (8 * n, 3, 5))
    keys = {"files": [str(path)], "dataset": "images", "shot_ids": "ids", "simulated": None}
    return keys | {"calculator": "accumulating"}


@pytest.mark.chain
def test_the_earliest_block_may_come_first(tmp_path, two_halves):
    n = CONFIG["block_shots"]
    for option, expected in (("--earlyServer", (0, 8 * n - 1)), (None, (n, 7 * n - 2))):
        words = ["-s", "2", "--overwrite", *([option] if option else [])]
        done = launch(tmp_path, 5, "e.h5", *words, **two_halves)
        assert done.returncode == 0, done.stderr
        figures = json.loads((tmp_path / "e.json").read_text())
        with h5py.File(tmp_path / "e.h5") as file:
            counts = [update["delay_counts"][0] for update in file["user"].values()]
        assert (figures["n_late"], max(counts)) == expected


@pytest.mark.chain
def test_a_stream_has_the_numbers_of_its_file(tmp_path):
    pytest.importorskip("zmq", reason="no pyzmq: install the extra `stream`")
    path = tmp_path / "shots.h5"
    with h5py.File(path, "w") as file:
        file["ids"] = np.delete(np.arange(150), [3, 70, 71])
        file["images"] = np.random.default_rng(5).poisson(3.0, (147, 3, 5))
    keys = {"simulated": None, "buffer_shots": 200, "update_shots": 0}
    whole = {"files": [str(path)], "dataset": "images", "shot_ids": "ids"}
    assert launch(tmp_path, 1, "file.h5", **keys, **whole).returncode == 0

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    stream = {"endpoint": f"tcp://127.0.0.1:{port}", "shape": [3, 5]}
    options = ["--dataset", "images", "--shot-ids", "ids", "--readers", "2", "--rate", "0"]
    words = ["stream", "replay", str(path), "--to", f"tcp://*:{port}", *options]
    with subprocess.Popen(
        [sys.executable, "-m", "spreadflow.cli", *words], stdout=subprocess.DEVNULL
    ) as sender:
        done = launch(tmp_path, 5, "stream.h5", "-s", "2", **keys, stream=stream)
    assert done.returncode == 0, done.stderr
    assert sender.returncode == 0
    with h5py.File(tmp_path / "file.h5") as file, h5py.File(tmp_path / "stream.h5") as stream:
        (expected,), (update,) = file["user"].values(), stream["user"].values()
        assert update["delay_counts"][0] == 144
        np.testing.assert_array_equal(update["delay_counts"], expected["delay_counts"])
        for name in ("G2", "IF", "IP"):
            sums, of_file = (one[f"sums/{name}"][()] for one in (update, expected))
            np.testing.assert_allclose(sums, of_file, rtol=1e-12, err_msg=name)


SLOW = '''
import time
from pathlib import Path

class Slow:
    """A user's class whose viewer publishes nothing until a worker has had all shots."""

    def __init__(self, user_params, system_params, mpiParams, testAlternate):
        self.all_came = Path(user_params["all_came"])
        self.n_left = user_params["n_shots"]

    def workerAdjustData(self, data):
        self.n_left -= 1
        if not self.n_left:
            self.all_came.touch()

    def viewerPublish(self, counts, lastEventTime, name2delay2ndarray, int8array, h5GroupUser):
        ends = time.monotonic() + 60
        while not self.all_came.exists():
            assert time.monotonic() < ends, "the shots wait for the viewer"
            time.sleep(0.01)
        h5GroupUser[f"at_{lastEventTime['counter']}"] = counts
'''


@pytest.mark.chain
def test_shots_do_not_wait_for_a_viewer_that_is_slow(tmp_path):
    module = tmp_path / "slow.py"
    module.write_text(SLOW)
    simulated = {**CONFIG["simulated"], "duplicate": 0.0, "missing": 0.0}
    user_params = {"all_came": str(tmp_path / "all"), "n_shots": simulated["n_shots"]}
    keys = {"user_class": f"{module}:Slow", "user_params": user_params, "simulated": simulated}
    done = launch(tmp_path, 4, "s.h5", **keys)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "s.h5") as file:
        assert len(file["user"]) == 4


INTERRUPTED = '''
import time
from pathlib import Path

class Interrupted:
    """A user's class whose viewer is interrupted while it publishes."""

    def __init__(self, user_params, system_params, mpiParams, testAlternate):
        self.begun = Path(user_params["begun"])

    def viewerPublish(self, counts, lastEventTime, name2delay2ndarray, int8array, h5GroupUser):
        update = h5GroupUser.create_group(f"at_{lastEventTime['counter']}")
        update["counts"] = counts
        self.begun.touch()
        time.sleep(1.5)
        update["G2"] = name2delay2ndarray["G2"][1]
'''


@pytest.mark.chain
@pytest.mark.parametrize("ranks", [1, 4])
def test_an_interruption_leaves_the_last_update(tmp_path, ranks):
    module = tmp_path / "interrupted.py"
    module.write_text(INTERRUPTED)
    begun = tmp_path / "begun"
    keys = {"user_class": f"{module}:Interrupted", "user_params": {"begun": str(begun)}}
    with subprocess.Popen(
        command(tmp_path, ranks, "i.h5", **keys), stderr=subprocess.PIPE, text=True
    ) as process:
        while not begun.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, stderr
    assert "was interrupted by SIGINT" in stderr
    assert "named .inprogress: remove or rename it before" in stderr
    assert "Traceback" not in stderr
    with h5py.File(tmp_path / "i.h5.inprogress") as file:
        updates = list(file["user"].values())
        assert updates
        assert all({"counts", "G2"} == set(update) for update in updates)


DYING = '''
import os, signal, time

import h5py

def n_published():
    try:
        with h5py.File({path!r}, "r", locking=False) as file:
            return len(file["user"])
    except (OSError, RuntimeError, KeyError):  # it is being written
        return 0

class Dying:
    """A user's class whose last worker ends in the middle, when both updates until then, after 96
    and 192 shots, are published: the viewer does so in its own time.
    """

    def __init__(self, user_params, system_params, mpiParams, testAlternate):
        self.n = 0
        self.is_last = False

    def workerInit(self, numElementsWorker):
        from mpi4py import MPI
        self.is_last = MPI.COMM_WORLD.rank == MPI.COMM_WORLD.size - 1

    def workerAdjustData(self, data):
        self.n += 1
        if self.is_last and self.n == 250:
            while n_published() < 2:
                time.sleep(0.01)
            {what}
'''


@pytest.mark.chain
@pytest.mark.parametrize(
    "what",
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", marks=pytest.mark.long),
        "raise ValueError('no')",
    ],
)
def test_where_a_worker_dies_all_end_and_what_was_published_stays(tmp_path, what):
    module = tmp_path / "dying.py"
    text = DYING.replace("{path!r}", repr(str(tmp_path / "d.h5.inprogress")))
    module.write_text(text.replace("{what}", what))
    done = launch(tmp_path, 5, "d.h5", user_class=f"{module}:Dying")
    assert done.returncode != 0
    assert not (tmp_path / "d.h5").exists()
    if what.startswith("raise"):
        assert done.stderr.count("rank 4 of 5 failed") == 1
        assert "ValueError: no" in done.stderr
    with h5py.File(tmp_path / "d.h5.inprogress") as file:
        updates = list(file["user"].values())
        assert len(updates) == 2
        assert all(update["delay_counts"][0] > 0 for update in updates)
