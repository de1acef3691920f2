"""Outputs of `correlate` joined: runs of the same pixels add up, shards of the same shots lie side
by side.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spreadflow.analysis.correlation.history import Counts
from spreadflow.analysis.correlation.sums import PER_PIXEL, Sums, added, side_by_side
from spreadflow.errors import FileError
from spreadflow.io import g2
from spreadflow.io.colours import Pixels
from spreadflow.io.g2 import Stored
from spreadflow.log import logger
from spreadflow.parallel import World
from spreadflow.parallel.roles import Result, Update
from spreadflow.stages.correlation_callbacks import Callbacks
from spreadflow.stages.correlation_viewer import G2Viewer, Output

SAME_PARTNERS = {"windowed": "at_end", "fft": "at_end"}
"""Calculators → the one that counts the same partners: sums differ in their last digits alone."""


def merge(paths: Sequence[Path], out: str, is_replacing: bool) -> None:
    """Join the last updates of some outputs into another one. Two-time correlation stays behind:
    each run has its own ages. Raises FileError where they do not belong together.
    """
    stored = [g2.read_last(path) for path in paths]
    first = stored[0]
    for other in stored[1:]:
        _check_together(first, other)
    checksums = _checksums(stored)
    are_runs = all(_are_same(first.pixels, other.pixels) for other in stored)
    pixels, sums, shots = _added(stored) if are_runs else _side_by_side(stored)
    output = Output(
        path=g2.resolved(out),
        is_replacing=is_replacing,
        system_params={"delays": first.delays, "merged_from": [str(path) for path in paths]},
        user_params={},
        pixels=pixels,
        delays=first.delays,
        how=first.how,
    )
    viewer = G2Viewer(output, Callbacks(None), logger("correlate", World()))
    last_shot_id = max(one.last_shot_id for one in stored)
    update = Update(shots["n_shots"], shots["n_dropped"], last_shot_id, is_last=True)
    result = Result(
        values=np.stack([sums.g2, sums.future, sums.past]),
        numbers=np.array([*sums.counts, *(shots[name] for name in Counts._fields)], np.int64),
        flags=sums.is_bad,
    )
    viewer.publish_merged(update, result, checksums)


def _check_together(first: Stored, other: Stored) -> None:
    """Raise FileError where sums of one mean something else than those of the other."""
    for what, own, others in (
        ("images of shape", first.pixels.shape, other.pixels.shape),
        ("delays", first.delays.tolist(), other.delays.tolist()),
        ("sums by", _partners(first), _partners(other)),
    ):
        if own != others:
            expected = f"{what} {own}, as in {first.path}"
            raise FileError(other.path, expected, others, "Correlate both in the same way.")


def _checksums(stored: Sequence[Stored]) -> list[str]:
    """Return the checksums of all that is merged. Raises FileError where some comes twice, under
    whatever name: its shots would count twice.
    """
    path_of: dict[str, Path] = {}
    for one in stored:
        for checksum in one.checksums:
            if checksum in path_of:
                found = f"the same one twice, in {path_of[checksum]} and here"
                raise FileError(one.path, "another output", found, "Name each once.")
            path_of[checksum] = one.path
    return list(path_of)


def _partners(stored: Stored) -> tuple[Any, ...]:
    """Return what decides which sums an output has."""
    calculator = SAME_PARTNERS.get(stored.how.calculator, stored.how.calculator)
    return tuple(stored.how._replace(calculator=calculator))


def _are_same(first: Pixels, other: Pixels) -> bool:
    """Whether pixels and their colours are the same."""
    return all(
        np.array_equal(getattr(first, name), getattr(other, name))
        for name in ("places", "colours", "fine_colours")
    )


def _sums(stored: Stored) -> Sums:
    """Return the sums of an output."""
    arrays = stored.arrays
    return Sums(
        delays=stored.delays,
        counts=stored.counts,
        g2=arrays["G2"],
        past=arrays["IP"],
        future=arrays["IF"],
        is_bad=stored.is_bad,
    )


def _added(stored: Sequence[Stored]) -> tuple[Pixels, Sums, dict[str, int]]:
    """Return the pixels, sums and numbers of shots of all runs."""
    shots = {name: sum(run.shots[name] for run in stored) for name in stored[0].shots}
    return stored[0].pixels, added([_sums(run) for run in stored]), shots


def _side_by_side(stored: Sequence[Stored]) -> tuple[Pixels, Sums, dict[str, int]]:
    """Return the pixels, sums and numbers of shots of all shards. Raises FileError where they have
    a pixel in common, or other shots.
    """
    first = stored[0]
    places = np.concatenate([shard.pixels.places for shard in stored])
    todo = "Correlate each pixel once, or the same pixels of each run."
    before = first.pixels.places
    for other in stored[1:]:
        n_common = len(np.intersect1d(before, other.pixels.places))
        if n_common:
            expected = f"the pixels and colours of {first.path}, or none of those before"
            raise FileError(other.path, expected, f"{n_common} pixels in common", todo)
        before = np.union1d(before, other.pixels.places)
        same = np.array_equal(first.counts, other.counts) and first.shots == other.shots
        if not same or first.last_shot_id != other.last_shot_id:
            expected = f"the shots of {first.path}, {first.shots}"
            raise FileError(other.path, expected, other.shots, todo)
    order = np.argsort(places)
    sums = side_by_side([_sums(shard) for shard in stored])
    in_order = {name: getattr(sums, name)[..., order] for name in PER_PIXEL}
    colours, fine_colours = (
        np.concatenate([getattr(shard.pixels, name) for shard in stored])[order]
        for name in ("colours", "fine_colours")
    )
    pixels = Pixels(
        shape=first.pixels.shape,
        places=places[order],
        colours=colours,
        fine_colours=fine_colours,
        n_masked_in=sum(shard.pixels.n_masked_in for shard in stored),
    )
    return pixels, sums._replace(**in_order), first.shots
