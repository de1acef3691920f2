"""The loop that makes photons of the numbers of a frame, compiled: one pass over the pixels."""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled_in_order


class Scale(NamedTuple):
    """What all pixels have in common."""

    offset: np.float32
    """ADU"""
    adu_per_photon: np.float32


class Flat(NamedTuple):
    """The pixels of a frame one after the other; (pixel,)."""

    adu: np.ndarray
    usable: np.ndarray
    """bool, not masked"""
    photons: np.ndarray
    """float32, is set; 0 where the ADU are no numbers"""
    valid: np.ndarray
    """bool, is set: usable and within the trusted range"""


@compiled_in_order
def convert(flat, low, high, scale):
    """Set photons and valid pixels, and return how many are usable, numbers and not below the
    trusted range, and how many of these not above it either. low, high: of that range, ADU.
    """
    n_good = 0
    n_valid = 0
    for i in range(len(flat.adu)):
        adu = flat.adu[i]
        is_good = flat.usable[i] & (adu >= low) & np.isfinite(adu)
        is_valid = is_good & (adu <= high)
        photons = (np.float32(adu) - scale.offset) / scale.adu_per_photon
        flat.photons[i] = photons if np.isfinite(adu) else np.float32(0)
        flat.valid[i] = is_valid
        n_good += is_good
        n_valid += is_valid
    return n_good, n_valid


@compiled_in_order
def convert_mapped(flat, low, high, scale, pedestal, gain):
    """Do what `convert` does where each pixel has a pedestal and a gain of its own, (pixel,)
    float32. high: (pixel,), or (1,) for all.
    """
    n_good = 0
    n_valid = 0
    step = 1 if len(high) == len(flat.adu) else 0
    for i in range(len(flat.adu)):
        adu = flat.adu[i]
        is_good = flat.usable[i] & (adu >= low) & np.isfinite(adu)
        is_valid = is_good & (adu <= high[i * step])
        photons = (np.float32(adu) - scale.offset - pedestal[i]) / scale.adu_per_photon / gain[i]
        flat.photons[i] = photons if np.isfinite(adu) else np.float32(0)
        flat.valid[i] = is_valid
        n_good += is_good
        n_valid += is_valid
    return n_good, n_valid


@compiled_in_order
def is_constant(adu, valid):
    """Whether all valid pixels hold the same number. adu, valid: (pixel,)."""
    first = -1
    for i in range(len(adu)):
        if not valid[i]:
            continue
        if first < 0:
            first = i
        elif adu[i] != adu[first]:
            return False
    return True
