"""What JAX compiles for stages gives the same numbers on a GPU as on the CPU, to the rounding of
what is summed, function by function.

Without a GPU the same tests compare with a second CPU, where all has to be equal to the last bit;
those of a GPU are skipped.
"""

import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spreadflow.analysis
import spreadflow.physics
from lab import benchmark
from spreadflow.physics import noise

kernels = benchmark("kernels")
CPU = jax.devices("cpu")[0]
TF32 = 2.0**-11
"""Largest relative error of a float32 that is rounded to TF32."""


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request) -> jax.Device:
    """A GPU, or a second CPU."""
    if request.param == "cpu":
        return jax.devices("cpu")[1]
    try:
        return jax.local_devices(backend="gpu")[0]
    except RuntimeError:
        pytest.skip("no GPU: JAX finds the CPU alone")


@pytest.fixture(scope="module")
def every() -> dict[str, kernels.Kernel]:
    """All kernels with small arrays, by name."""
    with jax.default_device(CPU):
        return {kernel.name: kernel for kernel in kernels.every(kernels.QUICK)}


NAMES = (
    "pixel_map",
    "background",
    "noise: counts",
    "noise: readout",
    "atom_sums",
    "exact, float64",
    "exact, float32",
    "rays",
    "clouds, averaged",
    "clouds",
    "clouds by crystal",
    "channels",
    "light on clouds",
    "clouds on panels",
    "photons",
    "photons by crystal",
    "orientation",
    "orientation by unknowns",
    "detector, moved",
    "spots by moves",
    "shots kept",
    "partners added",
)


@pytest.mark.stage
@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_the_cpu(every, device, name):
    kernel = every[name]
    with jax.default_device(CPU):
        expected = kernel.run()
    with jax.default_device(device):
        other = kernel.run()
    arrays = jax.tree.leaves(other)
    assert all(array.devices() == {device} for array in arrays)
    assert any(np.isfinite(array).all() and np.any(array) for array in arrays)
    tolerance = 0.0 if device.platform == "cpu" else kernel.tolerance
    assert kernels.difference(kernel, expected, other) <= tolerance


def test_frames_are_those_of_the_cpu(device):
    """From the same random numbers, which are NumPy's: all steps, with flicker and other gains."""
    expected = np.geomspace(0.01, 5e3, 200_000).reshape(1, 400, 500)

    def frame() -> np.ndarray:
        noise._tables.cache_clear()
        rng = np.random.default_rng(7)
        gain = noise.gain_map(rng, expected.shape, 0.01)
        chain = {"quantum_gain": 1.3, "readout_adu": 1.0, "offset_adu": 10.0}
        return noise.read_out(rng, expected, gain, flicker=0.02, saturation_adu=5000, **chain)

    with jax.default_device(CPU):
        on_cpu = frame()
    with jax.default_device(device):
        on_device = frame()
    noise._tables.cache_clear()
    apart = np.abs(on_cpu - on_device)
    assert apart.max() <= (0 if device.platform == "cpu" else 2)
    assert np.count_nonzero(apart) <= 2 * kernels.COUNTS * apart.size


# ---------------------------------------------------------------- the tests themselves


def compiled_functions() -> dict[str, object]:
    """Return the functions of the library that JAX compiles, by the modules that have them."""
    kind = type(jax.jit(abs))
    functions = {}
    for package in (spreadflow.physics, spreadflow.analysis):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            owned = {f"{found.name}.{key}": value for key, value in vars(module).items()}
            functions |= {key: value for key, value in owned.items() if isinstance(value, kind)}
    return functions


def test_every_compiled_function_is_compared(every):
    assert list(every) == list(NAMES)
    compared = {id(kernel.function) for kernel in every.values()}
    functions = compiled_functions()
    assert len(functions) >= 17
    assert {name for name, one in functions.items() if id(one) not in compared} == set()


@pytest.mark.stage
@pytest.mark.parametrize("name", NAMES)
def test_one_number_that_is_wrong_is_noticed(every, name):
    """The largest, rounded to TF32; a count off by two; the other answer."""
    kernel = every[name]
    with jax.default_device(CPU):
        expected = [np.array(array) for array in jax.tree.leaves(kernel.run())]
    for number, array in enumerate(expected):
        size = np.where(np.isfinite(array), np.abs(array.astype(float)), -1.0)
        place = np.unravel_index(size.argmax(), array.shape)
        if size[place] <= 0:
            continue
        wrong = array.copy()
        if array.dtype == bool:
            wrong[place] = not array[place]
        elif kernel.is_counts or array.dtype.kind == "i":
            wrong[place] += 2
        else:
            wrong[place] *= 1.0 + TF32
        others = [*expected[:number], wrong, *expected[number + 1 :]]
        assert kernels.difference(kernel, expected, others) > kernel.tolerance


@pytest.mark.stage
def test_the_benchmark_measures_and_compares(every, capsys):
    """A kernel that is right, and one whose bound is too tight, on the second CPU."""
    benchmark("recorded")  # which it imports
    device = benchmark("device")
    cpu, other = jax.devices("cpu")
    assert device.devices("cpu") == [other]
    assert device.devices(None) == ([] if jax.default_backend() == "cpu" else jax.local_devices())
    right = every["background"]
    figures = device.compare([right], cpu, [other])
    row = figures["devices"]["cpu 1"]["kernels"]["background"]
    assert row["difference"] == 0.0
    assert min(row["call_s"], row["stay_s"], figures["cpu"]["background"]["call_s"]) > 0
    moved = sum(array.nbytes for array in map(np.asarray, (*right.arguments, right.run())))
    assert row["bytes"] == moved
    assert "*" not in device.line(right, figures, row)
    assert "*" in device.line(right, figures, row | {"difference": 2 * right.tolerance})


# ---------------------------------------------------------------- no TF32


def products(text: str) -> list[str]:
    """Return the lines of a program that are products of matrices."""
    return [row for row in text.splitlines() if "dot_general" in row or "convolution" in row]


def test_products_of_float32_are_not_rounded():
    """XLA is asked for all bits, in programs that nobody has said anything more to."""
    import spreadflow.physics.precision  # noqa: F401 (sets JAX up)

    matrix = jnp.ones((8, 8), jnp.float32)
    lowered = jax.jit(lambda a, b: a @ b).lower(matrix, matrix)
    (product,) = products(lowered.as_text())
    assert "precision = [HIGHEST, HIGHEST]" in product
    assert "operand_precision={highest,highest}" in lowered.as_text("hlo")


@pytest.mark.parametrize("name", NAMES)
def test_no_kernel_asks_for_less(every, name):
    kernel = every[name]
    text = kernel.function.lower(*kernel.arguments, **kernel.keywords).as_text()
    for product in products(text):
        assert "precision = [HIGHEST, HIGHEST]" in product
