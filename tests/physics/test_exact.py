"""Brute force against the published formulas in plain loops, limits that are known, and Darwin's
integral.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spreadflow.models import Crystal, Detector, Mosaic, Parameters, Pixels, Spectrum
from spreadflow.physics import exact, rotation, unit_cell
from spreadflow.units import HC_EV_ANGSTROM

CELL = unit_cell.radians([60.0, 55.0, 50.0, 90.0, 105.0, 90.0])
SMOOTH = ("square", "round", "gauss")
N = np.array([4.0, 6.0, 5.0])


def detector() -> Detector:
    """Two tilted panels at 2θ of about 30°."""
    turn = rotation.from_vector(np.array([[0.02, -0.01, 0.03], [-0.03, 0.02, -0.01]]))
    fast, slow = turn[:, :, 0], -turn[:, :, 1]
    return Detector(
        np.array([[5.0, 30.0, -60.0], [16.0, 30.3, -59.0]]), fast, slow, 1.0, (7, 9), 0.032, 0.017
    )


def parameters(n_channels=3, n_domains=4, d_min=3.0) -> Parameters:
    """A small crystal whose spots are wide; the list of nodes has gaps."""
    rng = np.random.default_rng(2)
    A = rotation.random(rng) @ unit_cell.reciprocal(CELL)
    hkl = unit_cell.all_indices(A, d_min)
    hkl = hkl[hkl.sum(axis=1) % 3 > 0]
    turns = rotation.from_vector(0.01 * rng.standard_normal((n_domains, 3)))
    share = rng.uniform(0.5, 1.5, n_domains)
    mosaic = Mosaic(turns, np.zeros(n_domains), share / share.sum())
    energies = 7000.0 + 40.0 * np.arange(n_channels)
    pulse = Spectrum(energies, rng.uniform(0.5e11, 1.5e11, n_channels))
    f_squared = 1e4 * rng.exponential(size=(len(hkl), n_channels))
    crystal = Crystal(A, N, np.float64(0.0))
    return Parameters(
        crystal,
        mosaic,
        np.float64(90.0),
        np.float64(0.003),
        pulse,
        np.float64(0.7),
        detector(),
        hkl,
        f_squared,
    )


def points(n=150) -> Pixels:
    rng = np.random.default_rng(8)
    return Pixels(rng.integers(0, 2, n, dtype=np.int32), rng.uniform(0, 9, n), rng.uniform(0, 7, n))


def lattice_factor(shape: str, hkl: list[float], nearest: list[int]) -> float:
    """F_latt as nanoBragg has it."""
    everything = N[0] * N[1] * N[2]
    r2 = sum((n * (h - h0)) ** 2 for n, h, h0 in zip(N, hkl, nearest, strict=True))
    if shape == "square":
        return math.prod(
            math.sin(math.pi * h * n) / math.sin(math.pi * h) for h, n in zip(hkl, N, strict=True)
        )
    if shape == "round":
        x = math.pi * math.sqrt(r2)
        return everything * 0.723601254558268 * 3.0 * (math.sin(x) / x - math.cos(x)) / x**2
    if shape == "tophat":
        return everything * (r2 < 0.3969)
    return 0.0 if shape == "gauss_argchk" and r2 / 0.63 >= 35 else everything * math.exp(-r2 / 0.63)


def published(p: Parameters, shape: str, oversample: int) -> np.ndarray:
    """The expected image by plain loops over panels, pixels, sub-pixels, channels and domains."""
    d = p.detector
    n_slow, n_fast = d.shape
    image = np.zeros((d.n_panels, n_slow, n_fast))
    f_squared = dict(zip(map(tuple, p.hkl.tolist()), p.f_squared, strict=True))
    real_space = [np.linalg.inv(turn @ p.crystal.A) for turn in p.mosaic.rotations]
    for panel, i, j in np.ndindex(*image.shape):
        for sub in range(oversample**2):
            x, y = (
                j + (sub % oversample + 0.5) / oversample,
                i + (sub // oversample + 0.5) / oversample,
            )
            at = (
                d.origin_mm[panel] + d.fast[panel] * x * d.pixel_mm + d.slow[panel] * y * d.pixel_mm
            )
            distance = math.sqrt(at @ at)
            ray = at / distance
            normal = np.cross(d.fast[panel], d.slow[panel])
            omega = d.pixel_mm**2 * abs(d.origin_mm[panel] @ normal) / distance**3
            capture = 1.0 - math.exp(-d.thickness_mm / (d.attenuation_mm * abs(normal @ ray)))
            cos2 = -ray[2]
            psi = math.atan2(ray[1], ray[0])
            polar = 0.5 * (1 + cos2**2 - p.polarization * math.cos(2 * psi) * (1 - cos2**2))
            value = 0.0
            for channel, (e, photons) in enumerate(
                zip(p.spectrum.energies_ev, p.spectrum.photons, strict=True)
            ):
                q = (ray + np.array([0.0, 0.0, 1.0])) * e / HC_EV_ANGSTROM
                for inverse, share in zip(real_space, p.mosaic.share, strict=True):
                    h = (inverse @ q).tolist()
                    nearest = [math.ceil(a - 0.5) for a in h]
                    f2 = f_squared[tuple(nearest)][channel] if tuple(nearest) in f_squared else 0.0
                    value += photons * share * f2 * lattice_factor(shape, h, nearest) ** 2
            fluence_per_photon = 1.0 / (p.beam_mm * 1e-3) ** 2
            weight = omega * capture * polar / oversample**2
            image[panel, i, j] += 7.94079248e-30 * p.scale * fluence_per_photon * value * weight
    return image


@pytest.mark.parametrize("shape", exact.SHAPES)
def test_equals_the_published_formulas(shape):
    p = parameters()
    truth = published(p, shape, 2)
    assert (truth == 0.0).any() and (truth > 0.0).sum() > 10, "points at nodes in the list and not"
    np.testing.assert_allclose(
        exact.image(p, shape=shape, oversample=2), truth, rtol=1e-8, atol=1e-12 * truth.max()
    )


def test_nodes_not_in_the_list_scatter_nothing():
    p = parameters()
    everything = np.asarray(exact.photons(p, points()))
    first = p.hkl[:, 0] % 2 == 0
    parts = [
        np.asarray(
            exact.photons(p._replace(hkl=p.hkl[some], f_squared=p.f_squared[some]), points())
        )
        for some in (first, ~first)
    ]
    assert all((part < 0.5 * everything).any() for part in parts)
    np.testing.assert_allclose(parts[0] + parts[1], everything, rtol=1e-12)
    far = p._replace(hkl=p.hkl + np.array([60, 0, 0]))
    assert (np.asarray(exact.photons(far, points())) == 0).all()


def test_cut_gauss_is_gauss_until_its_cut():
    r = np.linspace(0.0, 6.0, 601)
    away = [jnp.asarray(r / 10.0), jnp.zeros(601), jnp.zeros(601)]
    whole, cut = (
        np.asarray(exact.SHAPES[s](away, np.full(3, 10.0))) for s in ("gauss", "gauss_argchk")
    )
    beyond = r**2 / 0.63 >= 35
    assert (
        beyond.any()
        and (cut[beyond] == 0).all()
        and (whole[beyond] > 0).all()
        and whole[beyond].max() < 1e-30
    )
    np.testing.assert_array_equal(cut[~beyond], whole[~beyond])


def _along(shape: str, x: np.ndarray) -> np.ndarray:
    """F_latt²/ΠN² at x = N(h − h0) along one axis, N large."""
    at = jax.jit(
        lambda x: exact.SHAPES[shape]([x / 1000.0, jnp.zeros(1), jnp.zeros(1)], np.full(3, 1000.0))
    )
    return np.asarray(at(x))


def test_volumes_of_the_shapes():
    """∫F_latt² d³h·ΠN⁻¹: 1 for square (its axes are independent) and round, less and more for the
    imitations.
    """
    step = 1e-3
    x = (np.arange(200000) + 0.5) * step
    shell = 4 * math.pi * x**2 * step
    gauss, square = (2 * _along(s, x).sum() * step for s in ("gauss", "square"))
    assert gauss == pytest.approx(math.sqrt(math.pi * 0.63 / 2), rel=1e-6)
    assert (
        gauss**3
        == pytest.approx((shell * _along("gauss", x)).sum(), rel=1e-6)
        == pytest.approx(0.9844, abs=5e-5)
    )
    assert square == pytest.approx(1.0, abs=1e-3)
    assert (shell * _along("round", x)).sum() == pytest.approx(
        1.0, abs=4e-3
    )  # its tail falls as 1/x
    assert (shell * _along("tophat", x)).sum() == pytest.approx(4 / 3 * math.pi * 0.63**3, rel=1e-3)


@pytest.mark.parametrize(
    ("shape", "peak"), [("square", 1.0), ("round", math.pi / 6), ("gauss", 1.0), ("tophat", 1.0)]
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_at_a_node(shape, peak, dtype):
    """The peak, its derivative, and no seam where a series takes over."""
    n_cells = np.array([30.0, 40.0, 50.0], dtype)
    value = jax.jit(lambda h: exact.SHAPES[shape]([h[0], h[1], h[2]], n_cells))
    zero = jnp.zeros(3, dtype)
    assert value(zero) == pytest.approx(peak, rel=1e-6)
    assert (np.asarray(jax.jit(jax.grad(value))(zero)) == 0).all()
    if shape in SMOOTH:
        line = np.linspace(0.0, 0.5, 2001)[:, None] * np.array([0.9 / 30, 0.5 / 40, 0.3 / 50])
        v, g = jax.jit(jax.vmap(jax.value_and_grad(value)))(jnp.asarray(line, dtype))
        wide = np.asarray(value(jnp.asarray(line.T)))
        np.testing.assert_allclose(v, wide, atol=1e-12 if dtype == "float64" else 2e-6)
        slope = (np.asarray(g, float) * line[-1]).sum(axis=1)
        np.testing.assert_allclose(
            slope[1:-1], (wide[2:] - wide[:-2]) * 1000, atol=1e-5 if dtype == "float64" else 1e-3
        )


def test_square_is_the_interference_function():
    n = np.array([7.0, 9.0, 5.0])
    h = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 50))
    sums = [
        abs(sum(np.exp(2j * np.pi * a * m) for m in range(int(k)))) ** 2
        for a, k in zip(h, n, strict=True)
    ]
    made = exact.SHAPES["square"](list(jnp.asarray(h)), n) * np.prod(n) ** 2
    np.testing.assert_allclose(made, np.prod(sums, axis=0), rtol=1e-9)


# ---------------------------------------------------------------- gradients (gauss: test_gradients)


def _is_free(path: str, leaf) -> bool:
    fixed = ("width", "eta_rad")
    return np.asarray(leaf).dtype.kind == "f" and not any(name in path for name in fixed)


def leaves() -> list[str]:
    """Names of what can be refined, such as `.crystal.A`: the table of gradients. Points have no
    size here.
    """
    told = jax.tree_util.tree_flatten_with_path((parameters(), points(1)))[0]
    return [
        name
        for name, leaf in ((jax.tree_util.keystr(path), leaf) for path, leaf in told)
        if _is_free(name, leaf) and name != "[0].edge_px"
    ]


def _values(free: dict, both):
    """`both` = (parameters, pixels) with leaves of these names replaced."""
    told, tree = jax.tree_util.tree_flatten_with_path(both)
    return tree.unflatten([free.get(jax.tree_util.keystr(path), leaf) for path, leaf in told])


@pytest.fixture(scope="module", params=["square", "round"])
def derivatives(request):
    """Weighted sum of photons as a function of the leaves by name, where it is taken, and its
    gradient.
    """
    both = parameters(), points()
    told = jax.tree_util.tree_flatten_with_path(both)[0]
    at = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in told}
    at = {name: at[name] for name in leaves()}
    weight = np.random.default_rng(5).uniform(0.5, 1.5, len(both[1].panel))
    total = jax.jit(
        lambda free: (weight * exact.photons(*_values(free, both), shape=request.param)).sum()
    )
    return total, at, jax.jit(jax.grad(total))(at)


@pytest.mark.parametrize("name", leaves())
def test_gradient_is_the_finite_difference(derivatives, name):
    total, at, gradient = derivatives
    value = at[name]
    slope = np.asarray(gradient[name])
    rng = np.random.default_rng(1)
    across = np.abs(value).max() * rng.standard_normal(value.shape)
    step = 1e-6 if "f_squared" not in name else 1e-3
    ends = [float(total(at | {name: value + sign * step * across})) for sign in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step)
    assert expected != 0
    assert (slope * across).sum() == pytest.approx(expected, rel=1e-5, abs=1e-9 * float(total(at)))


def test_gradient_where_the_sensor_captures_everything():
    p = parameters()
    p = p._replace(detector=p.detector._replace(thickness_mm=0.0))

    def shift(z):
        return exact.photons(
            p._replace(detector=p.detector._replace(origin_mm=z)), points(20)
        ).sum()

    assert np.isfinite(np.asarray(jax.grad(shift)(p.detector.origin_mm))).all()


# ---------------------------------------------------------------- precision and memory


@pytest.mark.parametrize("shape", exact.SHAPES)
def test_float32_sums(shape):
    p = parameters()
    p = p._replace(crystal=p.crystal._replace(n_cells=10 * N))
    double, single = (
        np.asarray(exact.photons(p, points(), shape=shape, dtype=t)) for t in ("float64", "float32")
    )
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, rtol=2e-4, atol=1e-6 * double.max())


@pytest.mark.parametrize("what", ["values", "gradient"])
def test_memory_does_not_grow_with_channels_or_domains(what):
    """Of values, and of gradients."""

    def temporary(n_channels, n_domains):
        p = parameters(n_channels, n_domains, d_min=6.0)
        some = points(4096)

        def move(A):
            return exact.photons(p._replace(crystal=p.crystal._replace(A=A)), some).sum()

        work = jax.jit(move if what == "values" else jax.grad(move))
        return work.lower(p.crystal.A).compile().memory_analysis().temp_size_in_bytes

    few = temporary(10, 3)
    assert temporary(100, 3) < 1.1 * few > temporary(10, 30)


def test_blocks_do_not_show(monkeypatch):
    p = parameters()
    some = points(700)
    whole = np.asarray(exact.photons(p, some))
    monkeypatch.setattr(exact, "_POINTS", 256)
    np.testing.assert_allclose(np.asarray(exact.photons(p, some)), whole, rtol=1e-12)
    image = exact.image(p)
    monkeypatch.setattr(exact, "_CHUNK", 20)
    np.testing.assert_allclose(exact.image(p), image, rtol=1e-12)


def test_what_it_cannot_do_is_refused():
    p = parameters()
    with pytest.raises(ValueError, match=r"mosaic\.width"):
        exact.photons(p._replace(mosaic=p.mosaic._replace(width=np.full(4, 0.1))), points())
    with pytest.raises(ValueError, match="shape"):
        exact.photons(p, points(), shape="sphere")


# ---------------------------------------------------------------- Darwin


def _single_node(energies, photons, turns, share, half_mm, pixels) -> tuple[Parameters, np.ndarray]:
    """One node that is in diffracting position at 7100 eV without rotation, and a flat panel square
    to its ray.
    """
    B = unit_cell.reciprocal(CELL)
    node = np.array([7, -4, 6])
    k = 7100.0 / HC_EV_ANGSTROM
    q0 = B @ node
    sine = np.linalg.norm(q0) / (2 * k)
    azimuth = 0.7
    cosine = math.sqrt(1 - sine**2)
    q = 2 * k * sine * np.array([cosine * math.cos(azimuth), cosine * math.sin(azimuth), sine])
    away = q0 / np.linalg.norm(q0)
    to = q / np.linalg.norm(q)
    axis = np.cross(away, to)
    turn = rotation.from_vector(axis / np.linalg.norm(axis) * math.acos(away @ to))
    ray = q / k + np.array([0.0, 0.0, -1.0])
    fast = np.cross([0.0, 0.0, 1.0], ray)
    fast /= np.linalg.norm(fast)
    slow = np.cross(ray, fast)
    origin = 100.0 * ray - half_mm * (fast + slow)
    panel = Detector(origin[None], fast[None], slow[None], 2 * half_mm / pixels, (pixels, pixels))
    p = Parameters(
        Crystal(turn @ B, np.full(3, 30.0), np.float64(0.0)),
        Mosaic(turns(fast), np.zeros(len(share)), share),
        np.float64(1.0),
        np.float64(0.003),
        Spectrum(energies, photons),
        np.float64(0.6),
        panel,
        node[None],
        np.full((1, len(energies)), 1e4),
    )
    return p, ray


def _kahn(ray, polarization: float) -> float:
    return 0.5 * (1 + ray[2] ** 2 - polarization * (ray[0] ** 2 - ray[1] ** 2))


@pytest.mark.parametrize(
    ("shape", "ratio", "within"), [("gauss", 0.98444, 0.001), ("square", 1.0, 0.03)]
)
def test_rotated_crystal_gives_the_darwin_integral(shape, ratio, within):
    """∫ photons dφ = r_e² fluence |F|² P λ³ V_crystal/V_cell² / sin 2θ, φ about the normal of the
    scattering plane.

    Darwin (1914); the domain's rotations are the steps of φ, and share their width.
    """
    angle = np.linspace(-0.02, 0.02, 201)

    def turns(axis):
        return rotation.from_vector(angle[:, None] * axis)

    step = np.full(201, angle[1] - angle[0])
    p, ray = _single_node(np.array([7100.0]), np.array([1e12]), turns, step, 1.5, 100)
    made = exact.image(p, shape=shape).sum()
    wavelength = HC_EV_ANGSTROM / 7100.0
    cell = unit_cell.volume(CELL)
    sine = math.sqrt(1 - ray[2] ** 2)
    darwin = (
        7.94079248e-30 * 1e12 / 9e-12 * 1e4 * _kahn(ray, 0.6) * wavelength**3 * 30**3 / cell / sine
    )
    assert made == pytest.approx(ratio * darwin, rel=within)
    assert made == pytest.approx(darwin, rel=0.05)


@pytest.mark.stage
@pytest.mark.parametrize(
    ("shape", "ratio", "within"), [("gauss", 0.98444, 0.005), ("square", 1.0, 0.03)]
)
def test_still_in_a_flat_spectrum_gives_the_laue_integral(shape, ratio, within):
    """photons = r_e² dfluence/dk |F|² P V_crystal/V_cell² / (2k² sin²θ), k = 1/λ (λ⁴/2 sin²θ per
    unit of wavelength).

    As d³q = k²(1 − cos 2θ) dΩ dk for q = k(ŝ − ŝ0); Zachariasen (1945), Buras & Gerward (1975).
    """
    energies = 7100.0 + np.arange(-640.0, 641.0, 8.0)
    p, ray = _single_node(
        energies, np.full(161, 1e10), lambda _: np.eye(3)[None], np.ones(1), 4.0, 200
    )
    made = exact.image(p, shape=shape).sum()
    per_k = 1e10 / 9e-12 / 8.0 * HC_EV_ANGSTROM
    k = 7100.0 / HC_EV_ANGSTROM
    sine2 = (1 + ray[2]) / 2
    laue = (
        7.94079248e-30
        * per_k
        * 1e4
        * _kahn(ray, 0.6)
        * 30**3
        / unit_cell.volume(CELL)
        / (2 * k**2 * sine2)
    )
    assert made == pytest.approx(ratio * laue, rel=within)
    assert made == pytest.approx(laue, rel=0.05)
