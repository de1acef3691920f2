"""The shots of a run as its manifest describes them: in photons, by its gains and masks."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from spreadflow.io.images import Source as Images
from spreadflow.models import Detector
from spreadflow.stream.shots import Accepts, Block, Event, slices


class RunShots:
    """Shots of a run, counted in the order of its files. n_shots: the first so many alone; 0 = all.
    Raises FileError.
    """

    def __init__(self, manifest: Path, block_shots: int, n_shots: int = 0):
        self._images = Images(manifest)
        self.detector: Detector = self._images.detector
        self.shape = (self.detector.n_panels, *self.detector.shape)
        self.n_shots = min(n_shots or self._images.n_shots, self._images.n_shots)
        self._block_shots = block_shots

    @property
    def energy_ev(self) -> float | None:
        """Mean energy of the photons of the first shot; None where it is not stated."""
        spectrum = self._images.spectrum(0)
        return None if spectrum is None else float(spectrum.mean_energy_ev)

    def blocks(self, reader: int, n_readers: int, accepts: Accepts) -> Iterator[Block]:
        """Yield the blocks of one reader, as `Source`; a pixel that is masked is no number.
        A shot whose pixels all hold the same number was not recorded.
        """
        together = np.empty((min(self._block_shots, self.n_shots), *self.shape), np.float32)
        for part in slices(self.n_shots, self._block_shots, reader, n_readers):
            events = [Event(number, number) for number in range(part.start, part.stop)]
            images = together[: len(events)]
            is_valid = np.zeros(len(events), bool)
            for i, event in enumerate(events):
                image = self._images.recorded(event.number) if accepts(event) else None
                if image is not None:
                    images[i] = image
                    is_valid[i] = True
            yield Block(events, images, is_valid)
