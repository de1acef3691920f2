"""The tier of a test is measured, not guessed.

Unmarked tests are the developer's loop (`make check`): each takes less than a second of processor
time, set-up included. `stage` marks tests that take seconds, `chain` those that start processes
(MPI, Snakemake, Slurm), `long` measurements that take minutes. With `--tiers error` an unmarked
test that takes longer fails, with `--tiers warn` it is named in the closing summary.

Compiling does not count: JAX and numba keep compiled programs for the next run, and so do fixtures
that are kept on disk (`lab.cached`).
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from numba.core import event

LONGEST_UNMARKED_S = 1.0
"""Processor seconds that an unmarked test may take, set-up included."""

SLOWER_TIERS = ("stage", "chain", "long", "gpu")
"""Marks of tests that may take longer."""

ALLOWED_TO_COMPILE_S = 0.5
"""A test that compiled for longer than this is not judged: its programs are at hand the next time.
"""

EXCUSED = {"seconds": 0.0}
"""Seconds that JAX and numba have spent compiling, and fixtures filling the disk, since the process
began.
"""

ORDER = ("stage", "gpu", "chain", "long", "")
"""Tiers of files, each that of its slowest test, in the order in which they run. What the test of
a stage has compiled is at hand for its ranks, which would each compile it; and where the short ones
are the last, no worker waits long for another.
"""

SECONDS = pytest.StashKey[float]()
EXCUSED_SECONDS = pytest.StashKey[float]()


def excuse(seconds: float) -> None:
    """Leave seconds out of the time of the test that is running."""
    EXCUSED["seconds"] += seconds


def _hear_of_compiling(event: str, seconds: float, **_attributes: object) -> None:
    if event.startswith("/jax/core/compile/"):
        excuse(seconds)


class _HearOfNumba(event.Listener):
    """Excuses what numba takes to compile; functions that are compiled within another are part of
    it.
    """

    def __init__(self):
        self._depth = 0
        self._start = 0.0

    def on_start(self, event: event.Event) -> None:
        if self._depth == 0:
            self._start = time.perf_counter()
        self._depth += 1

    def on_end(self, event: event.Event) -> None:
        self._depth -= 1
        if self._depth == 0:
            excuse(time.perf_counter() - self._start)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tiers",
        choices=["off", "warn", "error"],
        default="off",
        help=f"what to do about unmarked tests that take more than {LONGEST_UNMARKED_S:g} s of "
        "processor time",
    )


def pytest_configure(config: pytest.Config) -> None:
    jax.monitoring.register_event_duration_secs_listener(_hear_of_compiling)
    event.register("numba:compile", _HearOfNumba())


def _tier(item: pytest.Item) -> str:
    """Return the tier of a test; that of an unmarked one is empty."""
    return next((tier for tier in reversed(SLOWER_TIERS) if item.get_closest_marker(tier)), "")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of the tests that were chosen in the order of their tiers."""
    slowest: dict[Path, str] = {}
    for item in sorted(items, key=lambda item: ("", *SLOWER_TIERS).index(_tier(item))):
        slowest[item.path] = _tier(item)
    items.sort(key=lambda item: ORDER.index(slowest[item.path]))


def processor_seconds() -> float:
    """Return user and system seconds of this process and of its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _timed(item: pytest.Item) -> Iterator[None]:
    """Add what a phase of a test takes to its stash."""
    start = processor_seconds()
    excused = EXCUSED["seconds"]
    yield
    spent = processor_seconds() - start
    item.stash[SECONDS] = item.stash.get(SECONDS, 0.0) + spent
    compiling = EXCUSED["seconds"] - excused
    item.stash[EXCUSED_SECONDS] = item.stash.get(EXCUSED_SECONDS, 0.0) + compiling


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from _timed(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    return (yield from _timed(item))


def too_slow(item: pytest.Item) -> str:
    """Return a sentence about a test that belongs to a slower tier, or nothing."""
    seconds = item.stash.get(SECONDS, 0.0)
    excused = item.stash.get(EXCUSED_SECONDS, 0.0)
    if _tier(item) or excused > ALLOWED_TO_COMPILE_S or seconds - excused <= LONGEST_UNMARKED_S:
        return ""
    return (
        f"{item.nodeid} takes {seconds - excused:.1f} s of processor time; an unmarked test takes "
        "at most "
        f"{LONGEST_UNMARKED_S:g} s. Make it smaller, or mark it `stage`, `chain` or `long`."
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    report = yield
    choice = item.config.getoption("--tiers")
    if call.when == "call" and report.passed and choice != "off" and (sentence := too_slow(item)):
        if choice == "error":
            report.outcome = "failed"
            report.longrepr = sentence
        else:
            item.warn(pytest.PytestWarning(sentence))
    return report
