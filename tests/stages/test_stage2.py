"""The stage stage2 on lattices whose truth is known: its products follow from its Gram matrices,
and it goes on where it was killed.
"""

import shutil
from types import SimpleNamespace

import gemmi
import numpy as np
import pytest

from spreadflow.config import for_stage, overlay, parse, section
from spreadflow.errors import FileError, SpreadOutcome
from spreadflow.io import store
from spreadflow.parallel import World
from spreadflow.products import Stage2
from spreadflow.stages import stage2 as stage

pytestmark = pytest.mark.stage


def configured(stage2_run, **keys):
    tree = overlay(stage2_run.tree, {"stage2": keys})
    return for_stage(section(parse(tree), "stage2"), "stage2")


def run(stage2_run, out, **keys):
    stage.run(
        configured(stage2_run, **keys),
        pack=stage2_run.pack,
        stage1=stage2_run.stage1,
        merge=stage2_run.merge,
        out=out,
        world=World(),
    )
    return store.read(out, Stage2)


@pytest.fixture(scope="module")
def product(stage2_run, tmp_path_factory) -> SimpleNamespace:
    out = tmp_path_factory.mktemp("product") / "stage2.h5"
    return SimpleNamespace(out=out, found=run(stage2_run, out))


def test_each_lattice_has_one_end(product):
    ends = product.found.lattices.outcome
    assert ends.tolist() == [SpreadOutcome.USED] * 3 + [SpreadOutcome.NOT_REFINED]
    assert np.isfinite(product.found.lattices.log_volume).tolist() == [True] * 3 + [False]


def test_intensities_are_the_true_ones_within_sigma(stage2_run, product):
    """On the scale of the merge, which was three times the model's."""
    merged = product.found.merged
    sign = np.where(merged.friedel < 0, -1, 1)[:, None]
    row = stage2_run.model.unique.rows(sign * merged.hkl)
    true = 3.0 * stage2_run.model.intensity[row]
    strong = true > 5 * merged.sigma
    assert strong.sum() > 30
    ratio = np.median(merged.intensity[strong] / true[strong])
    assert ratio == pytest.approx(1.0, abs=0.05)
    pull = (merged.intensity - ratio * true) / merged.sigma
    assert 0.7 < 1.48 * np.median(np.abs(pull)) < 1.8, "three lattices have little in common"
    assert (merged.n >= 1).all()


def test_mtz_and_product_agree(product):
    merged = product.found.merged
    mtz = gemmi.read_mtz_file(str(product.out.with_suffix(".mtz")))
    types = {column.label: column.type for column in mtz.columns}
    expected = {"I(+)": "K", "I(-)": "K", "F": "F", "F(+)": "G", "DANO": "D", "SIGDANO": "Q"}
    assert expected.items() <= types.items()
    plus = merged.friedel > 0
    total = np.nansum(mtz.column_with_label("I(+)").array)
    assert total == pytest.approx(merged.intensity[plus].sum(), rel=1e-5)
    for cycle in range(1, len(product.found.cycles) + 1):
        assert (product.out.with_suffix(".cycles") / f"{cycle}.mtz").exists()


def test_cycles_bring_intensities_to_rest(product):
    change = product.found.cycles.change
    assert len(change) == 2
    assert change[1] < 0.5 * change[0]
    assert store.attributes(product.out, Stage2)["reduced_bytes"] > 0


def test_killed_in_the_second_cycle_it_goes_on(stage2_run, product, tmp_path):
    out = tmp_path / "stage2.h5"
    grams = out.with_suffix(".gram")
    shutil.copytree(product.out.with_suffix(".gram"), grams)
    (grams / "2.h5").unlink()
    (grams / "2.parts" / "000001.h5").unlink()
    kept = {path: path.stat().st_mtime_ns for path in grams.rglob("0*.h5")}
    again = run(stage2_run, out).merged.as_dict()
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    merged = product.found.merged.as_dict()
    for name in ("intensity", "sigma", "amplitude"):
        np.testing.assert_allclose(again[name], merged[name], rtol=1e-9)


def test_restrained_intensities_stay(stage2_run, tmp_path):
    found = run(stage2_run, tmp_path / "stage2.h5", restraint_sigma=1e-6, max_cycles=1)
    np.testing.assert_allclose(found.merged.intensity, found.merged.start, rtol=0.02)


def test_a_start_from_the_model_has_its_scale(stage2_run, product, tmp_path):
    found = run(stage2_run, tmp_path / "stage2.h5", start="model", max_cycles=2)
    unique = stage2_run.model.unique
    intensity = np.full((2, len(unique)), np.nan)
    for values, merged in zip(intensity, (found.merged, product.found.merged), strict=True):
        sign = np.where(merged.friedel < 0, -1, 1)[:, None]
        values[unique.rows(sign * merged.hkl)] = merged.intensity
    of_model, of_merge = intensity[:, np.isfinite(intensity).all(axis=0)]
    assert np.corrcoef(of_model, of_merge)[0, 1] > 0.95
    strong = of_model > np.median(of_model)
    assert np.median(of_merge[strong] / of_model[strong]) == pytest.approx(3.0, rel=0.1)


def test_another_stage1_is_refused(stage2_run, tmp_path):
    changed = SimpleNamespace(**vars(stage2_run))
    changed.tree = stage2_run.tree | {"stage1": stage2_run.tree["stage1"] | {"refine": ["scale"]}}
    with pytest.raises(FileError, match="Rerun stage1"):
        run(changed, tmp_path / "stage2.h5")
