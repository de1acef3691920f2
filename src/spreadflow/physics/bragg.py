"""Expected Bragg photons of one crystal in one pulse, on the pixels its reflections reach and nowhere else.

I = r_e²·fluence·scale·Σ_E f_E Σ_components |F(h, E)|²·amplitude·exp(−½ |T·(p(E) − q)|²)·Ω·capture·polarization, with
p(E) = (ŝ − ŝ0)·E/hc: every mosaic domain of a node, or every Gaussian of the closed form, is a *component*, a Gaussian
cloud about q in reciprocal space. For one pixel and component the exponent is a parabola in E, whose three numbers are
computed in float64; the sum over channels may then run in float32. The nearest node alone counts in a pixel, which
holds for the Gaussian lattice factor where N ≥ 5.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spreadflow.physics.precision  # noqa: F401  (float64)
from spreadflow.models import Array, Crystal, Detector, Spectrum
from spreadflow.physics import geometry, rotation
from spreadflow.physics.response import depth, efficiency
from spreadflow.physics.structure_factors import StructureFactors
from spreadflow.units import HC_EV_ANGSTROM, R_E_SQUARED_M2

GAUSS = 0.63
"""F_latt = N_a N_b N_c exp(−Σ(N Δh)²/0.63)"""
N_NODES = 8
"""Gaussians of the closed form"""
REACH = 5.7
"""standard deviations out to which a component is followed: exp(−5.7²/2) = 9e-8"""
LOST = 2e-7
"""fraction of the expected photons that components left out may hold together"""
_SUBPIXELS = 1 << 16
"""sub-pixels of one call"""
_UNROLL = 10
"""channels of one step of the loop"""


class Components(NamedTuple):
    """Gaussian clouds, all of shape (component, ...)."""

    node: Array
    """row of the node in the list given"""
    q: Array
    """(., 3) centre, Å⁻¹"""
    whiten: Array
    """(., 3, 3) T, Å: the cloud is exp(−½|T(p − q)|²)"""
    amplitude: Array
    """F_latt² at the centre, times the component's share"""


class Spots(NamedTuple):
    """What each reflection puts on each panel it meets."""

    node: np.ndarray
    """(spot,) row of the structure factors"""
    panel: np.ndarray
    """(spot,) int32"""
    photons: np.ndarray
    """(spot,) expected photons"""
    fast: np.ndarray
    """(spot,) centroid, px"""
    slow: np.ndarray
    """(spot,) px"""
    energy_ev: np.ndarray
    """(spot,) mean energy of these photons, eV"""


class _Boxes(NamedTuple):
    """Pixels of one panel to which a component reaches."""

    component: np.ndarray
    panel: np.ndarray
    fast0: np.ndarray
    slow0: np.ndarray
    width: np.ndarray
    height: np.ndarray


def domain_rotations(rng: np.random.Generator, n: int, eta_rad: float) -> np.ndarray:
    """(n, 3, 3) rotations of mosaic domains in the lab frame: axes uniform, angles normal of standard deviation η."""
    axes = rng.standard_normal((n, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return rotation.from_vector(axes * (eta_rad * rng.standard_normal(n))[:, None])


def components(crystal: Crystal, hkl: np.ndarray, rotations: np.ndarray | None) -> Components:
    """Components of nodes hkl (n, 3): one per rotation (m, 3, 3), or, with None, the closed form's Gaussians.

    Domains: q = R A h, T = √(4/0.63)·diag(N)·(R A)⁻¹. Closed form: rotations about uniform axes by normal angles of
    r.m.s. η are a mixture, w uniform on (0, 1), of Gaussian rotations of η w about each axis; each adds
    (η w)²(|q|²·1 − q qᵀ) to the covariance of the cloud and divides its height by the growth of its volume.
    """
    n_cells = np.asarray(crystal.n_cells, dtype=np.float64)
    height, size = np.prod(n_cells) ** 2, np.sqrt(4 / GAUSS) * n_cells
    node = np.arange(len(hkl))
    if rotations is not None:
        turned = rotations @ crystal.A
        whiten = size[:, None] * np.linalg.inv(turned)
        q = np.einsum("mij,nj->nmi", turned, hkl)
        n, m = q.shape[:2]
        shape = (n, m, 3, 3)
        return Components(
            node.repeat(m),
            q.reshape(-1, 3),
            np.broadcast_to(whiten, shape).reshape(-1, 3, 3),
            np.full(n * m, height / m),
        )
    x, weights = np.polynomial.legendre.leggauss(N_NODES)
    tilt = (crystal.eta_rad * 0.5 * (x + 1.0)) ** 2
    q = hkl @ crystal.A.T
    own = (crystal.A / size**2) @ crystal.A.T
    across = (q**2).sum(axis=1)[:, None, None] * np.eye(3) - q[:, :, None] * q[:, None, :]
    covariance = own + tilt[:, None, None] * across[:, None]
    growth = np.sqrt(np.linalg.det(own) / np.linalg.det(covariance))
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    repeated = q.repeat(N_NODES, axis=0)
    return Components(
        node.repeat(N_NODES), repeated, whiten.reshape(-1, 3, 3), (height * 0.5 * weights * growth).ravel()
    )


def near_sphere(q: np.ndarray, k: tuple[float, float], distance: np.ndarray) -> np.ndarray:
    """(n,) bool: q (n, 3) within `distance` (n,), Å⁻¹, of an Ewald sphere of radius between k[0] and k[1], Å⁻¹."""
    outside = [np.linalg.norm(q + radius * geometry.S0, axis=1) - radius for radius in k]
    return (outside[1] <= distance) & (outside[0] >= -distance)


def live_channels(spectrum: Spectrum) -> slice:
    """The channels that hold all but 1e-9 of the photons at either end."""
    sums = np.cumsum(spectrum.photons)
    low, high = np.searchsorted(sums, [1e-9 * sums[-1], (1.0 - 1e-9) * sums[-1]])
    return slice(int(low), int(high) + 1)


def bragg(
    crystal: Crystal,
    factors: StructureFactors,
    spectrum: Spectrum,
    detector: Detector,
    *,
    rotations: np.ndarray | None,
    beam_mm: float,
    scale: float,
    polarization: float,
    oversample: int = 1,
    dtype: str = "float32",
) -> tuple[np.ndarray, Spots]:
    """Expected photons (panel, slow, fast) float64, and what each reflection contributes to them.

    factors: with the channels of the spectrum. rotations: (domain, 3, 3) of the mosaic domains; None = the closed form
    of η. beam_mm: edge of the square beam. scale: domains per crystal. dtype: of the sums over channels.
    """
    live = live_channels(spectrum)
    energies = np.asarray(spectrum.energies_ev[live], dtype=np.float64)
    image = np.zeros((detector.n_panels, *detector.shape))
    rows = _nodes(crystal, factors.hkl, energies, rotations)
    strength = R_E_SQUARED_M2 * scale / (beam_mm * 1e-3) ** 2 * np.asarray(spectrum.photons[live], dtype=np.float64)
    f = factors._replace(anomalous=factors.anomalous[:, live]).at(rows)
    weights = strength * (f.real**2 + f.imag**2)
    clouds = components(crystal, factors.hkl[rows], rotations)
    clouds, boxes = _lay_out(clouds, weights, energies, detector)
    sums = np.zeros((len(rows), detector.n_panels, 4))
    middle = 0.5 * (energies[0] + energies[-1])
    x, weights = _padded_channels(energies - middle, weights, len(spectrum.energies_ev))
    for size, part in _buckets(boxes, oversample):
        owner = clouds.node[part.component]
        photons, moments = _expected(
            *(column[part.component] for column in clouds[1:]),
            weights[owner],
            x,
            -(-len(energies) // _UNROLL),
            middle,
            *_panels(detector, part.panel),
            np.stack(part[2:], axis=1),
            float(detector.pixel_mm),
            depth(detector),
            polarization,
            size=size,
            oversample=oversample,
            dtype=dtype,
        )
        _add(image, part, np.asarray(photons))
        np.add.at(sums, (owner, part.panel), np.asarray(moments))
    node, panel = np.nonzero(sums[..., 0] > 0)
    total, fast, slow, energy = sums[node, panel].T
    spots = Spots(rows[node], panel.astype(np.int32), total, fast / total, slow / total, middle + energy / total)
    return image, spots


def _nodes(crystal: Crystal, hkl: np.ndarray, energies: np.ndarray, rotations: np.ndarray | None) -> np.ndarray:
    """Rows of nodes some component of which may touch a live Ewald sphere."""
    q = hkl @ crystal.A.T
    size = np.sqrt(GAUSS / 4) * np.linalg.norm(crystal.A / crystal.n_cells, ord=2)
    tilt = REACH * crystal.eta_rad if rotations is None else rotation.angle(rotations).max()
    k = float(energies[0] / HC_EV_ANGSTROM), float(energies[-1] / HC_EV_ANGSTROM)
    return np.flatnonzero(near_sphere(q, k, REACH * size + tilt * np.linalg.norm(q, axis=1)))


def _padded_channels(x: np.ndarray, weights: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Live channels padded with empty ones to all n and a multiple of the unrolled loop: one shape."""
    more = n + -n % _UNROLL - len(x)
    return np.pad(x, (0, more)), np.pad(weights, ((0, 0), (0, more)))


# ---------------------------------------------------------------- which pixels


class _Slice(NamedTuple):
    """Where Ewald spheres cut clouds. Shapes (component, energy[, 3])."""

    ray: np.ndarray
    """centre of the cut seen from the sphere's centre, Å⁻¹"""
    normal: np.ndarray
    """unit normal of the sphere"""
    sigma: np.ndarray
    """standard deviation of the cloud along it, Å⁻¹"""
    excess: np.ndarray
    """distance of the cloud's centre from the sphere, Å⁻¹"""


def _cut(q: np.ndarray, covariance: np.ndarray, energies: np.ndarray) -> _Slice:
    """Clouds (n, 3), (n, 3, 3) cut by the spheres of energies (n, m), taken as flat over a cloud."""
    k = energies[..., None] / HC_EV_ANGSTROM
    ray = q[:, None] + k * geometry.S0
    length = np.linalg.norm(ray, axis=-1, keepdims=True)
    normal = ray / length
    toward = normal @ covariance
    variance = (toward * normal).sum(axis=-1, keepdims=True)
    excess = length - k
    return _Slice(ray - toward * (excess / variance), normal, np.sqrt(variance[..., 0]), excess[..., 0])


def _lay_out(
    clouds: Components, weights: np.ndarray, energies: np.ndarray, detector: Detector
) -> tuple[Components, _Boxes]:
    """The components that matter, and the pixels they reach. weights: (node, channel)."""
    root = np.linalg.inv(clouds.whiten)
    covariance = root @ np.swapaxes(root, -1, -2)
    low, high, estimate = _active(clouds, covariance, weights, energies)
    order = np.argsort(estimate)
    keep = np.sort(order[np.cumsum(estimate[order]) > LOST * estimate.sum()])
    clouds, covariance = Components(*(column[keep] for column in clouds)), covariance[keep]
    at = low[keep, None] + (high - low)[keep, None] * np.linspace(0.0, 1.0, 7)
    cut = _cut(clouds.q, covariance, at)
    found = [_boxes(cut, covariance, detector, panel) for panel in range(detector.n_panels)]
    return clouds, _Boxes(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _active(
    clouds: Components, covariance: np.ndarray, weights: np.ndarray, energies: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest energy at which a sphere cuts each cloud; photons expected from it (relative; 0 = none).

    The photons are those of the plane cut of a Gaussian: 2π √(det Σ / n·Σn) / k² · exp(−½ excess² / n·Σn).
    """
    along = -(clouds.q @ geometry.S0)
    square = (clouds.q**2).sum(axis=1)
    bragg = np.where(along > 1e-9, 0.5 * HC_EV_ANGSTROM * square / np.maximum(along, 1e-9), np.inf)
    near = np.clip(bragg, energies[0], energies[-1])
    cut = _cut(clouds.q, covariance, near[:, None])
    sigma, slope = cut.sigma[:, 0], (cut.normal[:, 0] @ geometry.S0 - 1.0) / HC_EV_ANGSTROM
    centre, width = near - cut.excess[:, 0] / slope, sigma / np.abs(slope)
    low, high = np.maximum(centre - REACH * width, energies[0]), np.minimum(centre + REACH * width, energies[-1])
    live = np.flatnonzero(low <= high)
    height = np.exp(-0.5 * ((energies - centre[live, None]) / width[live, None]) ** 2)
    area = np.sqrt(np.linalg.det(covariance[live])) / sigma[live]
    estimate = np.zeros(len(near))
    estimate[live] = clouds.amplitude[live] * area * (weights[clouds.node[live]] * height).sum(axis=1)
    return low, high, estimate


def _boxes(cut: _Slice, covariance: np.ndarray, detector: Detector, panel: int) -> _Boxes:
    """Rectangles of a panel that hold each cloud's cuts out to `REACH`, clipped to the panel."""
    normal = geometry.normals(detector)[panel]
    ahead = cut.ray @ normal
    scale = (detector.origin_mm[panel] @ normal) / ahead
    reach = np.sqrt(np.maximum(REACH**2 - (cut.excess / cut.sigma) ** 2, 0.0))
    toward = cut.normal @ covariance / cut.sigma[..., None]
    lows, highs = [], []
    for axis in (detector.fast[panel], detector.slow[panel]):
        at = (scale * (cut.ray @ axis) - detector.origin_mm[panel] @ axis) / detector.pixel_mm
        gradient = scale[..., None] * (axis - normal * ((cut.ray @ axis) / ahead)[..., None]) / detector.pixel_mm
        spread = ((gradient @ covariance) * gradient).sum(axis=-1) - (toward * gradient).sum(axis=-1) ** 2
        half = 1.05 * reach * np.sqrt(np.maximum(spread, 0.0))
        lows.append((at - half).min(axis=1))
        highs.append((at + half).max(axis=1))
    low, high = np.stack(lows, axis=1), np.stack(highs, axis=1)
    slack = 0.2 + _sagitta(low, high, geometry.beam_center(detector), panel)
    n = np.array(detector.shape[::-1])
    first = np.clip(np.floor(low - slack), 0, n).astype(np.int64)
    last = np.clip(np.ceil(high + slack), 0, n).astype(np.int64)
    met = np.flatnonzero((scale > 0).all(axis=1) & (last > first).all(axis=1))
    first, size = first[met], (last - first)[met]
    return _Boxes(met, np.full(len(met), panel), first[:, 0], first[:, 1], size[:, 0], size[:, 1])


def _sagitta(low: np.ndarray, high: np.ndarray, centre: tuple[np.ndarray, np.ndarray], panel: int) -> np.ndarray:
    """(n, 1) px by which a streak across the radius bends away from the straight line assumed."""
    half = 0.5 * (high - low).max(axis=1)
    radius = np.hypot(*(0.5 * (low + high)[:, i] - centre[i][panel] for i in range(2)))
    return (half**2 / (2 * np.maximum(radius, half)))[:, None]


def _buckets(boxes: _Boxes, oversample: int):
    """Boxes in groups of one static shape: (pixels a box is padded to, boxes), empty boxes filling the last group."""
    area = boxes.width * boxes.height
    classes = np.maximum(16, 1 << np.ceil(np.log2(np.maximum(area, 1))).astype(np.int64))
    for size in np.unique(classes):
        of_class = np.flatnonzero(classes == size)
        n = max(1, _SUBPIXELS // (int(size) * oversample**2))
        for start in range(0, len(of_class), n):
            some = of_class[start : start + n]
            yield int(size), _Boxes(*(np.pad(column[some], (0, n - len(some))) for column in boxes))


def _panels(detector: Detector, panel: np.ndarray) -> tuple[np.ndarray, ...]:
    """Origin, fast, slow and normal (n, 3) of the panels of boxes."""
    return tuple(a[panel] for a in (detector.origin_mm, detector.fast, detector.slow, geometry.normals(detector)))


def _add(image: np.ndarray, part: _Boxes, photons: np.ndarray) -> None:
    """Add the photons (box, pixel) of boxes to the image; overlapping boxes add up."""
    i = np.arange(photons.shape[1])
    inside = i < (part.width * part.height)[:, None]
    width = np.maximum(part.width, 1)[:, None]
    slow, fast = part.slow0[:, None] + i // width, part.fast0[:, None] + i % width
    flat = (part.panel[:, None] * image.shape[1] + slow) * image.shape[2] + fast
    np.add.at(image.reshape(-1), flat[inside], photons[inside])


# ---------------------------------------------------------------- how many photons


@partial(jax.jit, static_argnames=("size", "oversample", "dtype"))
def _expected(
    q, whiten, amplitude, weights, x, n_blocks, middle, origin, fast, slow, normal, box, pixel_mm, deep,
    polarization, *, size, oversample, dtype,
):  # fmt: skip
    """Photons (box, pixel) and their moments (box, 4): sum, sum·fast, sum·slow, sum·(E − middle).

    box: (., 4) fast0, slow0, width, height; weights: (box, channel) photons per unit of the cloud; x: (channel,)
    E − middle, eV. n_blocks: blocks of channels that are live.
    """
    i = jnp.arange(size)
    width = jnp.maximum(box[:, 2:3], 1)
    f, s = box[:, 0:1] + i % width, box[:, 1:2] + i // width
    inside = i < box[:, 2:3] * box[:, 3:4]
    sub = (jnp.arange(oversample) + 0.5) / oversample
    sub_f, sub_s = jnp.tile(sub, oversample), jnp.repeat(sub, oversample)
    flat = lambda a: a.reshape(len(q), -1)  # noqa: E731
    fine_f = flat(f[..., None] + sub_f) * pixel_mm
    fine_s = flat(s[..., None] + sub_s) * pixel_mm
    place = [origin[:, j : j + 1] + fast[:, j : j + 1] * fine_f + slow[:, j : j + 1] * fine_s for j in range(3)]
    distance = jnp.sqrt(place[0] ** 2 + place[1] ** 2 + place[2] ** 2)
    ray = [p / distance for p in place]
    closest = jnp.abs((origin * normal).sum(axis=1, keepdims=True))
    made = efficiency(
        ray, distance, [normal[:, j : j + 1] for j in range(3)], pixel_mm, closest_mm=closest,
        depth=deep, polarization=polarization,
    )  # fmt: skip
    curvature, centre, floor = _parabola([r - c for r, c in zip(ray, geometry.S0, strict=True)], q, whiten, middle)
    total, first = _channel_sums(curvature, centre, weights * amplitude[:, None], x, n_blocks, dtype)
    height = made * jnp.exp(-floor) / oversample**2
    gather = lambda a: jnp.where(inside, (height * a).reshape(*f.shape, -1).sum(axis=-1), 0.0)  # noqa: E731
    photons = gather(total)
    moments = [photons, photons * (f + 0.5), photons * (s + 0.5), gather(first)]
    return photons, jnp.stack([m.sum(axis=1) for m in moments], axis=1)


def _parabola(turn, q, whiten, middle):
    """½|T(p(E) − q)|² = curvature·(x − centre)² + floor with x = E − middle, for p(E) = turn·E/hc; all (box, pixel)."""
    step = [t / HC_EV_ANGSTROM for t in turn]
    away = [d * middle - q[:, j : j + 1] for j, d in enumerate(step)]
    white = lambda v: [sum(whiten[:, i, j, None] * v[j] for j in range(3)) for i in range(3)]  # noqa: E731
    slope, start = white(step), white(away)
    square = jnp.maximum(sum(a * a for a in slope), 1e-30)
    cross = sum(a * b for a, b in zip(slope, start, strict=True))
    return 0.5 * square, -cross / square, 0.5 * (sum(b * b for b in start) - cross * cross / square)


def _channel_sums(curvature, centre, weights, x, n_blocks, dtype):
    """Σ_c w_c exp(−curvature (x_c − centre)²) and the same weighted with x_c, both (box, pixel) of `dtype`."""
    curvature, centre = curvature.astype(dtype), centre.astype(dtype)
    blocks = weights.astype(dtype).T.reshape(-1, _UNROLL, len(weights), 1)
    places = x.astype(dtype).reshape(-1, _UNROLL)

    def block(b, sums):
        total, first = sums
        w, at = blocks[b], places[b]
        for u in range(_UNROLL):
            part = w[u] * jnp.exp(-curvature * (at[u] - centre) ** 2)
            total, first = total + part, first + part * at[u]
        return total, first

    zero = jnp.zeros_like(curvature)
    return jax.lax.fori_loop(0, n_blocks, block, (zero, zero))
