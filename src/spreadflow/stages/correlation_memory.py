"""What memory a correlation takes, and whether hosts have it, before the first shot is read."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from spreadflow.analysis.correlation.calculators import ARRIVING
from spreadflow.analysis.correlation.terms import n_filled
from spreadflow.config.correlate import CorrelateSection
from spreadflow.errors import ConfigError
from spreadflow.parallel.roles import Assignment

if TYPE_CHECKING:
    from spreadflow.stages.correlation_setting import Setting

SUMS = 3 * 8
"""Bytes of the three sums of a delay."""

IN_VIEWER = 2
"""Times that the viewer holds the sums of all pixels: as they came, and as they are published."""


class PixelBytes(NamedTuple):
    """Bytes that a pixel takes."""

    worker: int
    """in its worker: values, sums, and the sums that are sent"""
    viewer: int
    """in the viewer"""


class Host(NamedTuple):
    """Where a rank runs."""

    name: str
    n_bytes: int
    """of its memory"""


def this_host(name: str) -> Host:
    """Return the host of this process. name: of it."""
    return Host(name, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def pixel_bytes(section: CorrelateSection, n_delays: int) -> PixelBytes:
    """Return the bytes that a pixel takes by the calculators of this package; what a class of the
    user calculates instead is taken to need as much.
    """
    n_sums = n_filled(n_delays)
    if section.calculator == "multi_tau":
        kept = 8 * section.n_levels * section.n_lags
        n_sums = section.n_levels * n_filled(section.n_lags)
    else:
        kept = 4 * (section.buffer_shots + min(ARRIVING, section.buffer_shots))
    if section.two_time is not None:
        kept += 4 * section.two_time.n_shots
    results = SUMS * n_delays
    return PixelBytes(worker=kept + SUMS * n_sums + results, viewer=IN_VIEWER * results)


def by_host(
    of_pixel: PixelBytes,
    hosts: Sequence[Host],
    assignment: Assignment | None,
    widths: Sequence[int],
) -> dict[Host, int]:
    """Return the bytes that all ranks of each host take together. hosts: of each rank. assignment:
    None = one process has all roles. widths: pixels of each worker.
    """
    n_bytes = dict.fromkeys(hosts, 0)
    workers = (0,) if assignment is None else assignment.workers
    viewer = 0 if assignment is None else assignment.viewer
    for rank, n_pixels in zip(workers, widths, strict=True):
        n_bytes[hosts[rank]] += n_pixels * of_pixel.worker
    n_bytes[hosts[viewer]] += sum(widths) * of_pixel.viewer
    return n_bytes


def check(
    setting: "Setting", hosts: Sequence[Host], assignment: Assignment | None, widths: Sequence[int]
) -> None:
    """Log what memory is taken. Raises ConfigError where a host has less: it would be taken little
    by little, and the system would kill a rank in the middle of a run. Arguments as of `by_host`.
    """
    n_pixels = len(setting.pixels.places)
    of_pixel = pixel_bytes(setting.section, len(setting.delays))
    for host, n_bytes in by_host(of_pixel, hosts, assignment, widths).items():
        if n_bytes > host.n_bytes:
            raise ConfigError(
                "correlate",
                f"pixels, delays and a buffer for which {host.name} has the memory: "
                f"{host.n_bytes / 1e9:.3g} GB",
                f"{n_bytes / 1e9:.3g} GB for {n_pixels} pixels, {len(setting.delays)} delays and "
                f"{setting.section.buffer_shots} shots in the buffer",
                "Mask pixels, have fewer delays or a shorter buffer_shots, correlate by multi_tau, "
                "or spread the ranks over more nodes.",
            )
        setting.log.info("%s: %.3g GB for values and sums", host.name, n_bytes / 1e9)
