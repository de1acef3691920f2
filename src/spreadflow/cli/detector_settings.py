"""Arguments of `spreadflow manifest` about the detector: sensor, maps, common mode."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spreadflow.io.images import DetectorSettings


def add_to(p: argparse.ArgumentParser) -> None:
    """Add the arguments to a word."""
    sensor_help = "Si, CdTe or GaAs, and mm (0 = no depth), in place of what files state"
    p.add_argument("--sensor", nargs=2, metavar=("MATERIAL", "MM"), help=sensor_help)
    maps_help = "HDF5 file with `pedestal` (ADU) and `gain` (times --adu-per-photon) of each pixel"
    p.add_argument("--calibration", type=Path, metavar="FILE", help=maps_help)
    common_help = "pixels of the regions whose dark pixels are brought to 0 in each image"
    p.add_argument("--common-mode", nargs=2, type=int, metavar=("SLOW", "FAST"), help=common_help)


def settings(arguments: argparse.Namespace) -> "DetectorSettings":
    """Return what the arguments say. Raises ConfigError."""
    from pydantic import ValidationError

    from spreadflow.errors import ConfigError
    from spreadflow.io.images import DetectorSettings, StatedSensor

    sensor = None
    if arguments.sensor is not None:
        material, thickness_mm = arguments.sensor
        try:
            sensor = StatedSensor.model_validate(
                {"material": material, "thickness_mm": thickness_mm}
            )
        except ValidationError:
            found = f"{material} {thickness_mm}"
            expected = "Si, CdTe or GaAs, and a thickness in mm"
            raise ConfigError("--sensor", expected, found, "As in: --sensor Si 0.5") from None
    common_mode = arguments.common_mode
    if common_mode is not None and min(common_mode) < 1:
        found = " ".join(map(str, common_mode))
        expected = "two positive numbers of pixels"
        raise ConfigError("--common-mode", expected, found, "As in: --common-mode 185 194")
    return DetectorSettings(
        sensor=sensor,
        calibration=arguments.calibration,
        common_mode=None if common_mode is None else tuple(common_mode),
    )
