"""How do the stages scale to 10 000 ranks, and what do 100 000 images cost?

    python benchmarks/many_ranks.py measure --json ranks.json --folder FOLDER --recorded DEMO TINY
    python benchmarks/many_ranks.py measure --json ranks.json --folder FOLDER --stages merge
    python benchmarks/many_ranks.py simulate --json ranks.json

A small trial of the demo's stills is run in the folder, stage by stage, by the real program on 1,
2, 4 and 8 ranks with a clock in each (`rank_clock.py`). One rank and two say what a stage costs
(`rank_costs.py`); four and eight, which share the cores, say whether that is so: processor time of
a rank at work, calculated over measured. From these costs the stages are simulated on up to 10 000
ranks (`rank_model.py`): strong scaling of 100 000 shots, weak scaling of 10 shots a rank, and the
price of 100 000 shots on machines that there are profiles for. Nothing of the latter was measured.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

import rank_costs
import recorded
from rank_clock import N_TICKETS
from rank_costs import CLOCK, LAUNCHER, WAYS
from rank_model import Costs, Course, Machine, course, programs
from spreadflow.config import Config, overlay, parse
from spreadflow.trial import BY_WORD, machines
from spreadflow.trial.threads import THREAD_CAPS

REPOSITORY = Path(__file__).parents[1]

NO_OTHERS = dict.fromkeys(("n_blank", "n_double", "n_saturated", "n_unreadable"), 0)

SMALL = {
    "runs": {"demo": {"simulate": {"n_single": 16, **NO_OTHERS}}},
    "ladder": {"n_lattices": 4},
    "stage1": {"mosaicity": "continuous"},
}
"""What the trial that is measured has in place of the demo's keys."""

MEASURED = [word for word in WAYS if word not in rank_costs.RECORDED]
"""The stages that the trial is run through."""

N_SHOTS = 100_000
"""Shots of a run at its full size, each with a lattice."""

SHOTS_OF_RANK = 10
"""Shots of a rank, where there are the more shots the more ranks."""

MANY_RANKS = (1, 128, 512, 2048, 10_000)
"""Numbers of ranks that are simulated."""

CELLS_S = 4.2
"""Processor time of `cells`, which has one rank, with 100 000 shots (docs/decisions/0040)."""

NODES = (1, 16)
"""Numbers of nodes that are priced."""

PRICED = ("nersc", "olcf", "alcf", "alcf-aurora", "lcls")
"""Profiles of machines that are priced, by their CPU cores."""

TOLERANCE = 1.25
"""Bar of calculated over measured processor time, and of its inverse."""

Rows = dict[str, Any]
"""What was measured and calculated, by name."""


def trial() -> Config:
    """Return the configuration of the trial that is measured."""
    tree = yaml.safe_load((REPOSITORY / "config" / "demo.yaml").read_text())
    return parse(overlay(tree, SMALL))


def measure_stage(
    config: Config, word: str, ranks: Sequence[int], folder: Path, before: Rows
) -> Rows:
    """Return what a stage costs on each number of ranks, and on those that were measured before."""
    of_ranks = before.get(word, {}).get("of_ranks", {})
    for n_ranks in ranks:
        of_ranks[str(n_ranks)] = row = rank_costs.measure(config, word, n_ranks, folder)
        work = rank_costs.at_work(row)
        print(f"{word:9s} {n_ranks:2d} ranks: {row['elapsed_s']:6.1f} s elapsed, ", end="")
        print(f"{row['processor_s']:6.1f} s of processors, {work:5.2f} s of a rank at work")
    n_items = config.runs["demo"].simulate.n_single  # type: ignore[union-attr]
    return {"n_items": n_items, "of_ranks": of_ranks, "commit": recorded.commit()}


def checked(row: Rows) -> dict[str, float]:
    """Return calculated over measured processor time of a rank at work, by number of ranks."""
    law = rank_costs.law(row["of_ranks"])
    n_blocks = max(len(loop) for loop in row["of_ranks"]["1"]["loops"] or [[]])
    ratios = {}
    for ranks, measured in row["of_ranks"].items():
        ratios[ranks] = law.of_rank(int(ranks), max(n_blocks, 1)) / rank_costs.at_work(measured)
    return ratios


class Tickets(NamedTuple):
    """How ranks draw blocks, for a measurement."""

    field: str
    """of `Machine`"""
    n_ranks: int
    is_network: bool
    """whether as if every rank were on a node of its own"""
    is_served: bool
    """whether the first rank works on no block"""


TICKETS = {
    "memory": Tickets("ticket_s", 2, is_network=False, is_served=False),
    "looked_up": Tickets("looked_up_ticket_s", 4, is_network=True, is_served=False),
    "served": Tickets("served_ticket_s", 4, is_network=True, is_served=True),
}
"""What is measured of the counter."""


LOCK_S = 0.045
"""Seconds between two tickets where each takes a lock of its own, on one node or several: measured
with the revision b92b872, on 2, 4 and 8 ranks, 0.042-0.061.
"""

LOCKED_RANKS = (16, 32, 64, 128, 512, 2048)
"""Numbers of ranks for which that is simulated."""


def ticket_seconds(tickets: Tickets) -> float:
    """Return the seconds between two tickets: elapsed while the first rank works (in memory the
    median, as ranks share cores); where it serves alone, its processor time.
    """
    _, n_ranks, is_network, is_served = tickets
    with tempfile.TemporaryDirectory() as name:
        line = [LAUNCHER, "-n", n_ranks, sys.executable, CLOCK, name, "tickets", n_ranks]
        line += ["served"] * is_served
        environment = os.environ | dict.fromkeys(THREAD_CAPS, "1") | rank_costs.YIELDING
        environment |= {"MPIR_CVAR_NOLOCAL": str(int(is_network))}
        subprocess.run([*map(str, line)], env=environment, check=True)
        clocks = [json.loads((Path(name) / f"{rank}.json").read_text()) for rank in range(n_ranks)]
    if is_served:
        return clocks[0]["seconds"]["waiting"] / N_TICKETS
    times = [seconds for clock in clocks[1:] for seconds in clock["ticket_s"]]
    mean = statistics.mean if is_network else statistics.median
    return mean(times) / (n_ranks - 1)


def opened_files(word: str) -> int:
    """Return how many files the imports of a stage open or look for."""
    from starts import start_of

    with tempfile.NamedTemporaryFile() as file:
        calls = "trace=open,openat,stat,lstat,newfstatat,access,readlink"
        line = ["strace", "-f", "-q", "-e", calls, "-o", file.name, sys.executable]
        subprocess.run([*line, *start_of(BY_WORD[word])], check=True, stdout=subprocess.DEVNULL)
        return sum(1 for _ in open(file.name))


# ---------------------------------------------------------------- simulated


def scaling(costs: Costs, machine: Machine) -> Rows:
    """Return elapsed seconds, efficiency and limit of a stage by number of ranks, strong and weak.

    Efficiency is the time of one rank for its share over the time that elapses: for weak scaling
    that of as many shots as a rank has. A stage that takes a sample has no weak scaling.
    """
    alone = course(costs, machine, 1, N_SHOTS, _rng()).elapsed
    is_sample = costs.most_items is not None
    weak_alone = course(costs, machine, 1, SHOTS_OF_RANK, _rng()).elapsed
    rows: Rows = {"strong": {}, "weak": {}}
    for n_ranks in MANY_RANKS:
        strong = course(costs, machine, n_ranks, N_SHOTS, _rng())
        rows["strong"][str(n_ranks)] = _figures(strong, alone / n_ranks)
        if is_sample:
            continue
        weak = course(costs, machine, n_ranks, SHOTS_OF_RANK * n_ranks, _rng())
        rows["weak"][str(n_ranks)] = _figures(weak, weak_alone)
    return rows


def _rng() -> np.random.Generator:
    """Return the random numbers of a simulation: the same for all."""
    return np.random.default_rng(1)


def _figures(of_stage: Course, ideal: float) -> Rows:
    """Return a course with its efficiency. ideal: the time without any loss."""
    return {
        "elapsed_s": of_stage.elapsed,
        "efficiency": ideal / of_stage.elapsed,
        "limit": of_stage.limit,
        "course": of_stage._asdict(),
    }


def locked(costs: Costs, machine: Machine) -> Rows:
    """Return elapsed seconds of a stage, with locks and as it is, by number of ranks."""
    with_locks = machine._replace(ticket_s=LOCK_S, many_ranks=sys.maxsize)
    with_locks = with_locks._replace(looked_up_ticket_s=LOCK_S)
    return {
        str(n_ranks): [
            course(costs, here, n_ranks, N_SHOTS, _rng()).elapsed for here in (with_locks, machine)
        ]
        for n_ranks in LOCKED_RANKS
    }


def price(costs: dict[str, Costs], name: str, n_nodes: int, machine: Machine) -> Rows:
    """Return the node hours of all stages with 100 000 shots, each a job after the other."""
    row = machines.BY_NAME[name]
    here = machine._replace(ranks_per_node=row.ranks_per_node)
    n_all = n_nodes * row.ranks_per_node
    seconds = {"cells": CELLS_S / here.speed}
    node_seconds = CELLS_S / here.speed
    for word, of_stage in costs.items():
        n_ranks = max(1, n_all // BY_WORD[word].ranks_divisor)
        seconds[word] = course(of_stage, here, n_ranks, N_SHOTS, _rng()).elapsed
        node_seconds += seconds[word] * math.ceil(n_ranks / row.ranks_per_node)
    return {
        "ranks": n_all,
        "hours": sum(seconds.values()) / 3600.0,
        "node_hours": node_seconds / 3600.0,
        "seconds": seconds,
    }


def simulate(rows: Rows, machine: Machine) -> Rows:
    """Return what is calculated from the rows of stages that were measured."""
    stages = {word: rows[word] for word in MEASURED if word in rows}
    costs = {
        word: rank_costs.costs(word, row, rows["sizes"], rows["opened"].get(word, 0))
        for word, row in stages.items()
    }
    n_items = rows["stage1"]["n_items"]
    of_item = {name: n_bytes / n_items for name, n_bytes in rows["sizes"].items()}
    for word in rank_costs.RECORDED:
        costs[word] = rank_costs.recorded_costs(word, rows["recorded"], costs["stage1"], of_item)
    result: Rows = {"checks": {word: checked(row) for word, row in stages.items()}}
    result["scaling"] = {word: scaling(of_stage, machine) for word, of_stage in costs.items()}
    result["locked"] = locked(costs["reindex"], machine)
    without_image = machine._replace(has_image=False)
    result["programs"] = {
        word: {str(n_ranks): programs(of_stage, without_image, n_ranks) for n_ranks in MANY_RANKS}
        for word, of_stage in costs.items()
    }
    result["prices"] = {
        name: {str(n_nodes): price(costs, name, n_nodes, machine) for n_nodes in NODES}
        for name in PRICED
    }
    result["core_seconds"] = {word: _core_seconds(of_stage) for word, of_stage in costs.items()}
    return result


def _core_seconds(costs: Costs) -> float:
    """Return the processor time of a shot on the measured core, of a run at full size."""
    alone = course(costs, Machine(speed=1.0), 1, N_SHOTS, _rng())
    return alone.work / N_SHOTS


def show(result: Rows) -> None:
    """Print what was calculated."""
    for word, ratios in result["checks"].items():
        words = ", ".join(f"{ranks} ranks {ratio:.2f}" for ranks, ratio in ratios.items())
        is_met = all(1 / TOLERANCE < ratio < TOLERANCE for ratio in ratios.values())
        print(f"{word:9s} calculated over measured: {words}{'' if is_met else ': MISSED'}")
    for word, of_stage in result["scaling"].items():
        for kind, rows in of_stage.items():
            words = ", ".join(
                f"{ranks}: {row['elapsed_s']:.3g} s {row['efficiency']:.2f} {row['limit']}"
                for ranks, row in rows.items()
            )
            print(f"{word:9s} {kind}: {words}")
    for name, of_nodes in result["prices"].items():
        words = ", ".join(
            f"{nodes} nodes: {row['hours']:.2f} h, {row['node_hours']:.1f} node hours"
            for nodes, row in of_nodes.items()
        )
        print(f"{name:12s} {words}")


def main() -> None:
    """Measure, simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=["measure", "simulate"])
    parser.add_argument("--folder", type=Path, help="where the trial is, or shall be")
    parser.add_argument("--stages", nargs="+", choices=MEASURED, default=MEASURED)
    parser.add_argument("--recorded", type=Path, nargs=2, help="finished demo, and a smaller trial")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--speed", type=float, default=Machine().speed, help="of a core, relative")
    parser.add_argument("--json", type=Path, required=True, help="what was measured, and is added")
    arguments = parser.parse_args()
    rows = recorded.rows(arguments.json)
    if arguments.action == "measure":
        measure(rows, arguments)
    else:
        tickets = {way.field: rows["ticket_s"][name] for name, way in TICKETS.items()}
        rows["calculated"] = simulate(rows, Machine(speed=arguments.speed, **tickets))
        show(rows["calculated"])
    recorded.save(arguments.json, "many_ranks", rows)


def measure(rows: Rows, arguments: argparse.Namespace) -> None:
    """Measure stages and tickets, and add what they cost to the rows."""
    config = trial()
    for word in arguments.stages:
        measured = measure_stage(config, word, arguments.ranks, arguments.folder, rows)
        rows[word] = measured
        if word == "reindex":
            rank_costs.measure(config, "cells", 1, arguments.folder)
        rows.setdefault("opened", {})[word] = opened_files(word)
        rows["sizes"] = rank_costs.sizes(config, arguments.folder)
        recorded.save(arguments.json, "many_ranks", rows)
    rows["ticket_s"] = {name: ticket_seconds(way) for name, way in TICKETS.items()}
    if arguments.recorded:
        rows["recorded"] = rank_costs.read(*arguments.recorded)


if __name__ == "__main__":
    main()
