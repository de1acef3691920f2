"""Compiled loops over the pixels of shoeboxes: the planes and the scale that suit them best."""

from typing import NamedTuple

import numpy as np

from spreadflow.physics.compiling import compiled, inlined

SMALLEST_FACTOR = 1e-3
"""Factor of the Bragg photons, at least."""


class PixelColumns(NamedTuple):
    """What planes are fitted to; pixels ordered by shoebox."""

    photons: np.ndarray
    """(pixel,)"""
    bragg: np.ndarray
    """(pixel,) photons of the model, up to a factor"""
    plane: np.ndarray
    """(pixel, 3) as of `solve.Data`"""
    counted: np.ndarray
    """(pixel,) 0 where a pixel does not count for the factor"""
    start: np.ndarray
    """(box + 1,) first pixel of each shoebox, and the number of pixels"""


class NoiseTerms(NamedTuple):
    """What `likelihood.variance` is made of."""

    readout_variance: float
    calibration_variance: float
    """relative"""
    dark: float
    """photons below which a pixel counts as dark"""


@inlined
def _variance(model, noise: NoiseTerms):
    """Return the variance of a pixel, as `likelihood.variance`."""
    dark = noise.dark
    lowest = dark / (2.0 - (model if model < dark else dark) / dark)
    counted = lowest if lowest > model else model
    return counted + noise.readout_variance + noise.calibration_variance * counted * counted


@inlined
def _solved(a, b):
    """Return a⁻¹ b of a symmetric matrix xx xy xz yy yz zz and a vector, by Cholesky's factors
    without roots.
    """
    xx, xy, xz, yy, yz, zz = a
    l_yx = xy / xx
    l_zx = xz / xx
    d_y = yy - l_yx * xy
    below = yz - l_yx * xz
    l_zy = below / d_y
    d_z = zz - l_zx * xz - l_zy * below

    y = b[1] - l_yx * b[0]
    z = b[2] - l_zx * b[0] - l_zy * y
    out_z = z / d_z
    out_y = y / d_y - l_zy * out_z
    return b[0] / xx - l_yx * out_y - l_zx * out_z, out_y, out_z


@inlined
def _planes_of(pixels: PixelColumns, model, noise: NoiseTerms, ridge, box, planes):
    """Fill the planes (box, 2, 3) of the photons and of the Bragg photons of a shoebox, weighted by
    the variance of a model (pixel,).
    """
    xx = xy = xz = yy = yz = zz = 0.0
    d_x = d_y = d_z = 0.0
    b_x = b_y = b_z = 0.0
    for i in range(pixels.start[box], pixels.start[box + 1]):
        weight = 1.0 / _variance(model[i], noise)
        x = pixels.plane[i, 0]
        y = pixels.plane[i, 1]
        z = pixels.plane[i, 2]
        xx += weight * x * x
        xy += weight * x * y
        xz += weight * x * z
        yy += weight * y * y
        yz += weight * y * z
        zz += weight * z * z
        photons = weight * pixels.photons[i]
        d_x += photons * x
        d_y += photons * y
        d_z += photons * z
        bragg = weight * pixels.bragg[i]
        b_x += bragg * x
        b_y += bragg * y
        b_z += bragg * z
    least = 1e-30
    xx += ridge * max(xx, least)
    yy += ridge * max(yy, least)
    zz += ridge * max(zz, least)
    normal = (xx, xy, xz, yy, yz, zz)
    of_photons = _solved(normal, (d_x, d_y, d_z))
    of_bragg = _solved(normal, (b_x, b_y, b_z))
    for j in range(3):
        planes[box, 0, j] = of_photons[j]
        planes[box, 1, j] = of_bragg[j]


@compiled
def planes_and_scale(pixels: PixelColumns, noise: NoiseTerms, ridge, n_rounds):
    """Return the factor of the Bragg photons and the planes (box, 3) of least squares, weights
    taken anew from the model in each round. ridge: of normal equations, relative to the diagonal.

    Raises ValueError for columns of unlike length, which would be read beyond their end.
    """
    n = pixels.start[-1]
    if len(pixels.photons) != n or len(pixels.bragg) != n or len(pixels.plane) != n:
        raise ValueError("photons, model and planes of pixels are not of the same shape")
    n_boxes = len(pixels.start) - 1
    planes = np.zeros((n_boxes, 2, 3))
    model = np.maximum(pixels.photons, 1.0)
    factor = 1.0
    for _ in range(n_rounds):
        top = 0.0
        bottom = 0.0
        for box in range(n_boxes):
            _planes_of(pixels, model, noise, ridge, box, planes)
            of_photons = planes[box, 0]
            of_bragg = planes[box, 1]
            for i in range(pixels.start[box], pixels.start[box + 1]):
                above = pixels.photons[i]
                bragg_above = pixels.bragg[i]
                for j in range(3):
                    above -= pixels.plane[i, j] * of_photons[j]
                    bragg_above -= pixels.plane[i, j] * of_bragg[j]
                weight = pixels.counted[i] / _variance(model[i], noise)
                top += weight * above * bragg_above
                bottom += weight * bragg_above * bragg_above
        factor = max(top / bottom, SMALLEST_FACTOR) if bottom > 0.0 else 1.0
        for box in range(n_boxes):
            for i in range(pixels.start[box], pixels.start[box + 1]):
                expected = factor * pixels.bragg[i]
                for j in range(3):
                    plane = planes[box, 0, j] - factor * planes[box, 1, j]
                    expected += pixels.plane[i, j] * plane
                model[i] = expected
    return factor, planes[:, 0] - factor * planes[:, 1]
