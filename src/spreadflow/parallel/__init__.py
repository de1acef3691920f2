"""The ranks of a stage, behind one door: the only package that knows MPI."""

from spreadflow.parallel.ending import ending_together
from spreadflow.parallel.shares import Shares
from spreadflow.parallel.world import World

__all__ = ["Shares", "World", "ending_together"]
