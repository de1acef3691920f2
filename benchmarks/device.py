"""What would a GPU gain? Each function that JAX compiles for a stage, on a core and on each device.

Elapsed seconds, the least of several calls, as devices compute while the CPU waits: use a quiet
machine. `call` is as a stage has it, from NumPy arrays to NumPy arrays; `stay` leaves arguments and
results on the device, as a stage does not. Both stand beside what the bytes alone take: their way
to the device and back, and their way through the memory of the device, each as fast as a copy is
here. `loops` are compiled loops on a core that the stages take instead.
"""

import os

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy and XLA start

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import kernels
import recorded
from kernels import Kernel

LEAST_CALLS = 3
"""Calls that are timed, after the one that compiles."""

ENOUGH_S = 0.3
"""Seconds after which a function is not called again."""

COPIED_BYTES = 1 << 26
"""Bytes of the arrays whose copies are timed."""

NOTHING_TO_DO = (
    "no GPU: JAX finds the CPU alone (spreadflow[cuda] is needed for NVIDIA, spreadflow[rocm] for "
    "AMD); `--device cpu` measures a second CPU as if it were one"
)

Row = dict[str, float]
"""The figures of a kernel on a device."""


class Rates(NamedTuple):
    """How fast a device takes and hands over bytes, bytes/s."""

    there: float
    """from the host"""
    back: float
    """to the host"""
    memory: float
    """read and written in its own memory, together"""


def least_seconds(work: Callable[[], object]) -> float:
    """Return the least seconds of several calls."""
    seconds: list[float] = []
    while len(seconds) < LEAST_CALLS or sum(seconds) < ENOUGH_S:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def to_numpy(tree: Any) -> Any:
    """Return all arrays as NumPy's, once they are there."""
    return jax.tree.map(np.asarray, tree)


def n_bytes(tree: Any) -> int:
    """Return the bytes of all arrays."""
    return sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(tree))


def rates(device: jax.Device) -> Rates:
    """Measure the rates of a device."""
    host = np.random.default_rng(0).standard_normal(COPIED_BYTES // 8)
    there = jax.device_put(host, device)
    plus_one = jax.jit(lambda x: x + 1.0)
    plus_one(there).block_until_ready()

    def back() -> None:
        np.asarray(plus_one(there))  # new each time, as JAX keeps what it has handed over

    within = least_seconds(lambda: plus_one(there).block_until_ready())
    up = least_seconds(lambda: jax.device_put(host, device).block_until_ready())
    return Rates(
        there=host.nbytes / up,
        back=host.nbytes / max(least_seconds(back) - within, 1e-9),
        memory=2 * host.nbytes / within,
    )


def called(kernel: Kernel, device: jax.Device) -> tuple[Row, Any]:
    """Return the seconds of a kernel on a device as a stage calls it, and what it computes there
    (NumPy).
    """
    with jax.default_device(device):
        start = time.perf_counter()
        result = to_numpy(kernel.run())
        first = time.perf_counter() - start
        call = least_seconds(lambda: to_numpy(kernel.run()))
    return {"compile_s": first - call, "call_s": call}, result


def staying(kernel: Kernel, device: jax.Device, speed: Rates, result: Any) -> Row:
    """Return the seconds of a kernel where its arguments and results stay on a device, and those
    that the bytes alone take. result: what it computes.
    """
    taken = n_bytes(kernel.arguments)
    handed = n_bytes(result)
    with jax.default_device(device):
        on_device = jax.device_put(kernel.arguments, device)
        jax.block_until_ready(kernel.run(on_device))
        seconds = least_seconds(lambda: jax.block_until_ready(kernel.run(on_device)))
    return {
        "stay_s": seconds,
        "bytes": float(taken + handed),
        "call_floor_s": taken / speed.there + handed / speed.back,
        "stay_floor_s": (taken + handed) / speed.memory,
    }


def compare(every: list[Kernel], cpu: jax.Device, others: list[jax.Device]) -> dict[str, Any]:
    """Return the figures of all kernels: on the CPU, on each other device, and of loops. Prints a
    table for each device as it is measured.
    """
    jax.clear_caches()
    figures: dict[str, Any] = {"cpu": {}, "loops": {}, "devices": {}}
    on_cpu = {}
    for kernel in every:
        figures["cpu"][kernel.name], on_cpu[kernel.name] = called(kernel, cpu)
        if kernel.loops is not None:
            kernel.loops()
            figures["loops"][kernel.name] = least_seconds(kernel.loops)
    for device in others:
        speed = rates(device)
        rows = {}
        print(f"\n{described(device, speed)}\n{HEAD}")
        for kernel in every:
            row, result = called(kernel, device)
            row |= staying(kernel, device, speed, result)
            row["ratio"] = figures["cpu"][kernel.name]["call_s"] / row["call_s"]
            row["difference"] = kernels.difference(kernel, on_cpu[kernel.name], result)
            rows[kernel.name] = row
            print(line(kernel, figures, row), flush=True)
        of_device = {"kind": device.device_kind, "rates": speed._asdict(), "kernels": rows}
        figures["devices"][f"{device.platform} {device.id}"] = of_device
    return figures


# ---------------------------------------------------------------- what is printed


HEAD = (
    f"{'':24}{'core, ms':>10}{'loops':>8}{'call':>9}{'floor':>7}{'stay':>9}{'floor':>7}"
    f"{'core/call':>11}{'MB':>9}{'compile, s':>16}   largest difference"
)


def described(device: jax.Device, speed: Rates) -> str:
    """Return a device and its rates in words."""
    there, back, memory = (rate / 1e9 for rate in speed)
    return (
        f"{device.platform} {device.id}, {device.device_kind}: {there:.1f} GB/s there, {back:.1f} "
        f"back, {memory:.0f} in its memory; beside a core of {platform.processor() or 'this CPU'}"
    )


def line(kernel: Kernel, figures: dict[str, Any], row: Row) -> str:
    """Return the figures of a kernel on a device and on the CPU. Floors are shares of the time."""
    core = figures["cpu"][kernel.name]
    loops = figures["loops"].get(kernel.name)
    shown = "" if loops is None else f"{1e3 * loops:.3g}"
    mark = "" if is_alike(kernel, row) else f"  * at most {kernel.tolerance:.0e}"
    return (
        f"{kernel.name:24}{1e3 * core['call_s']:10.3g}{shown:>8}"
        f"{1e3 * row['call_s']:9.3g}{row['call_floor_s'] / row['call_s']:7.0%}"
        f"{1e3 * row['stay_s']:9.3g}{row['stay_floor_s'] / row['stay_s']:7.0%}"
        f"{row['ratio']:11.3g}{row['bytes'] / 1e6:9.3f}"
        f"{core['compile_s']:8.2f}{row['compile_s']:8.2f}   {row['difference']:.1e}{mark}"
    )


def is_alike(kernel: Kernel, row: Row) -> bool:
    """Whether the numbers are those of the CPU."""
    return row["difference"] <= kernel.tolerance


def devices(name: str | None) -> list[jax.Device]:
    """Return the devices to measure; none where there is none. name: of the platform; None = that
    which JAX prefers.
    """
    if name == "cpu":
        return jax.devices("cpu")[1:]
    if name is not None:
        return jax.local_devices(backend=name)
    return [] if jax.default_backend() == "cpu" else jax.local_devices()


def main() -> int:
    """Print all figures, and return 1 where numbers are not those of the CPU."""
    description = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=description)
    parser.add_argument("--device", help="platform: gpu, cuda, rocm, cpu (default: JAX's first)")
    parser.add_argument("--quick", action="store_true", help="small arrays: a try, no measurement")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    if arguments.device == "cpu":
        jax.config.update("jax_num_cpu_devices", 2)
    others = devices(arguments.device)
    if not others:
        print(NOTHING_TO_DO)
        return 0
    start = time.perf_counter()
    with jax.default_device(jax.devices("cpu")[0]):
        every = kernels.every(kernels.QUICK if arguments.quick else kernels.STILL)
    figures = compare(every, jax.devices("cpu")[0], others)
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    if arguments.json:
        recorded.save(arguments.json, "device", figures)
    measured = [table["kernels"] for name, table in figures.items() if name not in ("cpu", "loops")]
    return int(
        not all(is_alike(kernel, rows[kernel.name]) for rows in measured for kernel in every)
    )


if __name__ == "__main__":
    sys.exit(main())
