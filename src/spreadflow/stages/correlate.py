"""correlate: every pixel with itself at later times, on ranks that read, work and view.

It is a stage of the workflow for the runs of a trial, and correlates other shots as they come.
"""

import platform
from collections.abc import Iterator

import numpy as np

from spreadflow.analysis.correlation.calculators import CALCULATORS, Calculator, NewEngine
from spreadflow.analysis.correlation.double_loop import double_loop
from spreadflow.analysis.correlation.engine import Limits
from spreadflow.analysis.correlation.history import Counts
from spreadflow.analysis.correlation.multi_tau import MultiTau
from spreadflow.analysis.correlation.numba_engine import NumbaEngine
from spreadflow.analysis.correlation.two_time import TwoTimeShots
from spreadflow.config.correlate import CorrelateSection
from spreadflow.errors import ConfigError, RanksError
from spreadflow.io.g2 import How, resolved
from spreadflow.parallel import World, roles
from spreadflow.parallel.roles import Agreement, Builders, Packet, Result, Update
from spreadflow.stages.correlation_callbacks import Callbacks
from spreadflow.stages.correlation_setting import Request, Setting, setting_of
from spreadflow.stages.correlation_viewer import G2Viewer, Output, event_time
from spreadflow.stages.correlation_workers import (
    N_COUNTS,
    G2Worker,
    UserWorker,
    two_time_sizes,
)
from spreadflow.stream.shots import Block


def run(request: Request, world: World) -> None:
    """Correlate all shots. Collective. Raises ConfigError, FileError or RanksError."""
    setting = setting_of(request, world)
    section = setting.section
    if section.engine == "jax":
        from spreadflow.stages import devices

        devices.take(world, "correlate")
    assignment = None
    n_workers = 1
    if world.size > 1:
        hosts = world.gather(platform.node())
        assignment = roles.assign(hosts, section.readers, section.reader_hosts)
        n_workers = len(assignment.workers)
    widths = roles.widths_of(len(setting.pixels.places), n_workers)
    if min(widths) == 0:
        found = f"{len(setting.pixels.places)} pixels"
        todo = "Start fewer ranks."
        raise RanksError("correlate", f"a pixel for each of {n_workers} workers", found, todo)
    block_shots = min(section.block_shots, section.update_shots or section.block_shots)
    n_numbers, n_totals = _two_time_sizes(setting)
    agreed = Agreement(
        widths=widths,
        block_shots=block_shots,
        update_shots=section.update_shots,
        takes_turns=section.takes_turns,
        n_arrays=len(setting.callbacks().array_names),
        n_delays=len(setting.delays),
        n_numbers=len(setting.delays) + N_COUNTS + n_numbers,
        n_totals=n_totals,
    )
    builders = Builders(
        reader=lambda: _Reader(setting, widths),
        worker=lambda number: _worker(setting, widths, number),
        viewer=lambda: _viewer(setting, setting.callbacks(), section.out),
    )
    roles.work(world, assignment, builders, agreed)


def run_alternate(request: Request) -> None:
    """Correlate all shots by a plain double loop, in one process, and write the test's output.
    Raises ConfigError where the calculator is not exact.
    """
    world = World()
    setting = setting_of(request, world)
    section = setting.section
    if section.calculator not in CALCULATORS:
        found = section.calculator
        todo = "Multi-tau averages: its own tests compare it."
        raise ConfigError("correlate.calculator", f"one of {list(CALCULATORS)}", found, todo)
    callbacks = setting.callbacks(is_alternate=True)
    times, values, is_bad, counts = _all_shots(setting, callbacks)
    if section.calculator != "accumulating":
        times = times[-section.buffer_shots :]
        values = values[-section.buffer_shots :]
    section = section.model_copy(update={"two_time": None})
    viewer = _viewer(setting._replace(section=section), callbacks, section.test_out)
    calculate = callbacks.get("calcAndPublishForTestAlt")
    update = Update(counts.n_shots, 0, int(times[-1]), is_last=True)
    if calculate is not None:
        kinds = [("sec", "i4"), ("nsec", "i4"), ("fiducials", "i4"), ("counter", "i8")]
        ids = np.array([tuple(event_time(t).values()) for t in times.tolist()], kinds)
        viewer.publish_alternate(calculate, ids, values)
        return
    sums = double_loop(times, values, setting.delays)
    numbers = np.array([*sums.counts, *counts], np.int64)
    result = Result(np.stack([sums.g2, sums.future, sums.past]), numbers, is_bad)
    viewer.publish(update, [result])


class _Reader:
    """Reads blocks of the source, has the user's class filter shots, and cuts out the pixels."""

    def __init__(self, setting: Setting, widths: list[int]):
        self._setting = setting
        self._callbacks = setting.callbacks()
        bounds = np.cumsum(widths)[:-1]
        self._places = np.split(setting.pixels.places, bounds)
        self._callbacks.call("serverInit")

    def packets(self, number: int, n_readers: int) -> Iterator[Packet]:
        """Yield the blocks of a reader, as `roles.Reader`."""
        for block in self._setting.source.blocks(number, n_readers, self._callbacks.accepts):
            for problem in block.problems:
                self._setting.log.warning("%s", problem)
            stack, is_kept = self._filtered(block)
            flat = stack.reshape(len(stack), -1)
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


def _two_time_sizes(setting: Setting) -> tuple[int, int]:
    """Return how many numbers and totals results have in addition. Raises ConfigError where each
    two shots shall be correlated, and the user's class has its own results.
    """
    two_time = setting.section.two_time
    if two_time is None:
        return 0, 0
    callbacks = setting.callbacks()
    for name in ("workerCalc", "viewerPublish"):
        if callbacks.get(name) is not None:
            todo = "Leave out one of them."
            expected = "a class without results of its own"
            raise ConfigError("correlate.two_time", expected, f"{callbacks.name}.{name}", todo)
    return two_time_sizes(len(setting.labels.colours), two_time.n_shots)


def _worker(setting: Setting, widths: list[int], number: int) -> G2Worker | UserWorker:
    """Return the worker of a number. widths: pixels of each worker."""
    section = setting.section
    n_pixels = widths[number]
    callbacks = setting.callbacks()
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


def _viewer(setting: Setting, callbacks: Callbacks, out: str | None) -> G2Viewer:
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
        n_ages=0 if section.two_time is None else section.two_time.n_ages,
    )
    return G2Viewer(output, callbacks, setting.log)


def _all_shots(
    setting: Setting, callbacks: Callbacks
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Counts]:
    """Return the times of all shots, ascending and distinct, their values as they are correlated,
    which pixels are bad, and what became of the shots.
    """
    section = setting.section
    n_pixels = len(setting.pixels.places)
    callbacks.call("workerInit", n_pixels)
    held: dict[int, np.ndarray] = {}
    is_bad = np.zeros(n_pixels, np.int8)
    n_shots = 0
    for packet in _Reader(setting, [n_pixels]).packets(0, 1):
        pixels = packet.pixels.reshape(-1, n_pixels)
        for time, values in zip(packet.shot_ids.tolist(), pixels, strict=True):
            n_shots += 1
            if time in held:
                continue
            callbacks.adjust(values)
            is_number = np.isfinite(values)
            is_bad |= (~is_number | (values >= section.saturated)).astype(np.int8)
            least = np.float32(section.not_zero)
            held[time] = np.where(is_number & (values > least), values, least)
    times = np.array(sorted(held), np.int64)
    values = np.array([held[time] for time in times.tolist()])
    return times, values, is_bad, Counts(n_shots, n_shots - len(times), 0, 0)
