"""correlate: every pixel with itself at later times, on ranks that read, work and view.

It is a stage of the workflow for the runs of a trial, and correlates other shots as they come.
"""

import math
import platform
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from spreadflow.analysis.correlation.calculators import CALCULATORS, Calculator, NewEngine
from spreadflow.analysis.correlation.double_loop import buffer_loop
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.multi_tau import MultiTau
from spreadflow.analysis.correlation.numba_engine import NumbaEngine
from spreadflow.analysis.correlation.two_time import TwoTimeShots
from spreadflow.callbacks import ARRAYS
from spreadflow.config.correlate import CorrelateSection
from spreadflow.errors import ConfigError
from spreadflow.io.g2 import How, resolved
from spreadflow.parallel import World, roles
from spreadflow.parallel.roles import Agreement, Builders, Packet, Result, Update
from spreadflow.stages import correlation_memory
from spreadflow.stages.correlation_callbacks import ABOUT, Callbacks
from spreadflow.stages.correlation_setting import Request, Setting, setting_of
from spreadflow.stages.correlation_viewer import Draw, G2Viewer, Output, event_time
from spreadflow.stages.correlation_workers import (
    N_COUNTS,
    G2Worker,
    UserWorker,
    two_time_sizes,
)
from spreadflow.stream.shots import Block


def run(request: Request, world: World, draw: Draw | None = None) -> None:
    """Correlate all shots. Collective. draw: draws the curves of each update. Raises ConfigError,
    FileError or RanksError.
    """
    setting = setting_of(request, world)
    section = setting.section
    if section.engine == "jax":
        from spreadflow.stages import devices

        devices.take(world, "correlate")
    assignment = None
    n_workers = 1
    n_pixels = len(setting.pixels.places)
    hosts = world.gather(correlation_memory.this_host(platform.node()))
    if world.size > 1:
        names = [host.name for host in hosts]
        assignment = roles.assign(names, section.readers, n_pixels, section.reader_hosts)
        n_workers = len(assignment.workers)
        if assignment.idle and world.rank == 0:
            setting.log.warning("%d ranks have no pixel, and are idle", len(assignment.idle))
    widths = roles.widths_of(n_pixels, n_workers)
    correlation_memory.check(setting, hosts, assignment, widths)
    callbacks = setting.callbacks()
    n_numbers, n_totals = _two_time_sizes(setting, callbacks)
    agreed = Agreement(
        widths=widths,
        block_shots=section.longest_block,
        update_shots=section.update_shots,
        takes_turns=section.takes_turns,
        n_arrays=len(callbacks.array_names),
        n_delays=len(setting.delays),
        n_numbers=len(setting.delays) + N_COUNTS + n_numbers,
        n_totals=n_totals,
    )
    builders = Builders(
        reader=lambda: _Reader(setting, callbacks, widths),
        worker=lambda number: _worker(setting, callbacks, widths, number),
        viewer=lambda: _viewer(setting, callbacks, section.out, draw),
    )
    roles.work(world, assignment, builders, agreed)


def run_alternate(request: Request) -> None:
    """Correlate all shots by a plain double loop, in one process, and write the test's output.
    Raises ConfigError where the calculator is not exact, or the user's class has other arrays than
    G2 and no other way to calculate them.
    """
    world = World()
    setting = setting_of(request, world)
    section = setting.section
    if section.calculator not in CALCULATORS:
        found = section.calculator
        todo = "Multi-tau averages: its own tests compare it."
        raise ConfigError("correlate.calculator", f"one of {list(CALCULATORS)}", found, todo)
    callbacks = setting.callbacks(is_alternate=True)
    calculate = callbacks.get("calcAndPublishForTestAlt")
    if calculate is None and callbacks.array_names != ARRAYS:
        where = f"{callbacks.name}.calcAndPublishForTestAlt"
        expected = f"a method that calculates {list(callbacks.array_names)} in another way"
        raise ConfigError(where, expected, "none", ABOUT)
    shots = _all_shots(setting, callbacks)
    is_window = section.calculator != "accumulating"
    loop = buffer_loop(shots.times, shots.values, setting.delays, section.buffer_shots, is_window)
    section = section.model_copy(update={"two_time": None})
    viewer = _viewer(setting._replace(section=section), callbacks, section.test_out)
    if calculate is not None:
        kept = np.array(loop.held if is_window else loop.stored, np.int64)
        kept = kept[np.argsort(shots.times[kept])]
        kinds = [("sec", "i4"), ("nsec", "i4"), ("fiducials", "i4"), ("counter", "i8")]
        times = shots.times[kept].tolist()
        ids = np.array([tuple(event_time(time).values()) for time in times], kinds)
        viewer.publish_alternate(calculate, ids, shots.values[kept])
        return
    sums = loop.sums
    numbers = np.array([*sums.counts, *loop.counts], np.int64)
    is_bad = np.any(shots.is_bad[loop.stored], axis=0).astype(np.int8)
    result = Result(np.stack([sums.g2, sums.future, sums.past]), numbers, is_bad)
    last_shot_id = int(shots.times[-1]) if len(shots.times) else 0
    update = Update(len(shots.times), shots.n_dropped, last_shot_id, is_last=True)
    viewer.publish(update, [result])


class _Reader:
    """Reads blocks of the source, has the user's class filter shots, and cuts out the pixels."""

    def __init__(self, setting: Setting, callbacks: Callbacks, widths: list[int]):
        self._setting = setting
        self._callbacks = callbacks
        self._n_elements = math.prod(setting.pixels.shape)
        bounds = np.cumsum(widths)[:-1]
        self._places = np.split(setting.pixels.places, bounds)
        self._callbacks.call("serverInit")

    def packets(self, number: int, n_readers: int) -> Iterator[Packet]:
        """Yield the blocks of a reader, as `roles.Reader`."""
        for block in self._setting.source.blocks(number, n_readers, self._callbacks.accepts):
            for problem in block.problems:
                self._setting.log.warning("%s", problem)
            stack, is_kept = self._filtered(block)
            flat = stack.reshape(len(stack), self._n_elements)
            shards = [np.take(flat, places, axis=1).ravel() for places in self._places]
            yield Packet(
                shot_ids=block.shot_ids[is_kept],
                pixels=np.concatenate(shards) if len(shards) > 1 else shards[0],
                n_dropped=int(np.count_nonzero(~is_kept)),
            )

    def _filtered(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Return the images that are kept, and which shots they are of. Raises ConfigError."""
        is_kept = block.is_valid.copy()
        if self._callbacks.get("serverFinalDataArray") is None:
            return (block.images if is_kept.all() else block.images[is_kept]), is_kept
        kept = []
        for i in np.flatnonzero(is_kept).tolist():
            image = self._callbacks.final(block.images[i], block.events[i])
            is_kept[i] = image is not None
            if image is not None:
                kept.append(image)
        return np.array(kept, np.float32).reshape(-1, *self._setting.pixels.shape), is_kept


def _two_time_sizes(setting: Setting, callbacks: Callbacks) -> tuple[int, int]:
    """Return how many numbers and totals results have in addition. Raises ConfigError where each
    two shots shall be correlated, and the user's class has its own results.
    """
    two_time = setting.section.two_time
    if two_time is None:
        return 0, 0
    for name in ("workerCalc", "viewerPublish"):
        if callbacks.get(name) is not None:
            todo = "Leave out one of them."
            expected = "a class without results of its own"
            raise ConfigError("correlate.two_time", expected, f"{callbacks.name}.{name}", todo)
    return two_time_sizes(len(setting.labels.colours), two_time.n_shots)


def _worker(
    setting: Setting, callbacks: Callbacks, widths: list[int], number: int
) -> G2Worker | UserWorker:
    """Return the worker of a number. widths: pixels of each worker."""
    section = setting.section
    n_pixels = widths[number]
    callbacks.call("workerInit", n_pixels)
    if callbacks.get("workerCalc") is not None:
        return UserWorker(callbacks, section.buffer_shots, n_pixels, len(setting.delays))
    limits = Limits(section.not_zero, section.saturated)
    calculator: Calculator
    if section.calculator == "multi_tau":
        calculator = MultiTau(n_pixels, section.n_levels, section.n_lags, limits)
    else:
        kind = CALCULATORS[section.calculator]
        engine = _engine(section)
        calculator = kind(n_pixels, setting.delays, section.buffer_shots, limits, engine)
    if section.two_time is None:
        return G2Worker(calculator, callbacks)
    first = sum(widths[:number])
    own = setting.labels.of_pixel[first : first + n_pixels]
    n_labels = len(setting.labels.colours)
    two_time = TwoTimeShots(own, n_labels, section.two_time.n_shots, limits)
    return G2Worker(calculator, callbacks, two_time)


def _engine(section: CorrelateSection) -> NewEngine:
    """Return the engine that is configured. JAX is imported where it is used alone."""
    if section.engine == "numba":
        return NumbaEngine
    from spreadflow.analysis.correlation.jax_engine import JaxEngine

    return JaxEngine


def _viewer(
    setting: Setting, callbacks: Callbacks, out: str | None, draw: Draw | None = None
) -> G2Viewer:
    """Return the viewer. Raises FileError where its output can't be written."""
    section = setting.section
    output = Output(
        path=None if out is None else resolved(out),
        is_replacing=section.overwrite,
        system_params=setting.system_params,
        user_params=section.user_params,
        pixels=setting.pixels,
        delays=setting.delays,
        how=How(section.calculator, section.rate_hz, section.not_zero, section.saturated),
        picture=None if section.picture is None else resolved(section.picture),
        draw=draw,
        labels=setting.labels,
        n_ages=0 if section.two_time is None else section.two_time.n_ages,
    )
    return G2Viewer(output, callbacks, setting.log)


class _Shots(NamedTuple):
    """Shots in the order of their arrival."""

    times: np.ndarray
    """(shot,) int64"""
    values: np.ndarray
    """(shot, pixel) float32 as they are correlated"""
    is_bad: np.ndarray
    """(shot, pixel) bool, whether a pixel is saturated or no finite number"""
    n_dropped: int


def _all_shots(setting: Setting, callbacks: Callbacks) -> _Shots:
    """Return all shots."""
    section = setting.section
    n_pixels = len(setting.pixels.places)
    callbacks.call("workerInit", n_pixels)
    empty = Packet(np.zeros(0, np.int64), np.zeros(0, np.float32), 0)
    packets = [empty, *_Reader(setting, callbacks, [n_pixels]).packets(0, 1)]
    times = np.concatenate([packet.shot_ids for packet in packets])
    values = np.concatenate([packet.pixels for packet in packets]).reshape(-1, n_pixels)
    for one in values:
        callbacks.adjust(one)
    is_number = np.isfinite(values)
    least = np.float32(section.not_zero)
    return _Shots(
        times=times,
        values=np.where(is_number & (values > least), values, least),
        is_bad=~is_number | (values >= section.saturated),
        n_dropped=sum(packet.n_dropped for packet in packets),
    )
