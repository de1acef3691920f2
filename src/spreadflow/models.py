"""The nouns of spreadflow in memory. Everything the mathematics works on is one of these.

Named tuples of arrays: a NumPy table for the stages and, untouched, a JAX pytree for the kernels.
Frame: dxtbx/imgCIF laboratory frame (beam travels along −z, s0 = (0, 0, −1)/λ, x along fast, y up).
Units: Å, Å⁻¹, eV, rad, mm, photons. Pixel coordinates (fast, slow), pixel centre at +0.5.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

Array = Any
"""An array of NumPy or JAX."""


class Spectrum(NamedTuple):
    """One pulse: photons per energy channel."""

    energies_ev: Array
    """(channel,) eV, ascending"""
    photons: Array
    """(channel,) photons of the whole pulse in this channel"""

    @property
    def mean_energy_ev(self):
        """Photon-weighted mean energy, eV."""
        return (self.energies_ev * self.photons).sum() / self.photons.sum()


class Detector(NamedTuple):
    """Flat panels of equal shape in the lab frame. Images are (panel, slow, fast)."""

    origin_mm: Array
    """(panel, 3) lab position of the outer corner of pixel (0, 0), mm"""
    fast: Array
    """(panel, 3) unit vector of the fast axis"""
    slow: Array
    """(panel, 3) unit vector of the slow axis"""
    pixel_mm: Array
    """() pixel edge, mm (square pixels)"""
    shape: tuple[int, int]
    """(slow, fast) pixels of one panel"""
    thickness_mm: float = 0.0
    """sensor thickness; 0 = captures everything at its surface"""
    attenuation_mm: float = 0.0
    """attenuation length of the sensor; ignored where the thickness is 0"""
    parallax_mm: Array | None = None
    """() attenuation length by which spots lie at the mean depth of absorption (parallax); None =
    where rays meet the surface, however thick the sensor is
    """
    levels: Array | None = None
    """(level, panel) int: number of the rigid group that each panel is in, level by level of the
    hierarchy that the file states, the largest groups first; None = it states none
    """

    @property
    def n_panels(self) -> int:
        """Number of panels."""
        return len(self.origin_mm)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Detector":
        """Return the detector whose `_asdict()` a file carries as JSON."""
        vectors = ("origin_mm", "fast", "slow")
        arrays = {name: np.array(fields[name], dtype=np.float64) for name in vectors}
        if fields.get("levels") is not None:
            arrays["levels"] = np.array(fields["levels"], dtype=np.int64)
        shape = tuple(fields["shape"])
        return cls(**(fields | arrays | {"shape": shape}))


class Crystal(NamedTuple):
    """One lattice as seen by the pulse."""

    A: Array
    """(3, 3) columns a*, b*, c* of the conventional cell in the lab frame, Å⁻¹ (q = A h)"""
    n_cells: Array
    """(3,) unit cells of one mosaic domain along the conventional a, b, c"""
    eta_rad: Array
    """() r.m.s. total rotation angle of the mosaic domains (axis uniform), rad; or (3,) η by axis,
    √3 times the r.m.s. rotation about each of `clouds.crystal_axes`
    """

    @property
    def eta_axes_rad(self) -> Array:
        """(3,) η by axis, rad: the same for each where it is one."""
        return np.full(3, self.eta_rad)

    @property
    def eta_rms_rad(self) -> Array:
        """() r.m.s. total rotation angle of the mosaic domains, rad: η, or √⟨η²⟩ over the axes."""
        if np.ndim(self.eta_rad) == 0:
            return self.eta_rad
        return np.sqrt(np.mean(np.square(self.eta_rad)))


class Mosaic(NamedTuple):
    """How the mosaic domains of a lattice are turned: a mixture of Gaussian rotations about given
    ones.
    """

    rotations: Array
    """(component, 3, 3) in the lab frame, on the left of A"""
    width: Array
    """(component,) standard deviation about each axis of the component's own Gaussian, in units of
    η; 0 = one domain
    """
    share: Array
    """(component,) fraction of the domains; sums to 1"""
    eta_rad: Array | None = None
    """() η that the widths were learned with, rad: a lattice keeps to it; None = its own, which may
    be refined
    """

    @property
    def has_eta(self) -> bool:
        """Whether lattices have an η of their own, which may be refined."""
        return self.eta_rad is None and bool(np.any(self.width))


MosaicOfLattice = Callable[[int, int], Mosaic]
"""(shot_id, k) → the mosaicity of that lattice."""


class Parameters(NamedTuple):
    """What the expected Bragg photons of one lattice depend on. A pytree, to be differentiated in
    any float leaf.
    """

    crystal: Crystal
    mosaic: Mosaic
    scale: Array
    """() mosaic domains in the beam"""
    beam_mm: Array
    """() edge of the square beam: the fluence is photons / beam²"""
    spectrum: Spectrum
    polarization: Array
    """() Kahn's K, along the lab x axis"""
    detector: Detector
    hkl: Array
    """(node, 3) int32 Miller indices, conventional axes; any other node scatters nothing"""
    f_squared: Array
    """(node, channel) |F(hkl, E)|², electrons²"""
    edge_px: Array = 0.0
    """() edge of the squares that points of the detector stand for, px: photons are averages over
    them, to second order; 0 = values at the points
    """


class Pixels(NamedTuple):
    """Points on the detector at which photons are expected; pixel centres are at +0.5."""

    panel: Array
    """(point,) int32"""
    fast: Array
    """(point,) px"""
    slow: Array
    """(point,) px"""


class Shot(NamedTuple):
    """What a real experiment records of one pulse.

    Whoever read it into arrays that are used again (`io.images.KeptArrays`) has it until the next
    one is read into them: what outlives it holds copies.
    """

    shot_id: int
    image: np.ndarray
    """(panel, slow, fast) float32 photons, pedestal subtracted, divided by the gain"""
    mask: np.ndarray
    """(panel, slow, fast) bool, True = the pixel may be used (file mask, NaN, trusted range)"""
    spectrum: Spectrum
    """measured spectrum; a single channel at the header's wavelength where none was recorded"""
    saturated_fraction: float
    """fraction of the unmasked pixels above the trusted range"""
    saturation_photons: float = np.inf
    """upper end of the trusted range; pixels above it are masked"""
    relative_gain: np.ndarray | None = None
    """(panel, slow, fast) ADU per photon over the median of the run, by which the readout noise in
    photons is divided; None = 1
    """


class Noise(NamedTuple):
    """What makes pixels differ from their expectation, beside counting."""

    readout_photons: float
    """standard deviation of the readout, photons"""
    calibration_error: float
    """relative standard deviation of the gains"""


class Spots(NamedTuple):
    """Observed peaks of one shot."""

    panel: Array
    """(spot,) int32"""
    fast: Array
    """(spot,) px, background-subtracted centre of mass"""
    slow: Array
    """(spot,) px"""
    variance_fast: Array
    """(spot,) px²"""
    variance_slow: Array
    """(spot,) px²"""
    intensity: Array
    """(spot,) photons above background"""
    sigma: Array
    """(spot,) photons"""
    n_pixels: Array
    """(spot,) int32"""


class Lattice(NamedTuple):
    """One indexed lattice of a shot, refined."""

    A: Array
    """(3, 3) conventional, Å⁻¹"""
    cell: Array
    """(6,) a b c (Å) α β γ (rad)"""
    eta_rad: Array
    """() mosaic spread used in prediction, rad"""
    domain_ang: Array
    """() edge of a mosaic domain used in prediction, Å (n_cells = domain_ang / (a, b, c))"""
    hkl: Array
    """(spot of the shot, 3) int32 Miller index; 0 0 0 = not of this lattice"""
    used: Array
    """(spot of the shot,) bool, in the refinement"""
    rmsd_radial_mm: float
    rmsd_transverse_mm: float
    n_rmsd: int
    """reflections the r.m.s.d. is over: I/σ ≥ 5, fixed before refinement"""
    shift_mm: Array
    """(2,) fast and slow: how far the detector was moved from where it is said to be, so that the
    spots fit; the lattice is predicted there
    """
    domain_estimated_ang: Array
    """() edge of a mosaic domain as the lattice's spots alone have it, Å"""


class Shoeboxes(NamedTuple):
    """Pixels around the reflections of one lattice, shoebox after shoebox, slow outer and fast
    inner.
    """

    hkl: Array
    """(box, 3) int32"""
    panel: Array
    """(box,) int32"""
    bbox: Array
    """(box, 4) int32 fast0 fast1 slow0 slow1, half open, px"""
    photons: Array
    """(pixel,) pedestal subtracted, divided by the gain"""
    valid: Array
    """(pixel,) bool, may be used"""

    @property
    def n_pixels(self) -> np.ndarray:
        """(box,) pixels of each shoebox."""
        return pixel_counts(self.bbox)

    @property
    def start(self) -> np.ndarray:
        """(box + 1,) the first pixel of each shoebox, and the number of all pixels."""
        return np.concatenate([[0], np.cumsum(self.n_pixels)])

    @property
    def middles(self) -> np.ndarray:
        """(pixel, 2) fast, slow of the middle of each pixel, px."""
        _, slow, fast = pixel_places(self.bbox)
        return np.stack([fast, slow], axis=1) + 0.5

    def of_box(self, box: int) -> slice:
        """Return the pixels of a shoebox."""
        first, end = self.start[box : box + 2]
        return slice(int(first), int(end))

    def image(self, box: int, values: np.ndarray) -> np.ndarray:
        """Return the values (pixel,) of one shoebox as an image (slow, fast)."""
        fast0, fast1, slow0, slow1 = self.bbox[box]
        return values[self.of_box(box)].reshape(slow1 - slow0, fast1 - fast0)

    def chosen(self, boxes: np.ndarray) -> "Shoeboxes":
        """Return some of the shoeboxes, with their pixels. boxes: (box,) bool."""
        pixels = np.repeat(boxes, self.n_pixels)
        return Shoeboxes(
            hkl=self.hkl[boxes],
            panel=self.panel[boxes],
            bbox=self.bbox[boxes],
            photons=self.photons[pixels],
            valid=self.valid[pixels],
        )


def pixel_counts(bbox: np.ndarray) -> np.ndarray:
    """Return the number of pixels of boxes (box, 4) fast0 fast1 slow0 slow1, half open."""
    fast0, fast1, slow0, slow1 = np.asarray(bbox, dtype=np.int64).T
    return (fast1 - fast0) * (slow1 - slow0)


def pixel_places(bbox: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the box, slow and fast of the pixels (pixel,) of boxes (box, 4), one box after the
    other, slow outer and fast inner.
    """
    n_pixels = pixel_counts(bbox)
    box = np.repeat(np.arange(len(n_pixels)), n_pixels)

    # pixels are counted through each box by itself
    first = np.cumsum(n_pixels) - n_pixels
    number = np.arange(len(box)) - first[box]
    fast0, fast1, slow0, _ = np.asarray(bbox, dtype=np.int64).T
    slow, fast = np.divmod(number, (fast1 - fast0)[box])
    return box, slow0[box] + slow, fast0[box] + fast


class Reflections(NamedTuple):
    """Predicted and integrated reflections of one lattice."""

    hkl: Array
    """(reflection, 3) int32, conventional axes, as observed (not in the asu)"""
    d: Array
    """(reflection,) resolution, Å"""
    panel: Array
    """(reflection,) int32"""
    fast: Array
    """(reflection,) predicted centroid, px"""
    slow: Array
    """(reflection,) px"""
    fast_obs: Array
    """(reflection,) observed centroid, px; NaN where I/σ < 5"""
    slow_obs: Array
    """(reflection,) px"""
    energy_ev: Array
    """(reflection,) mean energy of the photons diffracted into the spot, eV"""
    delta_psi_rad: Array
    """(reflection,) rotation that brings the node onto the Ewald sphere of the mean energy"""
    partiality: Array
    """(reflection,) 0-1, spectrum-weighted recorded fraction relative to exact Bragg; see
    docs/physics.md
    """
    lorentz: Array
    """(reflection,) λ³/sin 2θ · pdf_ψ(0), Å³/rad: photons =
    K·|F|²·polarization·capture·lorentz·partiality
    """
    polarization: Array
    """(reflection,) Kahn factor; divide by it"""
    capture: Array
    """(reflection,) fraction of the photons the sensor captures; divide by it"""
    slopes: Array
    """(reflection, 3) derivatives of ln(partiality · lorentz) by rotations of the lattice about x
    and y, 1/rad, and by ln of the width of its nodes
    """
    intensity: Array
    """(reflection,) summed photons above background"""
    sigma: Array
    """(reflection,) photons"""
    sigma_background: Array
    """(reflection,) its standard deviation but for the number of the reflection's own photons:
    background, readout and gains
    """
    background: Array
    """(reflection,) photons per pixel under the peak"""
    n_foreground: Array
    """(reflection,) int32 summed pixels"""
    bbox: Array
    """(reflection, 4) int32 fast0 fast1 slow0 slow1, half open, px"""
    half_px: Array
    """(reflection, 2) half sizes of the foreground, a rectangle about the predicted centroid, along
    the radius and across
    """
    flags: Array
    """(reflection,) int32 bits of `ReflectionFlag`"""


class ReflectionFlag:
    """Bits of `Reflections.flags`. 0 = integrated without reserve."""

    EDGE = 1
    """the shoebox touches the panel's edge"""
    MASKED = 2
    """a foreground pixel is not valid"""
    SATURATED = 4
    """a foreground pixel is above the trusted range"""
    OVERLAP = 8
    """more than 10 % of the foreground belongs to a neighbour"""
    BACKGROUND = 16
    """too few background pixels, or a background that is not positive"""
    BEYOND = 32
    """beyond the resolution to which its lattice carries signal"""
    FAILED = MASKED | SATURATED | BACKGROUND | BEYOND
    """`intensity` is not to be used"""


class Choice(IntEnum):
    """What becomes of a reflection in `predict`. It follows from its place and the mean intensity
    of its resolution, never from its own intensity.
    """

    STRONG = 0
    """chosen: an average reflection in its place would stand out of its noise"""
    WEAK = 1
    """chosen by lot, as a fixed share of those that are not expected to"""
    LEFT_OUT = 2
    """not expected to, and not drawn"""
    OUTSIDE = 3
    """at lower resolution than what is taken"""
    NEIGHBOUR = 4
    """of a lattice that none is chosen of: only its pixels are kept from the others"""


CHOSEN = (Choice.STRONG, Choice.WEAK)
"""What becomes of the reflections whose pixels are packed."""


class Overlap:
    """Bits of `pixels/overlap` of an annulus. 0 = the pixel is in this shoebox alone."""

    SHARED = 1
    """in another shoebox of the same lattice too"""
    ELSEWHERE = 2
    """and nearer to that one's predicted centroid: it counts there"""
    FOREIGN = 4
    """in the foreground of another lattice of the shot: it holds photons that are not this
    lattice's
    """
    LEFT_OUT = ELSEWHERE | FOREIGN
    """without these, a lattice has each of its pixels once, and its own photons alone"""
