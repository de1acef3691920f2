"""How many shots a second do ranks correlate, and is it what one of them leads one to expect?

Shots of the size of the CSPAD, 2296960 pixels in float32, of which 116441 have a colour, lie in a
file that the system has in memory. A reader and one worker, or two, correlate them at 100 delays
with a buffer of 2000 shots. Only shots that come when the buffer is full are timed.

A rank's work is counted in processor seconds, so that other programs on the machine don't count. A
worker's should be proportional to its pixels, a reader's to its shots; together they say how many
shots a second any number of ranks correlate, each on a core of its own: what the slower kind of
them does. Beside it is what this machine did in that time, on as many cores as it has.

The last two rows are of a viewer that sleeps 10 s in the middle, and of one that does not.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy starts

import h5py
import numpy as np

import recorded
from spreadflow.config.correlate import CorrelateSection

N_IN_IMAGE, N_COLOURED = 2_296_960, 116_441
"""Pixels of the CSPAD, and of those with a colour in a published run."""

N_DELAYS, BUFFER, BLOCK = 100, 2000, 256
"""Of the exact sums."""

N_FRAMES = 32
"""Of the file, which is read again and again."""

N_FILLING, N_TIMED = 8, 4
"""Blocks that fill the buffer, and those that are timed."""

LEAST = 60.0
"""Shots a second on two cores, with one worker."""

SLEEP_S = 10.0
"""That a viewer sleeps."""

LARGEST_COST = 0.05
"""Share of the shots a second that this may cost."""

HOLDING_UP = """
import time

class Sleeping:
    def __init__(self, user_params, system_params, mpiParams, testAlternate):
        self.sleep_s = user_params["sleep_s"]

    def viewerPublish(self, counts, lastEventTime, name2delay2ndarray, int8array, h5GroupUser):
        time.sleep(self.sleep_s)
        self.sleep_s = 0.0
"""


class Clock:
    """Processor seconds within calls, and when each call was over. n_filling: calls that are not
    counted.
    """

    def __init__(self, n_filling: int):
        self._n_filling = n_filling
        self._spent: list[float] = []
        self._ends: list[float] = []

    def timed(self, method):
        """Return a method whose calls are timed."""

        def call(*arguments):
            start = time.process_time()
            result = method(*arguments)
            self._spent.append(time.process_time() - start)
            self._ends.append(time.perf_counter())
            return result

        return call

    def figures(self) -> dict[str, float]:
        """Return processor seconds and seconds of a shot, of the calls that count."""
        spent = self._spent[self._n_filling :]
        if not spent:
            return {}
        n_shots = len(spent) * BLOCK
        duration = self._ends[-1] - self._ends[self._n_filling - 1]
        return {"processor_s": sum(spent) / n_shots, "s": duration / n_shots}


def play(config: Path, out: Path) -> None:
    """Correlate as one of the ranks; write what its work took."""
    from spreadflow.parallel import World
    from spreadflow.stages import correlate, parcorana
    from spreadflow.stages.correlation_workers import G2Worker

    worker, reader = Clock(N_FILLING), Clock(N_FILLING)
    setattr(G2Worker, "take", worker.timed(G2Worker.take))  # noqa: B010 (it is replaced)
    packets = correlate._Reader.packets

    def timed_packets(self, number, n_readers):
        one_after_the_other = packets(self, number, n_readers)
        following = reader.timed(lambda: next(one_after_the_other, None))
        while (packet := following()) is not None:
            yield packet

    setattr(correlate._Reader, "packets", timed_packets)  # noqa: B010
    world = World(None)
    correlate.run(correlate.Request(parcorana.from_yaml(config, {}).section), world)
    figures = {"worker": worker.figures(), "reader": reader.figures()}
    out.with_name(f"{out.name}.{world.rank}").write_text(json.dumps(figures))


def ranks(folder: Path, n_workers: int, **keys: Any) -> dict[str, float]:
    """Return what a worker's and the reader's work took, in seconds of a shot; the slowest of the
    workers.
    """
    section = {
        "files": [str(folder / "shots_*.h5")],
        "dataset": "images",
        "colours": str(folder / "colours.npy"),
        "delays": {"start": 1, "stop": BUFFER - 1, "num": N_DELAYS},
        "buffer_shots": BUFFER,
        "block_shots": BLOCK,
        "out": None,
    }
    config = folder / "config.yaml"
    config.write_text(json.dumps({"correlate": section | keys}))
    CorrelateSection.model_validate(section | keys)
    out = folder / "figures"
    mpiexec = shutil.which("mpiexec", path=Path(sys.prefix, "bin")) or "mpiexec"
    words = [mpiexec, "-n", str(n_workers + 3), sys.executable, __file__]
    subprocess.run([*words, "--rank", str(config), "--out", str(out)], check=True)
    parts = [json.loads(path.read_text()) for path in sorted(folder.glob("figures.*"))]
    for path in folder.glob("figures.*"):
        path.unlink()
    workers = [part["worker"] for part in parts if part["worker"]]
    (reader,) = [part["reader"] for part in parts if part["reader"]]
    return {
        "worker_s": max(worker["processor_s"] for worker in workers),
        "reader_s": reader["processor_s"],
        "shots_per_second": 1 / max(worker["s"] for worker in workers),
    }


def write_shots(folder: Path, n_coloured: int) -> None:
    """Write a stack of images, and colours of some of their pixels."""
    rng = np.random.default_rng(1)
    n_files = BLOCK * (N_FILLING + N_TIMED) // N_FRAMES
    first, *others = [folder / f"shots_{i:03d}.h5" for i in range(n_files)]
    with h5py.File(first, "w") as file:
        shape = (N_FRAMES, N_IN_IMAGE)
        images = file.create_dataset("images", shape, np.float32)
        for i in range(N_FRAMES):
            images[i] = rng.integers(0, 9, N_IN_IMAGE, np.uint8)
    for other in others:
        os.link(first, other)
    colours = np.zeros(N_IN_IMAGE, np.int32)
    places = rng.choice(N_IN_IMAGE, n_coloured, replace=False)
    colours[places] = rng.integers(1, 7, n_coloured)
    np.save(folder / "colours.npy", colours)


def measured(folder: Path, n_coloured: int) -> dict[str, Any]:
    """Return the figures."""
    write_shots(folder, n_coloured)
    one, two = (ranks(folder, n_workers) for n_workers in (1, 2))
    a_pixel = one["worker_s"] / n_coloured
    (folder / "sleeping.py").write_text(HOLDING_UP)
    user = {"user_class": f"{folder / 'sleeping.py'}:Sleeping"}
    updates = BLOCK * (N_FILLING + 1)
    awake, asleep = (
        ranks(folder, 1, update_shots=updates, user_params={"sleep_s": sleep_s}, **user)
        for sleep_s in (0.0, SLEEP_S)
    )
    return {
        "n_pixels": n_coloured,
        "shots_per_second": one["shots_per_second"],
        "shots_per_second_with_two_workers": two["shots_per_second"],
        "reader_s": one["reader_s"],
        "worker_s_per_pixel": a_pixel,
        "worker_s_with_two": two["worker_s"],
        "worker_s_with_two_expected": a_pixel * n_coloured / 2,
        "expected_with_all_pixels_and_150_ranks": 1
        / max(one["reader_s"] / 6, a_pixel * N_IN_IMAGE / 142),
        "share_that_a_sleeping_viewer_costs": 1
        - asleep["shots_per_second"] / awake["shots_per_second"],
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=N_COLOURED)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        play(arguments.rank, arguments.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measured(Path(folder), arguments.pixels)
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    print(f"bars: shots_per_second {LEAST:g}, share of a sleeping viewer {LARGEST_COST:g}")
    if arguments.json:
        recorded.save(arguments.json, "correlate_ranks", figures)


if __name__ == "__main__":
    main()
