"""User-CPU seconds of the photons of a lattice's pixels and their derivatives by 10 parameters of
the lattice.

40 shoeboxes of 11 × 11 pixels around the brightest reflections of a shot of config/demo.yaml: 100
channels, 25 domains or the continuous spread; log scale, rotation (3), monoclinic cell (4), log N
and log η. One thread, compiled before.
"""

import os

from spreadflow.trial.threads import THREAD_CAPS

os.environ |= dict.fromkeys(THREAD_CAPS, "1")  # before NumPy and XLA start

import resource
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from spreadflow import config
from spreadflow.models import Crystal, Parameters
from spreadflow.physics import forward, layout, mosaic, rotation, unit_cell
from spreadflow.recipes import still

CONFIG = Path(__file__).parents[1] / "config"
N_BOXES, EDGE = 40, 11
BAR = 0.015
"""seconds, for either mosaicity"""
PEER = 4.85
"""diffBragg: model and gradient of 36 such boxes, 100 channels, 26 domains (reference:
performance-peers, 9)
"""


def user_cpu() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def problem(simulator: still.Simulator, mosaicity: str) -> tuple[Parameters, layout.Footprints]:
    """The brightest reflections of a shot, each with a shoebox of the same size."""
    pulse = simulator.pulse(7, 0)
    (domains,) = simulator.mosaics(7, 1)
    A = rotation.random(simulator.rng(still.ORIENTATION, 7)) @ unit_cell.reciprocal(simulator.cell)
    p = simulator.parameters(
        pulse, A, mosaic.continuous() if mosaicity == "continuous" else domains
    )
    boxes, pixels, rays, pairs = layout.lay_out(p)
    photons = forward.sums(p, rays, pairs)[0]
    box = np.repeat(np.arange(len(boxes.node)), boxes.n_points)

    def moment(weight):
        return np.bincount(box, photons * weight, len(boxes.node))

    total = moment(1.0)
    best = np.argsort(-total)[:N_BOXES]
    corner = [
        np.floor(moment(at)[best] / total[best]).astype(int) - EDGE // 2
        for at in (pixels.fast, pixels.slow)
    ]
    full = np.full(len(best), EDGE)
    node = boxes.node[best]
    chosen = layout.Footprints(
        np.arange(len(best)),
        boxes.panel[best],
        corner[0],
        corner[1],
        full,
        full,
        np.ones(len(best), int),
    )
    return p._replace(hkl=p.hkl[node], f_squared=p.f_squared[node]), chosen


def changed(crystal: Crystal, cell: np.ndarray, x) -> Crystal:
    """The crystal moved by x = (rotation vector, a, b, c, β, ln N, ln η)."""
    u, v, w = x[:3]
    turn = jnp.eye(3) + jnp.array([[0.0 * u, -w, v], [w, 0.0 * u, -u], [-v, u, 0.0 * u]])
    a = cell[0] + x[3]
    b = cell[1] + x[4]
    c = cell[2] + x[5]
    beta = cell[4] + x[6]
    none = 0.0 * beta
    direct = jnp.array(
        [[a, none, c * jnp.cos(beta)], [none, b, none], [none, none, c * jnp.sin(beta)]]
    )
    A = (
        turn
        @ crystal.A
        @ jnp.asarray(unit_cell.orthogonalization(cell)).T
        @ jnp.linalg.inv(direct).T
    )
    return Crystal(A, crystal.n_cells * jnp.exp(x[7]), crystal.eta_rad * jnp.exp(x[8]))


def measure(mosaicity: str, repeats: int = 20) -> dict[str, float]:
    """Seconds: laying out, and value and Jacobian; the derivative by the scale is the value."""
    simulator = still.Simulator(config.for_stage(str(CONFIG / "demo.yaml"), "simulate", "demo"))
    p, boxes = problem(simulator, mosaicity)
    bbox = np.stack([boxes.fast0, boxes.fast0 + EDGE, boxes.slow0, boxes.slow0 + EDGE], axis=1)
    rays, pairs = layout.within(p, boxes.panel, bbox)
    start = user_cpu()
    for _ in range(repeats):
        layout.within(p, boxes.panel, bbox)
    out = {"layout": (user_cpu() - start) / repeats, "pairs": len(pairs.point)}

    moved = partial(changed, p.crystal, simulator.cell)
    by_x = jax.jacfwd(moved)(jnp.zeros(9))
    directions = np.concatenate([np.reshape(leaf, (-1, 9)) for leaf in by_x])
    row = np.arange(len(rays))
    forward.by_crystal(p, rays, pairs, directions, row)
    start = user_cpu()
    for _ in range(repeats):
        forward.by_crystal(p, rays, pairs, directions, row)
    return out | {"seconds": (user_cpu() - start) / repeats}


def table(measured: dict[str, dict[str, float]]) -> str:
    """What was measured, by mosaicity, beside the bars."""
    rows = [
        f"value and Jacobian (10 parameters), {N_BOXES} boxes of {EDGE} x {EDGE}, 100 channels; "
        "user-CPU seconds"
    ]
    rows.append(f"{'mosaicity':<12}{'pairs':>8}{'lay-out':>10}{'seconds':>10}")
    for name, m in measured.items():
        rows.append(f"{name:<12}{m['pairs']:>8}{m['layout']:>10.4f}{m['seconds']:>10.4f}")
    worst = max(m["seconds"] for m in measured.values())
    rows.append(f"bar: {BAR} s. diffBragg, 36 such boxes: {PEER} s, {PEER / worst:.0f} times")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table({name: measure(name) for name in ("domains", "continuous")}))
