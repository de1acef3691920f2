"""The detector in place of the one in a header, and where its panels lie in the frames."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from spreadflow.errors import FileError
from spreadflow.io.images.nexus_geometry import Module, overlap
from spreadflow.io.panels import Sensor, with_sensor
from spreadflow.models import Detector


class Layout(NamedTuple):
    """What stands in place of a header's geometry."""

    detector: Detector
    """in the laboratory frame"""
    modules: Sequence[Module] | None = None
    """pixels of each panel in a frame as it is stored; None where the panels are those of the file
    """
    mask: np.ndarray | None = None
    """(panel, slow, fast) the pixels that may be used; None = all"""
    remarks: Sequence[str] = ()
    """what was assumed, a sentence each"""

    def detector_with(self, sensor: Callable[[], Sensor]) -> Detector:
        """Return the detector, with the sensor of a header where the geometry states none. sensor:
        returns it.
        """
        if self.detector.thickness_mm > 0:
            return self.detector
        return with_sensor(self.detector, sensor())

    def check_panels(self, where: object, shape: tuple[int, ...]) -> None:
        """Raise FileError where panels (panel, slow, fast) of a file are other than the
        detector's. where: the file.
        """
        own = (self.detector.n_panels, *self.detector.shape)
        if tuple(shape) != own:
            raise FileError(where, f"panels of shape {own}", shape, "The geometry is of another.")

    def fitted(self, where: object, shape: tuple[int, ...]) -> list[Module]:
        """Return the panels as they lie in frames of this shape. Raises FileError where they lie
        beyond them or have pixels in common. where: the file.
        """
        modules = [module.of_one_panel(shape, 1) for module in self.modules or ()]
        expected = f"frames that hold the panels of the geometry, which end at {_end(modules)}"
        if not all(module.fits(shape) for module in modules):
            raise FileError(where, expected, f"frames of {shape}", "It is of another detector.")
        if overlap(modules):
            raise FileError(
                where, "panels without common pixels", "others", "Correct the geometry."
            )
        return modules


def _end(modules: Sequence[Module]) -> tuple[int, ...]:
    """Return the shape of the smallest frame that holds all modules, of one number of axes."""
    if len({len(module.size) for module in modules}) != 1:
        return ()
    ends = np.array([np.add(module.corner, module.size) for module in modules])
    return tuple(ends.max(axis=0).tolist())


def panels_of(frame: np.ndarray, modules: Sequence[Module], shape: tuple[int, int]) -> np.ndarray:
    """Return the panels (panel, slow, fast) of a frame as it is stored. shape: of each."""
    return np.stack([frame[module.slices].reshape(shape) for module in modules])
