"""Brute force against the published formulas in plain loops, limits that are known, and Darwin's
integral.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from by_hand import R_E_SQUARED, kahn, ray_and_efficiency, sub_pixels
from spreadflow.models import Crystal, Detector, Mosaic, Parameters, Pixels, Spectrum
from spreadflow.physics import exact, rotation, unit_cell
from spreadflow.units import HC_EV_ANGSTROM

CELL = unit_cell.radians([60.0, 55.0, 50.0, 90.0, 105.0, 90.0])
SMOOTH = ("square", "round", "gauss")
N = np.array([4.0, 6.0, 5.0])


def detector() -> Detector:
    """Two tilted panels at 2θ of about 30°."""
    turn = rotation.from_vector(np.array([[0.02, -0.01, 0.03], [-0.03, 0.02, -0.01]]))
    return Detector(
        origin_mm=np.array([[5.0, 30.0, -60.0], [16.0, 30.3, -59.0]]),
        fast=turn[:, :, 0],
        slow=-turn[:, :, 1],
        pixel_mm=1.0,
        shape=(7, 9),
        thickness_mm=0.032,
        attenuation_mm=0.017,
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
    return Parameters(
        crystal=Crystal(A, N, np.float64(0.0)),
        mosaic=mosaic,
        scale=np.float64(90.0),
        beam_mm=np.float64(0.003),
        spectrum=pulse,
        polarization=np.float64(0.7),
        detector=detector(),
        hkl=hkl,
        f_squared=f_squared,
    )


def points(n=150) -> Pixels:
    rng = np.random.default_rng(8)
    return Pixels(rng.integers(0, 2, n, dtype=np.int32), rng.uniform(0, 9, n), rng.uniform(0, 7, n))


def lattice_factor(shape: str, hkl: list[float], nearest: tuple[int, ...]) -> float:
    """F_latt as nanoBragg has it."""
    n_cells = N[0] * N[1] * N[2]
    r2 = sum((n * (h - h0)) ** 2 for n, h, h0 in zip(N, hkl, nearest, strict=True))
    if shape == "square":
        return math.prod(
            math.sin(math.pi * h * n) / math.sin(math.pi * h) for h, n in zip(hkl, N, strict=True)
        )
    if shape == "round":
        x = math.pi * math.sqrt(r2)
        return n_cells * 0.723601254558268 * 3.0 * (math.sin(x) / x - math.cos(x)) / x**2
    if shape == "tophat":
        return n_cells * (r2 < 0.3969)
    if shape == "gauss_argchk" and r2 / 0.63 >= 35:
        return 0.0
    return n_cells * math.exp(-r2 / 0.63)


def published(p: Parameters, shape: str, oversample: int) -> np.ndarray:
    """The expected image by plain loops over panels, pixels, sub-pixels, channels and domains."""
    image = np.zeros((p.detector.n_panels, *p.detector.shape))
    f_squared = dict(zip(map(tuple, p.hkl.tolist()), p.f_squared, strict=True))
    real_space = [np.linalg.inv(turn @ p.crystal.A) for turn in p.mosaic.rotations]
    fluence = p.spectrum.photons / (p.beam_mm * 1e-3) ** 2
    for panel, row, column in np.ndindex(*image.shape):
        for fast, slow in sub_pixels(row, column, oversample):
            ray, efficiency = ray_and_efficiency(p.detector, panel, fast, slow, p.polarization)
            value = 0.0
            for channel, energy in enumerate(p.spectrum.energies_ev):
                q = (ray + np.array([0.0, 0.0, 1.0])) * energy / HC_EV_ANGSTROM
                for inverse, share in zip(real_space, p.mosaic.share, strict=True):
                    h = (inverse @ q).tolist()
                    node = tuple(math.ceil(index - 0.5) for index in h)
                    if node in f_squared:
                        f2 = f_squared[node][channel]
                        factor = lattice_factor(shape, h, node)
                        value += fluence[channel] * share * f2 * factor**2
            image[panel, row, column] += value * efficiency / oversample**2
    return R_E_SQUARED * p.scale * image


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
    whole = np.asarray(exact.photons(p, points()))
    is_even = p.hkl[:, 0] % 2 == 0
    parts = []
    for is_listed in (is_even, ~is_even):
        part = p._replace(hkl=p.hkl[is_listed], f_squared=p.f_squared[is_listed])
        parts.append(np.asarray(exact.photons(part, points())))
    assert all((part < 0.5 * whole).any() for part in parts)
    np.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-12)
    far = p._replace(hkl=p.hkl + np.array([60, 0, 0]))
    assert (np.asarray(exact.photons(far, points())) == 0).all()


def test_cut_gauss_is_gauss_until_its_cut():
    r = np.linspace(0.0, 6.0, 601)
    away = [jnp.asarray(r / 10.0), jnp.zeros(601), jnp.zeros(601)]
    whole, cut = (
        np.asarray(exact.SHAPES[s](away, np.full(3, 10.0))) for s in ("gauss", "gauss_argchk")
    )
    beyond = r**2 / 0.63 >= 35
    assert beyond.any() and (cut[beyond] == 0).all()
    assert (whole[beyond] > 0).all() and whole[beyond].max() < 1e-30
    np.testing.assert_array_equal(cut[~beyond], whole[~beyond])


def _along(shape: str, x: np.ndarray) -> np.ndarray:
    """F_latt²/ΠN² at x = N(h − h0) along one axis, N large."""
    n_cells = np.full(3, 1000.0)
    zero = jnp.zeros(1)
    factor = jax.jit(lambda x: exact.SHAPES[shape]([x / 1000.0, zero, zero], n_cells))
    return np.asarray(factor(x))


def test_volumes_of_the_shapes():
    """∫F_latt² d³h·ΠN⁻¹: 1 for square (its axes are independent) and round, less and more for the
    imitations.
    """
    step = 1e-3
    x = (np.arange(200000) + 0.5) * step
    shell = 4 * math.pi * x**2 * step
    gauss, square = (2 * _along(s, x).sum() * step for s in ("gauss", "square"))
    assert gauss == pytest.approx(math.sqrt(math.pi * 0.63 / 2), rel=1e-6)
    of_spheres = {s: (shell * _along(s, x)).sum() for s in ("gauss", "round", "tophat")}
    assert gauss**3 == pytest.approx(of_spheres["gauss"], rel=1e-6)
    assert of_spheres["gauss"] == pytest.approx(0.9844, abs=5e-5)
    assert square == pytest.approx(1.0, abs=1e-3)
    assert of_spheres["round"] == pytest.approx(1.0, abs=4e-3)  # its tail falls as 1/x
    assert of_spheres["tophat"] == pytest.approx(4 / 3 * math.pi * 0.63**3, rel=1e-3)


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
        is_double = dtype == "float64"
        end = np.array([0.9 / 30, 0.5 / 40, 0.3 / 50])
        line = np.linspace(0.0, 0.5, 2001)[:, None] * end
        along_line = jax.jit(jax.vmap(jax.value_and_grad(value)))
        values, gradients = along_line(jnp.asarray(line, dtype))
        in_double = np.asarray(value(jnp.asarray(line.T)))
        np.testing.assert_allclose(values, in_double, atol=1e-12 if is_double else 2e-6)
        slope = (np.asarray(gradients, float) * line[-1]).sum(axis=1)
        difference = (in_double[2:] - in_double[:-2]) * 1000
        np.testing.assert_allclose(slope[1:-1], difference, atol=1e-5 if is_double else 1e-3)


def test_square_is_the_interference_function():
    n = np.array([7.0, 9.0, 5.0])
    h = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 50))
    sums = [
        abs(sum(np.exp(2j * np.pi * a * m) for m in range(int(k)))) ** 2
        for a, k in zip(h, n, strict=True)
    ]
    square = exact.SHAPES["square"](list(jnp.asarray(h)), n) * np.prod(n) ** 2
    np.testing.assert_allclose(square, np.prod(sums, axis=0), rtol=1e-9)


# ---------------------------------------------------------------- gradients (gauss: test_gradients)


def _is_free(path: str, leaf) -> bool:
    fixed = ("width", "eta_rad")
    return np.asarray(leaf).dtype.kind == "f" and not any(name in path for name in fixed)


def leaves() -> list[str]:
    """Names of what can be refined, such as `.crystal.A`: the table of gradients. Points have no
    size here.
    """
    paths_and_leaves, _ = jax.tree_util.tree_flatten_with_path((parameters(), points(1)))
    names = []
    for path, leaf in paths_and_leaves:
        name = jax.tree_util.keystr(path)
        if _is_free(name, leaf) and name != "[0].edge_px":
            names.append(name)
    return names


def _values(free: dict, both):
    """`both` = (parameters, pixels) with leaves of these names replaced."""
    paths_and_leaves, tree = jax.tree_util.tree_flatten_with_path(both)
    values = [free.get(jax.tree_util.keystr(path), leaf) for path, leaf in paths_and_leaves]
    return tree.unflatten(values)


@pytest.fixture(scope="module", params=["square", "round"])
def derivatives(request):
    """Weighted sum of photons as a function of the leaves by name, where it is taken, and its
    gradient.
    """
    both = parameters(), points()
    paths_and_leaves, _ = jax.tree_util.tree_flatten_with_path(both)
    values = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in paths_and_leaves}
    values = {name: values[name] for name in leaves()}
    weight = np.random.default_rng(5).uniform(0.5, 1.5, len(both[1].panel))

    @jax.jit
    def total(free):
        return (weight * exact.photons(*_values(free, both), shape=request.param)).sum()

    return total, values, jax.jit(jax.grad(total))(values)


@pytest.mark.parametrize("name", leaves())
def test_gradient_is_the_finite_difference(derivatives, name):
    total, values, gradient = derivatives
    value = values[name]
    slope = np.asarray(gradient[name])
    rng = np.random.default_rng(1)
    across = np.abs(value).max() * rng.standard_normal(value.shape)
    step = 1e-6 if "f_squared" not in name else 1e-3
    above, below = (float(total(values | {name: value + sign * step * across})) for sign in (1, -1))
    expected = (above - below) / (2 * step)
    assert expected != 0
    tolerance = 1e-9 * float(total(values))
    assert (slope * across).sum() == pytest.approx(expected, rel=1e-5, abs=tolerance)


def test_gradient_where_the_sensor_captures_everything():
    p = parameters()
    p = p._replace(detector=p.detector._replace(thickness_mm=0.0))

    def shift(z):
        return exact.photons(
            p._replace(detector=p.detector._replace(origin_mm=z)), points(20)
        ).sum()

    assert np.isfinite(np.asarray(jax.grad(shift)(p.detector.origin_mm))).all()


# ---------------------------------------------------------------- the compiled loop


@pytest.mark.parametrize("n_channels", [3, 60])
def test_the_compiled_loop_sums_the_same_terms(n_channels):
    """With channels far enough apart that the nearest node changes several times from the first to
    the last, nodes that are not in the list, and domains so large that most exponentials are 0.
    """
    p = parameters(n_channels)
    large = p._replace(crystal=p.crystal._replace(n_cells=20 * N))
    # one domain without a turn, at whose middle indices are 0
    in_middle = p.mosaic.rotations * (np.arange(4) > 0)[:, None, None]
    in_middle[0] = np.eye(3)
    for each in (p, large, p._replace(mosaic=p.mosaic._replace(rotations=in_middle))):
        terms = np.asarray(exact.photons(each, points()))
        looped = exact.gauss_photons(each, points())
        assert (terms > 0.0).any()
        np.testing.assert_allclose(looped, terms, rtol=1e-11, atol=1e-14 * terms.max())


def test_the_compiled_loop_refuses_components_that_have_a_width():
    p = parameters()
    with pytest.raises(ValueError, match=r"mosaic\.width"):
        exact.gauss_photons(p._replace(mosaic=p.mosaic._replace(width=np.full(4, 0.1))), points())


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
        pixels = points(4096)

        def move(A):
            return exact.photons(p._replace(crystal=p.crystal._replace(A=A)), pixels).sum()

        work = jax.jit(move if what == "values" else jax.grad(move))
        return work.lower(p.crystal.A).compile().memory_analysis().temp_size_in_bytes

    few = temporary(10, 3)
    assert temporary(100, 3) < 1.1 * few > temporary(10, 30)


def test_blocks_do_not_show(monkeypatch):
    p = parameters()
    pixels = points(700)
    whole = np.asarray(exact.photons(p, pixels))
    monkeypatch.setattr(exact, "_POINTS", 256)
    np.testing.assert_allclose(np.asarray(exact.photons(p, pixels)), whole, rtol=1e-12)
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
    before = q0 / np.linalg.norm(q0)
    after = q / np.linalg.norm(q)
    axis = np.cross(before, after)
    turn = rotation.from_vector(axis / np.linalg.norm(axis) * math.acos(before @ after))
    ray = q / k + np.array([0.0, 0.0, -1.0])
    fast = np.cross([0.0, 0.0, 1.0], ray)
    fast /= np.linalg.norm(fast)
    slow = np.cross(ray, fast)
    origin = 100.0 * ray - half_mm * (fast + slow)
    panel = Detector(origin[None], fast[None], slow[None], 2 * half_mm / pixels, (pixels, pixels))
    p = Parameters(
        crystal=Crystal(turn @ B, np.full(3, 30.0), np.float64(0.0)),
        mosaic=Mosaic(turns(fast), np.zeros(len(share)), share),
        scale=np.float64(1.0),
        beam_mm=np.float64(0.003),
        spectrum=Spectrum(energies, photons),
        polarization=np.float64(0.6),
        detector=panel,
        hkl=node[None],
        f_squared=np.full((1, len(energies)), 1e4),
    )
    return p, ray


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
    total = exact.image(p, shape=shape).sum()
    wavelength = HC_EV_ANGSTROM / 7100.0
    cell = unit_cell.volume(CELL)
    sine = math.sqrt(1 - ray[2] ** 2)
    scattered = R_E_SQUARED * 1e12 / 9e-12 * 1e4 * kahn(ray, 0.6)
    darwin = scattered * wavelength**3 * 30**3 / cell / sine
    assert total == pytest.approx(ratio * darwin, rel=within)
    assert total == pytest.approx(darwin, rel=0.05)


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
    photons = np.full(161, 1e10)
    unrotated = np.eye(3)[None]
    p, ray = _single_node(energies, photons, lambda _: unrotated, np.ones(1), 4.0, 200)
    total = exact.image(p, shape=shape).sum()
    per_k = 1e10 / 9e-12 / 8.0 * HC_EV_ANGSTROM
    k = 7100.0 / HC_EV_ANGSTROM
    sine2 = (1 + ray[2]) / 2
    scattered = R_E_SQUARED * per_k * 1e4 * kahn(ray, 0.6)
    laue = scattered * 30**3 / unit_cell.volume(CELL) / (2 * k**2 * sine2)
    assert total == pytest.approx(ratio * laue, rel=within)
    assert total == pytest.approx(laue, rel=0.05)
