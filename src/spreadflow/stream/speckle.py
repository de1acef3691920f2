"""Simulated speckle whose correlation in time is known, with what goes wrong in a stream.

The field of a mode at a pixel is a complex Gaussian process that decays as exp(−Γ t); so g2 − 1 =
β exp(−2 Γ t), where the contrast β is 1 over the number of modes (Siegert). Photons are Poisson.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from spreadflow.stream.shots import Accepts, Block, Event, slices


class Speckle(NamedTuple):
    """What is simulated, and what goes wrong. Fractions are of the shots."""

    n_shots: int
    """on the time axis, before gaps"""
    shape: tuple[int, ...]
    """of an image"""
    mean_photons: float
    """of a pixel in a shot"""
    decay: float
    """Γ, per unit of the shot id"""
    n_modes: int
    """1 over the contrast"""
    is_poisson: bool
    """False = the expected photons themselves"""
    missing: float
    duplicate: float
    disordered: float
    """by up to `disorder_shots`"""
    disorder_shots: int
    late: float
    """by `late_shots`"""
    late_shots: int
    n_dead: int
    """first pixels, which are always 0"""
    n_saturated: int
    """last pixels, which are at `saturated` in one shot of a hundred"""
    saturated: float
    seed: int


def arrivals(speckle: Speckle) -> np.ndarray:
    """Return the times of the shots in the order in which they arrive."""
    rng = np.random.default_rng((speckle.seed, 0))
    times = np.flatnonzero(rng.random(speckle.n_shots) >= speckle.missing)
    times = np.concatenate([times, times[rng.random(len(times)) < speckle.duplicate]])
    delayed = times.astype(float)
    delayed += np.where(
        rng.random(len(times)) < speckle.disordered,
        rng.integers(1, speckle.disorder_shots + 1, len(times)) + 0.5,
        0.0,
    )
    delayed += np.where(rng.random(len(times)) < speckle.late, speckle.late_shots + 0.5, 0.0)
    return times[np.argsort(delayed, kind="stable")].astype(np.int64)


class SimulatedShots:
    """Speckle as a source of shots. Every reader follows the fields of all shots. n_shots: the
    first so many alone; 0 = all.
    """

    def __init__(self, speckle: Speckle, block_shots: int, n_shots: int = 0):
        self.speckle = speckle
        self.shape = speckle.shape
        self.shot_ids = arrivals(speckle)[: n_shots or None]
        self._block_shots = block_shots

    def blocks(self, reader: int, n_readers: int, accepts: Accepts) -> Iterator[Block]:
        """Yield the blocks of one reader, as `Source`."""
        remaining = np.bincount(self.shot_ids, minlength=self.speckle.n_shots)
        fields = self._expected()
        at_hand: dict[int, np.ndarray] = {}
        """time → expected photons of the shots that are still to come"""
        n_followed = 0
        done = 0
        for part in slices(len(self.shot_ids), self._block_shots, reader, n_readers):
            ids = self.shot_ids[part]
            newest = int(self.shot_ids[done : part.stop].max())
            while n_followed <= newest:
                expected = next(fields)
                if remaining[n_followed]:
                    at_hand[n_followed] = expected
                n_followed += 1
            is_valid = np.array(
                [accepts(Event(t, part.start + i)) for i, t in enumerate(ids.tolist())], bool
            )
            images = np.stack([self._image(time, at_hand[time]) for time in ids.tolist()])
            for time in self.shot_ids[done : part.stop].tolist():
                remaining[time] -= 1
                if not remaining[time]:
                    del at_hand[time]
            done = part.stop
            yield Block(ids, images, is_valid)

    def _expected(self) -> Iterator[np.ndarray]:
        """Yield the expected photons (pixel,) of one time after the other."""
        speckle = self.speckle
        rng = np.random.default_rng((speckle.seed, 1))
        size = (2, speckle.n_modes, int(np.prod(speckle.shape)))
        kept = np.exp(-speckle.decay)
        added = np.sqrt(1 - kept**2)
        field = rng.standard_normal(size)
        while True:
            yield speckle.mean_photons * np.mean(np.sum(field**2, axis=0), axis=0) / 2
            field = kept * field + added * rng.standard_normal(size)

    def _image(self, time: int, expected: np.ndarray) -> np.ndarray:
        """Return the image of a shot, the same whenever it is asked for."""
        speckle = self.speckle
        rng = np.random.default_rng((speckle.seed, 2, time))
        image = rng.poisson(expected) if speckle.is_poisson else expected.copy()
        image[: speckle.n_dead] = 0
        if speckle.n_saturated and rng.random() < 0.01:
            image[-speckle.n_saturated :] = speckle.saturated
        return image.reshape(speckle.shape).astype(np.float32)
