"""What the ranks do in test_parallel.py: `program.py WHAT RANKS`. The first rank prints one JSON
line.
"""

import json
import sys
import time

import numpy as np

from spreadflow.parallel import World
from spreadflow.parallel import world as world_module

N_BLOCKS = 23


def block(i: int) -> np.ndarray:
    """Return numbers whose sum depends on the order of addition in the last bits."""
    return np.random.default_rng(i).normal(size=(3, 4)) * 10.0 ** (i % 9)


def total(world: World) -> list[str]:
    partials = {i: block(i) for i in world.share(N_BLOCKS)}
    sums = {x.tobytes().hex() for x in world.gather(world.sum(partials))}
    return sorted(sums)


def share(world: World) -> dict:
    """Share blocks in three loops in a row, one of them without any block, while the first rank is
    slow.
    """
    done = []
    for n in (N_BLOCKS, 0, 1):
        own_blocks = []
        for i in world.share(n):
            time.sleep(0.02 if world.rank == 0 else 0.001)
            own_blocks.append(i)
        done.append([i for part in world.gather(own_blocks) for i in part])
    blocks = world.gather_blocks({i: i * i for i in done[0] if i % world.size == world.rank})
    return {"done": done, "blocks": blocks}


def slow_first_rank(world: World) -> list[int]:
    """Return how many blocks each rank does when the first one works a second on its first."""
    n_blocks = 0
    for _ in world.share(N_BLOCKS):
        time.sleep(1.0 if world.rank == 0 and n_blocks == 0 else 0.002)
        n_blocks += 1
    return world.gather(n_blocks)


def places(world: World) -> list[list]:
    """Return the number of each rank on its node, and the device that an array of it is on."""
    import jax.numpy as jnp

    from spreadflow.stages import devices

    devices.take(world, "stage1")
    (device,) = jnp.zeros(1).devices()
    return world.gather([world.rank_on_node(), device.id])


def busy(world: World) -> list[float]:
    """Return the processor time that each rank is said to work where one does and others wait."""
    start_s = world.busy_s
    if world.rank == world.size - 1:
        end_s = time.process_time() + 0.5
        while time.process_time() < end_s:
            pass
    world.barrier()
    return world.shares(start_s).seconds


def served(world: World) -> dict:
    """Share blocks as many ranks do, and say how many the first one does of each loop."""
    world_module.MANY_RANKS = world.size
    shared = share(world)
    return shared | {"of_first": world.gather(len(list(world.share(N_BLOCKS))))[0]}


def working_first_rank(world: World) -> list[int]:
    """Return how many blocks each rank does when those of the first one take time and the others
    none.
    """
    n_blocks = 0
    for _ in world.share(20 * N_BLOCKS):
        ends = time.process_time() + (0.05 if world.rank == 0 else 0.0)
        while time.process_time() < ends:
            pass
        n_blocks += 1
    return world.gather(n_blocks)


WORDS = {
    "total": total,
    "share": share,
    "slow": slow_first_rank,
    "busy": busy,
    "places": places,
    "served": served,
    "working": working_first_rank,
}


def main() -> None:
    what = sys.argv[1]
    ranks = int(sys.argv[2])
    world = World(ranks)
    result = WORDS[what](world)
    world.once(lambda: print(json.dumps(result)))


if __name__ == "__main__":
    main()
