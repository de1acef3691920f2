"""Which device each rank of a stage computes on.

The ranks of a node take the devices that they see in turn, and share them where there are fewer. A
launcher that binds a device to each rank (`--gpus-per-task=1`) lets it see that one alone.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax

import spreadflow.physics.precision  # noqa: F401  (sets JAX up before it looks for devices)
from spreadflow.log import logger
from spreadflow.parallel import World


class Place(NamedTuple):
    """Where a rank computes."""

    rank_on_node: int
    """number of the rank among those of its node"""
    platform: str
    """`cpu`, `gpu`, ..."""
    kind: str
    """model of the device"""
    number: int
    """of the device among those that the rank sees"""
    n_devices: int
    """devices that the rank sees"""


def take(world: World, word: str) -> None:
    """Have JAX compute on one device on each rank, and log which, unless there is but the CPU.
    Collective. word: of the stage.
    """
    devices = jax.local_devices()
    rank_on_node = world.rank_on_node()
    number = rank_on_node % len(devices)
    device = devices[number]
    if len(devices) > 1:
        jax.config.update("jax_default_device", device)
    own = Place(rank_on_node, device.platform, device.device_kind, number, len(devices))
    places = world.gather(own)
    if any((place.platform, place.n_devices) != ("cpu", 1) for place in places):
        logger(word, world).info("%s", sentence(places))


def sentence(places: Sequence[Place]) -> str:
    """Return how many ranks compute on each device, such as `ranks by device: gpu 0 of 2: 3, gpu 1
    of 2: 2 (NVIDIA H200; nodes: 1)`. Devices of like number on other nodes count together.
    """
    n_nodes = sum(place.rank_on_node == 0 for place in places)
    kinds = ", ".join(sorted({place.kind for place in places}))
    n_ranks = Counter(f"{place.platform} {place.number} of {place.n_devices}" for place in places)
    shares = ", ".join(f"{device}: {n}" for device, n in sorted(n_ranks.items()))
    return f"ranks by device: {shares} ({kinds}; nodes: {n_nodes})"
