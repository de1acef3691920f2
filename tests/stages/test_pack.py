"""The stage pack: the pixels of the chosen reflections are those of the images, in few files."""

from types import SimpleNamespace

import numpy as np
import pytest

from spreadflow.config import PackConfig, for_stage, parse, section
from spreadflow.errors import FileError, PredictedOutcome
from spreadflow.io import shoebox_blocks, store
from spreadflow.io.images import Source
from spreadflow.models import CHOSEN, Overlap
from spreadflow.parallel import World
from spreadflow.products import Pack, Predict
from spreadflow.recipes.lattice import unpack
from spreadflow.stages import pack as stage
from spreadflow.stages import predict

pytestmark = pytest.mark.stage

BORDER = 2


@pytest.fixture(scope="module")
def packed(refined_run, tmp_path_factory) -> SimpleNamespace:
    """The product, and that of predict."""
    folder = tmp_path_factory.mktemp("pack")
    predict.run(
        for_stage(section(parse(refined_run.tree), "predict"), "predict"),
        images=[refined_run.manifest],
        reindex=[refined_run.reindex],
        stage1=refined_run.stage1,
        out=folder / "predict.h5",
        world=World(),
    )
    out = folder / "pack.h5"
    inputs = SimpleNamespace(
        manifest=refined_run.manifest,
        reindex=refined_run.reindex,
        predict=folder / "predict.h5",
    )
    shoeboxes = run(inputs, out)
    return SimpleNamespace(
        path=out, shoeboxes=shoeboxes, predicted=store.read(inputs.predict, Predict), inputs=inputs
    )


def run(inputs: SimpleNamespace, out, **keys) -> Pack:
    config = PackConfig.model_validate({"pack": {"border_px": BORDER} | keys})
    stage.run(
        config,
        images=[inputs.manifest],
        reindex=[inputs.reindex],
        predict=inputs.predict,
        out=out,
        world=World(),
    )
    return store.read(out, Pack)


def test_lattices_and_reflections_are_those_that_were_chosen(packed):
    c = packed.shoeboxes
    predicted = packed.predicted
    rows = np.flatnonzero(predicted.lattices.outcome == PredictedOutcome.PREDICTED)
    for name in ("run", "shot_id", "k", "A", "eta_rad", "domain_ang"):
        expected = predicted.lattices.as_dict()[name][rows]
        np.testing.assert_array_equal(c.lattices.as_dict()[name], expected)
    chosen = np.isin(predicted.reflections.choice, CHOSEN)
    for name in ("hkl", "d", "fast", "intensity", "partiality", "flags"):
        expected = predicted.reflections.as_dict()[name][chosen]
        np.testing.assert_array_equal(c.reflections.as_dict()[name], expected)
    lattice_of = rows[c.reflections.lattice]
    np.testing.assert_array_equal(lattice_of, predicted.reflections.lattice[chosen])


def test_pixels_are_those_of_the_images(packed):
    source = Source(packed.inputs.manifest)
    c = packed.shoeboxes
    predicted = packed.predicted
    lattices = predicted.lattices
    numbers = dict(zip(lattices.shot_id.tolist(), lattices.shot.tolist(), strict=True))
    shots = {shot_id: source.read(numbers[shot_id]) for shot_id in c.lattices.shot_id.tolist()}
    bbox = predicted.reflections.bbox[np.isin(predicted.reflections.choice, CHOSEN)]
    for row in range(0, len(bbox), 7):
        shot = shots[int(c.lattices.shot_id[c.reflections.lattice[row]])]
        panel = c.reflections.panel[row]
        fast0, fast1, slow0, slow1 = c.reflections.bbox[row]
        grown = bbox[row] + np.array([-BORDER, BORDER, -BORDER, BORDER])
        np.testing.assert_array_equal([fast0, fast1, slow0, slow1], np.clip(grown, 0, 512))
        box = (panel, slice(slow0, slow1), slice(fast0, fast1))
        first = c.reflections.first_pixel[row]
        pixels = slice(first, first + (fast1 - fast0) * (slow1 - slow0))
        np.testing.assert_array_equal(c.pixels.photons[pixels], shot.image[box].ravel())
        np.testing.assert_array_equal(c.pixels.valid[pixels], shot.mask[box].ravel())
        spectrum = c.lattices.spectrum[c.reflections.lattice[row]]
        np.testing.assert_array_equal(c.spectra.photons[spectrum], shot.spectrum.photons)


def test_pixels_of_a_neighbour_are_told(packed):
    """Also of one that stage 1 did not refine: it has no shoebox here, and lights pixels."""
    c = packed.shoeboxes
    ends = packed.predicted.lattices.outcome
    assert (ends == PredictedOutcome.NEIGHBOUR).sum() == 1
    beside = packed.predicted.lattices.shot_id[ends == PredictedOutcome.NEIGHBOUR]
    is_beside = np.isin(c.lattices.shot_id, beside)[c.reflections.lattice]
    fast0, fast1, slow0, slow1 = c.reflections.bbox.T
    box = np.repeat(np.arange(len(fast0)), (fast1 - fast0) * (slow1 - slow0))
    is_foreign = c.pixels.overlap & Overlap.FOREIGN > 0
    assert is_foreign[is_beside[box]].any()
    assert not is_foreign[~is_beside[box]].any()


def test_the_size_of_parts_changes_nothing_but_their_number(packed, tmp_path):
    one = tmp_path / "pack.h5"
    found = run(packed.inputs, one, block_lattices=1)
    assert len(store.parts_of(packed.path, Pack)) == 1
    assert len(store.parts_of(one, Pack)) == 2
    for name, column in packed.shoeboxes.datasets().items():
        np.testing.assert_array_equal(found.datasets()[name], column, err_msg=name)


def test_blocks_of_one_part_read_it_once(packed):
    first, second, *_ = shoebox_blocks.blocks_of(packed.path, "pack", 1)
    assert first.part == second.part
    assert first.read() is second.read()


def test_stages_read_it_as_other_shoeboxes(packed):
    recording = shoebox_blocks.read_recording(packed.path, "pack")
    assert recording.attributes["config"]["d_min"] == 2.5
    assert recording.attributes["runs"] == ["tiny"]
    (block,) = shoebox_blocks.blocks_of(packed.path, "pack", 16)
    part = block.read()
    for row in block.lattices:
        lattice = unpack(part, row)
        n_own = (packed.shoeboxes.reflections.lattice == row).sum()
        assert len(lattice.boxes.hkl) == n_own > 50
        assert len(lattice.boxes.photons) == lattice.boxes.n_pixels.sum()


def test_images_of_another_run_are_refused(packed, tmp_path):
    other = tmp_path / "manifest.json"
    text = packed.inputs.manifest.read_text().replace('"run": "tiny"', '"run": "other"')
    folder = packed.inputs.manifest.parent
    other.write_text(text.replace('"tiny.h5"', f'"{folder / "tiny.h5"}"'))
    inputs = SimpleNamespace(**vars(packed.inputs) | {"manifest": other})
    with pytest.raises(FileError, match="expected the runs other; found"):
        run(inputs, tmp_path / "pack.h5")
