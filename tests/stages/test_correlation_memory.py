"""What memory a correlation takes is known before it is taken."""

import tracemalloc

import pytest

from spreadflow.config.correlate import CorrelateSection
from spreadflow.errors import ConfigError
from spreadflow.parallel import World
from spreadflow.parallel.roles import Assignment
from spreadflow.stages import correlate, correlation_memory
from spreadflow.stages.correlation_memory import Host, PixelBytes, by_host, pixel_bytes
from spreadflow.stages.correlation_setting import Request

N_DELAYS = 24


def section(n_pixels: int, **keys) -> CorrelateSection:
    """Return a section whose shots are few beside what is kept of them."""
    defaults = {
        "simulated": {"n_shots": 160, "shape": [1, n_pixels]},
        "delays": list(range(1, N_DELAYS + 1)),
        "buffer_shots": 150,
        "block_shots": 8,
        "out": None,
    }
    return CorrelateSection.model_validate(defaults | keys)


def peak(n_pixels: int, **keys) -> int:
    """Return the most bytes that a correlation has at once."""
    tracemalloc.start()
    correlate.run(Request(section(n_pixels, **keys)), World())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("calculator", ["accumulating", "at_end", "multi_tau"])
def test_what_is_said_is_what_is_taken(calculator):
    keys = {"calculator": calculator, "n_levels": 5, "n_lags": 8}
    peak(100, **keys)
    taken = (peak(6000, **keys) - peak(2000, **keys)) / 4000
    n_delays = N_DELAYS if calculator != "multi_tau" else 8 + 4 * 4
    said = pixel_bytes(section(1, **keys), n_delays)
    assert 0.6 * taken < said.worker + said.viewer < 1.4 * taken


def test_ranks_of_a_host_share_its_memory():
    one, other = Host("one", 0), Host("other", 0)
    assignment = Assignment(viewer=0, master=1, readers=(2,), workers=(3, 4, 5))
    hosts = [one, one, one, one, other, other]
    assert by_host(PixelBytes(100, 10), hosts, assignment, [7, 6, 6]) == {
        one: 7 * 100 + 19 * 10,
        other: 12 * 100,
    }


def test_a_host_without_the_memory_is_named_before_the_first_shot(monkeypatch):
    small = Host("n7", 10_000_000)
    monkeypatch.setattr(correlation_memory, "this_host", lambda name: small)
    correlate.run(Request(section(1000)), World())
    expected = "the memory: 0.01 GB; found 0.07.* GB for 20000 pixels, 24 delays and 150 shots"
    with pytest.raises(ConfigError, match=expected):
        correlate.run(Request(section(20_000)), World())
