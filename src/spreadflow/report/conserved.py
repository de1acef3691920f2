"""Nothing disappears: the counts that must agree from stage to stage."""

from typing import Any, NamedTuple


class Check(NamedTuple):
    """One equality between figures."""

    says: str
    left: int
    right: int

    @property
    def holds(self) -> bool:
        return self.left == self.right


def checks(summaries: dict[str, dict[str, Any]]) -> list[Check]:
    """Return equalities of the figures of the stages there are. summaries: stage → figures."""
    out = []
    for stage in ("index", "reindex"):
        if stage in summaries:
            ends = sum(summaries[stage]["outcomes"].values())
            out.append(
                Check(f"each shot of {stage} has one outcome", ends, summaries[stage]["n_shots"])
            )
    if "adopt" in summaries:
        told = summaries["adopt"]
        out.append(
            Check(
                "each line of a spec file has one outcome",
                sum(told["outcomes"].values()),
                told["n_lines"],
            )
        )
        if "reindex" in summaries:
            n = sum(summaries["reindex"]["runs"][run]["n_lattices"] for run in told["runs"])
            out.append(Check("each line adopted is a lattice of reindex", told["n_adopted"], n))
    cells = summaries.get("cells")
    if cells and "reindex" in summaries:
        out.append(
            Check(
                "each lattice of reindex reaches cells",
                summaries["reindex"]["n_lattices"],
                cells["n_in"],
            )
        )
    if cells:
        out.append(
            Check(
                "each lattice of cells has one outcome",
                sum(cells["outcomes"].values()),
                cells["n_in"],
            )
        )
        out.append(Check("those accepted are kept", cells["outcomes"]["accepted"], cells["n_kept"]))
    if cells and "annulus" in summaries:
        out.append(
            Check(
                "each lattice kept reaches annulus",
                cells["n_kept"],
                summaries["annulus"]["n_lattices"],
            )
        )
    if "ladder" in summaries and "annulus" in summaries:
        n = summaries["annulus"]["n_lattices"]
        out.append(
            Check("each lattice of annulus reaches ladder", n, summaries["ladder"]["n_lattices"])
        )
    if "mosaic" in summaries:
        ends = sum(summaries["mosaic"]["outcomes"].values())
        n = summaries["mosaic"]["n_lattices"]
        out.append(Check("each lattice of mosaic has one outcome", ends, n))
    if "mosaic" in summaries and "annulus" in summaries:
        n = summaries["annulus"]["n_lattices"]
        out.append(
            Check("each lattice of annulus reaches mosaic", n, summaries["mosaic"]["n_lattices"])
        )
    stage1 = summaries.get("stage1")
    if stage1:
        ends = sum(stage1["outcomes"].values())
        out.append(Check("each lattice of stage1 has one outcome", ends, stage1["n_lattices"]))
    if stage1 and "annulus" in summaries:
        n = summaries["annulus"]["n_lattices"]
        out.append(Check("each lattice of annulus reaches stage1", n, stage1["n_lattices"]))
    if cells and "wide" in summaries:
        out.append(
            Check(
                "each lattice kept reaches wide", cells["n_kept"], summaries["wide"]["n_lattices"]
            )
        )
    spread = summaries.get("spread")
    if spread:
        ends = spread["outcomes"]
        out.append(
            Check(
                "each lattice of spread has one outcome",
                sum(ends.values()),
                spread["n_lattices_in"],
            )
        )
        out.append(Check("those used make the curves", ends["used"], spread["n_lattices"]))
    if spread and "wide" in summaries:
        n = summaries["wide"]["n_lattices"]
        out.append(Check("each lattice of wide reaches spread", n, spread["n_lattices_in"]))
    if spread and stage1:
        tried = spread["n_lattices_in"] - spread["outcomes"]["not_refined"]
        out.append(
            Check("each lattice refined by stage1 is tried in spread", stage1["n_refined"], tried)
        )
    if cells and "n_lattices_in" in summaries.get("merge", {}):
        out.append(
            Check(
                "each lattice kept reaches merge",
                cells["n_kept"],
                summaries["merge"]["n_lattices_in"],
            )
        )
    return out
