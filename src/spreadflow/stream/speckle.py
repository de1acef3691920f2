"""Simulated speckle whose correlation in time is known, with what goes wrong in a stream.

The field of a mode at a pixel is a complex Gaussian process that decays as f(t) = exp(−(Γ t)^γ); so
g2 − 1 = β f(t)², where the contrast β is 1 over the number of modes (Siegert). A stretched decay,
γ < 1, is that of a sum of processes of which each decays exponentially, at rates and with weights
that come closest to it.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import scipy

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
    stretch: float
    """γ, from 0 to 1; 1 = exponential"""
    n_modes: int
    """1 over the contrast"""
    noise: Literal["poisson", "gaussian", "none"]
    """photons are counted, or a Gaussian is added to what is expected of them, or nothing is"""
    noise_photons: float
    """standard deviation of the Gaussian"""
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


N_RATES = 80
"""Rates among which those of a stretched decay are, evenly spaced in their logarithm."""

RATES = (1e-4, 1e4)
"""The slowest and the fastest of them, in units of Γ."""

DECAYED = 6.0
"""(Γ t)^γ up to which a stretched decay is followed: e⁻⁶ of the field is left."""


def components(decay: float, stretch: float) -> tuple[np.ndarray, np.ndarray]:
    """Return rates and weights, each (component,), of exponentials whose sum is a stretched one.
    The weights sum to 1.
    """
    if stretch == 1:
        return np.array([decay]), np.ones(1)
    rates = np.geomspace(*RATES, N_RATES)
    x = np.geomspace(1e-4, DECAYED, 4 * N_RATES) ** (1 / stretch)
    weights, _ = scipy.optimize.nnls(np.exp(-np.outer(x, rates)), np.exp(-(x**stretch)))
    is_used = weights > 0
    return decay * rates[is_used], weights[is_used] / weights.sum()


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
            events = [Event(time, part.start + i) for i, time in enumerate(ids.tolist())]
            is_valid = np.array([accepts(event) for event in events], bool)
            images = np.stack([self._image(time, at_hand[time]) for time in ids.tolist()])
            for time in self.shot_ids[done : part.stop].tolist():
                remaining[time] -= 1
                if not remaining[time]:
                    del at_hand[time]
            done = part.stop
            yield Block(events, images, is_valid)

    def _expected(self) -> Iterator[np.ndarray]:
        """Yield the expected photons (pixel,) of one time after the other."""
        speckle = self.speckle
        rng = np.random.default_rng((speckle.seed, 1))
        rates, weights = components(speckle.decay, speckle.stretch)
        kept, share = (values[:, None, None, None] for values in (np.exp(-rates), weights**0.5))
        added = np.sqrt(1 - kept**2)
        size = (len(rates), 2, speckle.n_modes, int(np.prod(speckle.shape)))
        fields = rng.standard_normal(size)
        while True:
            field = np.sum(share * fields, axis=0)
            yield speckle.mean_photons * np.mean(np.sum(field**2, axis=0), axis=0) / 2
            fields = kept * fields + added * rng.standard_normal(size)

    def _image(self, time: int, expected: np.ndarray) -> np.ndarray:
        """Return the image of a shot, the same whenever it is asked for."""
        speckle = self.speckle
        rng = np.random.default_rng((speckle.seed, 2, time))
        image = self._recorded(expected, rng)
        image[: speckle.n_dead] = 0
        if speckle.n_saturated and rng.random() < 0.01:
            image[-speckle.n_saturated :] = speckle.saturated
        return image.reshape(speckle.shape).astype(np.float32)

    def _recorded(self, expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return expected photons with noise."""
        match self.speckle.noise:
            case "poisson":
                return rng.poisson(expected)
            case "gaussian":
                return expected + self.speckle.noise_photons * rng.standard_normal(len(expected))
        return expected.copy()
