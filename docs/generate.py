"""Writes docs/config.md, docs/files.md, docs/images.md, docs/commands.md, the profiles, the tables of
stages in README.md, of formats in docs/interop.md and of checks in docs/doctor.md, the index of
decisions and the tables of measured figures (tables.py) from their sources; with --check, fails
where the committed files differ.

python docs/generate.py [--check]
"""

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from enum import IntEnum
from pathlib import Path

from pydantic import BaseModel

from spreadflow import errors, models, products
from spreadflow.analysis.recording import unusable
from spreadflow.config import Config
from spreadflow.config.base import Section
from spreadflow.config.docstrings import docstrings
from spreadflow.doctor import examination, jobs
from spreadflow.io import datasets, g2_layout, images, nexus_writer
from spreadflow.io.images import cbf, formats, geom, imgcif, locator, unit_names
from spreadflow.physics import sensors
from spreadflow.trial import STAGES, commands, files, machines, profiles
from spreadflow.trial.machines import Machine
from spreadflow.trial.stages import Stage

DOCS = Path(__file__).parent
INTEROP = DOCS / "interop.md"
DOCTOR = DOCS / "doctor.md"
README = DOCS.parent / "README.md"

sys.path += [str(DOCS), str(DOCS.parent / "tests")]
import every_stage
import mutated_files
import tables
import tested_exchange
import tested_formats

DECISIONS = DOCS / "decisions"
PROFILES = DOCS.parent / "profiles"

GENERATED = "<!-- written by docs/generate.py: edit the code, not this file -->\n"
"""First line of a file that is generated as a whole."""

BEGIN = (
    "<!-- written by docs/generate.py, down to the closing mark: edit the code, not this text -->\n"
)
"""Line above a generated part of a file that is written by hand."""

END = "<!-- the generated text ends here -->\n"
"""Line below such a part."""

CONFIG = """# Configuration

The configuration is one YAML file, or several of which each lies over those before it: mappings are merged key by key,
and everything else is replaced. Keys that are left out take their default; an unknown key is an error. The unit of a key
is in its name; where there is none, lengths in real or reciprocal space are in Å and energies in eV. `spreadflow config`
prints all keys with their defaults as YAML.

A rule reruns when a key changes in a section that it reads:

| stage | sections |
|---|---|
"""

AFTER_SECTIONS = """
`simulate` also reads the shots of its own run. A stage receives overlays already laid over their sections.
"""

MANIFEST = """# Files

## Manifest of a run

JSON, written by `simulate` or `spreadflow manifest`. It describes the images, and the files that they lead to, as they were
when it was written: write it again where they have changed, and what was made from them is made again. A file of another size costs its shots;
`spreadflow manifest --check` compares checksums. Files that are named as `geometry` (with the masks that a .geom names), `mask` or
`calibration` are compared whenever they are read, and the workflow notices by itself that they have changed. What a locator of XTC
names is not described.

"""

IMAGES = f"""## Image files

Image files are {", ".join(formats.FORMATS)}; formats are told by content, not by name, and what was tested of each stands in [images.md](images.md). A file of NXmx (NeXus/HDF5) holds one
frame of every stack for each shot. What is written is what nxmx, DIALS and our reader agree on: several panels lie one above the
other in a frame, each a module with `data_origin` and `data_size`. DIALS of Debian reads such files; for those compressed with bitshuffle or
LZ4, as ours and those of Dectris detectors are, it needs a plugin of HDF5, which the package hdf5plugin brings:
`export HDF5_PLUGIN_PATH=$(python -c "import hdf5plugin; print(hdf5plugin.PLUGIN_PATH)")`. `spreadflow validate` prints that
line with the path; `simulate.compression: gzip` needs none. What is read is the
`NXentry` of definition `NXmx` (the file's `default` where there are several), with the items below; the
other formats have tables of their own. What was assumed of a file of any format, or is missing in it, is kept in `remarks` of the
manifest, which `spreadflow manifest` prints.

| item | what is read |
|---|---|
| `<NXdata>/<signal>` | (n, slow, fast) or (n, panel, slow, fast), or one frame without n; integer or float; links to other \
files, virtual datasets, and `data_000001`, `data_000002`, ... of Dectris masters as one stack. Of several groups, the \
entry's `default` first, the one that holds the modules of a detector; else `data` of the detector |
| `<NXdetector>/<NXdetector_module>` | one panel each: `data_origin`, `data_size` of the axes of a frame, with one for \
frames or in the order fast, slow if only that fits; `fast_pixel_direction`, `slow_pixel_direction` and any chain of \
translations and rotations they depend on, absolute or relative paths, offsets on any link, lengths in \
{", ".join(unit_names.MM)}. Without `depends_on`: the `module_offset`, then that of the detector. Panels of equal shape, square \
pixels, axes at right angles, downstream of the sample. A detector without modules and `depends_on` (older Dectris masters, \
also without `definition`) faces the beam, by `x_pixel_size`, `beam_center_x`, `beam_center_y` and `detector_distance` |
| `pixel_mask`, `pixel_mask_*` | zero = good (no bit set), shaped like a frame, or one for each frame; also in \
`detectorSpecific` |
| `underload_value`, `saturation_value` | trusted range of the stored numbers, both ends included; also \
`detectorSpecific/countrate_correction_count_cutoff`. Where they are not \
stated: the lowest number of a signed and the two highest of an unsigned type stand for bad pixels (of 32 bits or more, \
always); so do -1 and -2 where no lower number occurs |
| `<NXbeam>/incident_wavelength`, `incident_energy` | of the instrument or the sample, also `wavelength` or `energy` of an \
`NXmonochromator`: one value, or one per frame ({", ".join(unit_names.ANGSTROM)}; {", ".join(unit_names.EV)}; Å and eV where there \
are no units and the value is likely); its `variant`, or itself, with `_weights` (or `_weight`): the spectrum, channels \
(m,) or (n, m), weights (m,) or (n, m); or an `NXdata` in the `NXbeam` |
| `incident_polarization_stokes` | default for the manifest's `polarization`: Kahn's K |
| `data_offset`, `data_scaling_factor` | photons = (number + offset) · factor: defaults for the manifest's `offset_adu` and \
`adu_per_photon`, where they are one number; those per frame or pixel are applied as a frame is read. Also `offset`, \
`scaling_factor`, and in the detector |

Anything else is refused by name. A frame whose source is missing is `UNREADABLE`, with the name of the source.

McStas coordinates are converted to laboratory coordinates by diag(-1, 1, -1). Simulated photons count where they hit the
surface, and `sensor_thickness` is written as {nexus_writer.SURFACE_MM} mm, so that the parallax correction of a reader vanishes, unless
`detector.parallax` is on. The thickness and attenuation length of the simulated *capture*, and its parallax, are attributes of this
dataset, `capture_thickness_mm`, `capture_attenuation_mm`, `capture_parallax`. Of files without them `sensor_thickness` and
`sensor_material` ({", ".join(sensors.DENSITIES)}) tell what is captured, at the wavelength of the first frame, and how far spots lie
outwards at oblique incidence ([decision 39](decisions/0039-depth-of-sensors.md)); where they are absent, the sensor captures
everything at its surface. `spreadflow manifest --sensor` takes their place.

Simulated files hold the truth about their shots in the group `/truth` (below); only summaries and tests read it.

## CBF and SMV

A file holds one shot of one wavelength (`bandwidth` of the manifest widens it), and may be compressed with gzip as a whole.
Panels are of equal shape, with square pixels, rectangular, and downstream of the sample. Gains are taken from headers
where they are stated: those of LCLS say 1 ADU a photon, which is not so (`spreadflow manifest --adu-per-photon`).

| of full CBF (imgCIF) | what is read |
|---|---|
| `_array_data` | one binary section for each array: {", ".join(cbf.TYPES)}, little-endian, by byte offsets, packed or plain; checksums \
are verified |
| `_array_structure_list`, `_array_structure_list_section` | a panel is an array, or a section that is a plane of one, and \
has an axis along each of its two indices, `increasing` |
| `_array_structure_list_axis` | pixel size; a `displacement` is of the first pixel's centre, and 0 its outer edge, as \
cctbx.xfel writes and DIALS reads it |
| `_axis`, `_diffrn_scan_frame_axis`, else `_diffrn_scan_axis` | the chain of translations and rotations that places \
pixels, and its one setting. imgCIF's frame, z towards the source, is the laboratory frame |
| `_diffrn_radiation_wavelength` | the wavelength; a spectrum where there are several, with `wt` |
| `_diffrn_radiation` | `polarizn_source_ratio` and `polarizn_source_norm`: default for the manifest's `polarization`, as Kahn's K along x |
| `_array_intensities` | `overload`: upper end of the trusted range. `undefined_value`: all up to it is not trusted; masked \
where it is positive. `gain`, `scaling`, `offset`; `linearity` {", ".join(imgcif.LINEAR)} |

| of mini CBF (PILATUS_1.2) | what is read |
|---|---|
| `Pixel_size`, `Detector_distance`, `Beam_xy` | one panel across the beam, fast axis along x, rows downwards; \
`Detector_2theta` has to be 0 |
| `Wavelength` | Å |
| `Count_cutoff` | upper end of the trusted range, whose lower one is 0; the two largest numbers of an unsigned type are \
masked |
| `Silicon sensor, thickness 0.000320 m` | thickness of the sensor (Si, CdTe, GaAs), for the photons that it captures and the depth at which it does |

| of SMV | what is read |
|---|---|
| `SIZE1`, `SIZE2`, `BYTE_ORDER`, `TYPE`, `Data_type` | (slow, fast) pixels, as fabio reads them |
| `PIXEL_SIZE`, `DISTANCE` | mm; one panel across the beam, as of mini CBF; `TWOTHETA` has to be 0 |
| `XDS_ORGX`, `XDS_ORGY` | the beam centre in px along fast and slow, 1 = centre of the first pixel |
| else `BEAM_CENTER_X`, `BEAM_CENTER_Y` | in mm along slow and fast, from the outer corner of the first pixel: the \
convention that DIALS assumes of ADSC headers. Other programs mean other axes: compare with the direct beam |
| `WAVELENGTH` | Å |
| `IMAGE_PEDESTAL`, `GAIN`, `CCD_IMAGE_SATURATION` | ADU; 0 is not trusted where there is a pedestal, nor is the largest \
number of the type |

## CXI and other HDF5 with a .geom

HDF5 that is no NXmx is read as a CrystFEL geometry file says (`--geometry FILE`), and nothing else in it is understood. The same file, or an
.expt, takes the place of the geometry in the header of any other format.

| of a .geom | what is read |
|---|---|
| `data`, `dim0`, `dim1`, ... | the dataset, `%` in its path standing for an event; its axes: `%` of frames, `ss`, `fs`, and numbers |
| `min_fs`, `max_fs`, `min_ss`, `max_ss` | the pixels of a panel; panels are of equal shape |
| `corner_x`, `corner_y`, `fs`, `ss`, `res` | where they are; `fs` and `ss` are made perpendicular unit vectors, by {geom.LARGEST_STRETCH:.0%} at most |
| `clen`, `coffset` | distance: their sum. A number without a unit is in m. A dataset is in the unit beside its path, else in that of its attribute \
`units`, else in mm, as CrystFEL takes it; it may vary by {geom.CLEN_TOLERANCE_MM} mm within a file |
| `photon_energy`, else `wavelength` | of all frames or each ({", ".join(unit_names.EV)}; {", ".join(unit_names.ANGSTROM)}), units as of `clen`; eV, and Å \
or m by size, where there are none |
| `adu_per_photon`, else `adu_per_eV` | gain; where it differs between panels, frames are read in photons |
| `max_adu` | upper end of the trusted range; the last number of an integer type is beyond it |
| `flag_lessthan`, `flag_morethan`, `flag_equal` | numbers that stand for bad pixels |
| `mask`, `mask_file`, `mask_good`, `mask_bad`, or `mask0_data`, `mask0_file`, `mask0_goodbits`, `mask0_badbits`, ... | \
masks of bits, of all frames or each |
| `no_index`, `mask_edge_pixels`, `bad.../` | panels, edges and regions (in the laboratory or of the data) that are not used |
| {", ".join(f"`{name}`" for name in geom.REFUSED)} | refused |

Other keys are named in a remark. The frame of CrystFEL is turned into the laboratory frame by diag(-1, 1, -1).

## XTC

XTC files of LCLS are read by psana-1 and XTC2 files by psana-2, whichever is installed; neither is a dependency. What takes the place
of an image file is a locator, as cctbx.xfel has them: text, with a line `key = value` for each of these, and comments after `#`. Each of
its events is a shot.

| key | what is read |
|---|---|
| `experiment`, `run` | such as `mfxo1916` and `20`; several runs, `20,21`, with psana-1 alone |
| `detector_address` | address or name of the detector: `CxiDs1.0:Cspad.0`, `jungfrau` |
| `data_source` | in place of experiment and run, in the words of psana-1 |
| `dir`, `calib_dir` | folders of the files and, of psana-1, the constants; left out = where psana looks for them |
| `geometry` | .geom or .expt, relative to the locator: `spreadflow manifest` records it, and `--geometry` takes its place. One is needed |
| `n_events` | the first so many alone |
| `wavelength_offset` | Å, added to each wavelength |
| {", ".join(f"`{name}`" for name in locator.PASSED_OVER)} | nothing: about the geometry that dxtbx makes; keys that end in a dot stand for all below them |

Any other key is refused, unless its value is None. Pixels are as `calib` of psana returns them, those masked by its constants are not used, and the photon
energy is `ebeamPhotonEnergy` of each event. The panels of a .geom lie in the modules as psana has them, numbered, or one above the other; those of an .expt are
the modules, or equal parts of them row by row, as dxtbx has the ASICs of CSPAD and Jungfrau (without `use_big_pixels`). Polarization: along x
until June 2020, then along y, as the undulators are. Files don't state a gain: `spreadflow start` measures it.

## Gains and pedestals

photons = (ADU − offset_adu − pedestal) / (adu_per_photon · gain) − common mode. Offsets and factors that an NXmx file has for each pixel
are applied as its frames are read. An HDF5 file that the manifest names as `calibration` adds `pedestal` (ADU) and `gain` (a
factor), each (panel, slow, fast), or (slow, fast) of a single panel; one of the two may be missing. Pixels whose numbers are not finite, or
whose gain is not positive, are masked. The readout noise in photons that spots are found above is `readout_photons` divided by the
pixel's gain over the median of all.

`common_mode` of the manifest (`--common-mode SLOW FAST`) names regions that are read out together: from a panel's first pixel on, of
so many pixels each. In every image the peak of a region's dark pixels, those without a photon, is brought to 0. A region without such a
peak stays as it is: with a photon or more in the mean pixel none is seen, nor where the readout noise is above a third of a photon.

## Masks

A mask is an HDF5 file with the dataset `mask`, (panel, slow, fast) or (slow, fast); a pixel is used where it is zero.
The masks of the image file, the manifest and the configuration are combined: a pixel is used where all are zero.
In those that `spreadflow start` and `spreadflow mask` write, the numbers are kinds of unusable pixels; the dataset's
attribute `kinds` holds their names, in order: {", ".join(unusable.NAMES)}.

## Experiment lists

`level0.expt` is a DIALS ExperimentList (JSON) with one beam and the detector. Any list can be read whose experiments
share one detector with panels of equal shape, in any hierarchy, downstream of the sample, and a beam along the
laboratory z axis. Several detectors are one where no corner of a panel differs by more than 0.01 px.

`spreadflow export PRODUCT --to dials` writes lattices as DIALS reads them, `.expt` and `.refl`: all of `index` and
`reindex`, with the reflections that were integrated without failure; those that `stage1` refined, with the reflections
of its model; those of `predict`, with the reflections that it chose (`predict.expt` and `predict.refl`, which the stage
writes itself); and of these the lattices that `stage2` used. An experiment is a lattice, named by shot and number
(identifier `<shot_id>-<k>`), with the detector that the stage used, a beam at the mean energy of the pulse, and the image.
`xyzcal.px` is the prediction and `xyzobs.px.value` the observed spot where there is one (`is_strong`, flag indexed), else
the prediction too: `dials.filter_reflections flag_expression=indexed` leaves those that `dials.refine` should have.
`xyzobs.px.variance` is that of the spot in `index` and `reindex`, else 1/12 px² in either direction. `delpsical.rad` has
the sign of DIALS. Columns that a product does not have are left out.

## Merged intensities

`merge.mtz` and `stage2.mtz` have a row for each measured reflection of the CCP4 asymmetric unit: `IMEAN`, `I(+)` and
`I(-)`, each with its σ (`SIG...`), and `N(+)`, `N(-)`, the observations of `merge` or the lattices that `stage2` saw the
reflection in, missing (not 0) where the intensity is. A centric reflection has `I(+)` alone; `IMEAN` is the mean with weights 1/σ². `stage2.mtz` has amplitudes
after French & Wilson in addition, each with its σ: `F`, `F(+)`, `F(-)`, and `DANO`, which is F(+) − F(−).

Observations and files for the PDB are written when they are asked for, beside the product:

| command | file | holds |
|---|---|---|
| `spreadflow export merge.h5 --to mtz` | `merge_unmerged.mtz` | every observation that was averaged, scaled, with the σ that it counted with; `merge` scales anew for it. Indices are in the asymmetric unit, and `M/ISYM` says by which operation: odd is I(+). A lattice is a batch (`BATCH`, from 1 on), whose header has its run, shot and number, its own cell and the mean wavelength of its pulse. `XDET`, `YDET`: predicted position on its panel, px; `FRACTIONCALC`: recorded fraction |
| `spreadflow export merge.h5 --to mmcif` | `merge.cif` | structure factors as the PDB takes them: block `merged`, and block `unmerged` with the same observations under the indices that were observed |
| `spreadflow export stage2.h5 --to mmcif` | `stage2.cif` | block `merged`: intensities and amplitudes |

Programs that merge the observations by 1/σ² ([decision 48](decisions/0048-merged-means-merged.md)) get the intensities of `merge.mtz` to single precision; their σ is smaller where
observations scatter more than their σ. A data set of more than 10⁵ lattices has a header for each, which many programs do
not expect: `--to dials` writes lattices and reflections instead.

`stage2.cycles/N.mtz` is the same as cycle N left it. `stage2.gram/N.h5` and its parts (kind `gram`, below) hold the Gram
matrices of the lattices in cycle N: their columns are reflections, where those of `spread.gram/` are channels of
reflections. A killed run goes on from them; when it has ended they may be removed.

## Populations of cells

`cells.tdata` has a line for each lattice, as uc_metrics reads it: a, b, c (Å), α, β, γ (degrees), and the symbol of the
lattice's own symmetry without blanks. `spreadflow export cells.h5 --to json` writes `cells_populations.json`:

| key | holds |
|---|---|
| `space_group` | of the lattices |
| `features` | names of the cell parameters that populations are Gaussians of: some of a, b, c, alpha, beta, gamma |
| `chosen` | number of the population that was accepted |
| `populations` | for each, the largest first: `n` lattices, `mean` cell, and `location` and `covariance` of the features, in Å and degrees |
| `labels` | of each lattice, in the order of `cells.h5`: number of its population; -1 = none |

`cells.from` takes a `cells.h5`, this JSON, or a covariance pickle of uc_metrics, of which nothing is executed: components are
populations in their order, and what is no feature follows from the symmetry of the lattice.

## Lattices of other programs

A spec file names one lattice in each line, as `.expt .refl [spectrum.lam] [number of the experiment]`; relative names
are relative to its folder, names with blanks stand in double quotes, and a word that begins with `#` starts a comment. Of
the experiment, these are read: the crystal (`real_space_a`, `b`, `c`, Hall symbol), the wavelength, the detector, and its
one image: the file (relative to the folder of the .expt) and frame (`single_file_indices`) of an ImageSet, or the template
of an ImageSequence and the number in its scan. Of the .refl (MessagePack), these are read: the columns `id`,
`miller_index`, `panel` and `xyzobs.px.value`, and `xyzcal.px`, `intensity.sum.value`, `intensity.sum.variance` and
`background.mean` where there are such, in the rows that carry the identifier of the experiment, or its number where it has
none; shoeboxes are read past. Files of DIALS 1 (pickles) have to be converted by DIALS.

The image is found among those of the run by the first rule that applies: it is the file; it is no longer where the list
says, and one file of the run has its name; one file of the run has its name but for the ending, as `x.nxs` for `x.cbf`. A
name that files in several places have is none. The log says where another rule than the first applied.

The space group may be stated as a group, whose screw axes and origin do not count, or as its Laue group. Lattices in
another setting (`I 1 2 1`, a primitive cell, axes in another order) are brought to the axes that have the configured cell,
where the configured Laue class has the same rotations as theirs; the log says by which change of indices.

A `.lam` file is text as diffBragg writes it: lines that begin with `#`, and a row `wavelength (Å), weight` for each
channel. The channels are taken as they are. Weights are relative: the photons of the pulse are those that the image
file states, and negative weights count as 0. The mean has to be within 3 % of the wavelength of the experiment. The
spectra are kept in `reindex.spectra.h5` (below), from which all later stages read them; shots without one there have
that of their image.

Lattices with their intensities are taken without images too: [runs without images](interop.md#runs-without-images).

"""

CHECKS_HEADER = """| check | what is asked | for example |
|---|---|---|
"""

JOBS_HEADER = """
Of a trial these are looked at, too, and the workflow asks the same once a launch, before the first job: it ends there with
one message (`snakemake --no-hooks` leaves the checks out).

| what is asked of jobs |
|---|
"""

BAD = """## Bad input

Wrong input ends in one error, with the exit status in brackets. A shot that cannot be used ends in one outcome, and
nothing else is lost.

| what | ends as |
|---|---|
| image file missing, truncated, of no known format, of another size or frame count | each of its shots `UNREADABLE` |
| image file of another number or shape of panels than the run | each of its shots `UNREADABLE` |
| frame that does not decompress | `UNREADABLE` |
| no image file of a run readable, and no geometry supplied | error (4) |
| wavelength or spectrum missing, not finite, not positive, or without photons | `BAD_SPECTRUM` |
| channel with negative weight in an otherwise good spectrum | the channel counts as 0 |
| no spectrum, but a wavelength | one channel at that wavelength |
| less than a tenth of the pixels usable (because of a mask, NaN, or values below the trusted range) | `MASKED` |
| NaN in an image | the pixel is not used |
| NaN in a mask file | the pixel is not used; if all are NaN: `MASKED` |
| the same number in every usable pixel (such as all zeros) | `EMPTY` |
| too many usable pixels above the trusted range | `SATURATED` |
| mask file missing, without `mask`, or of another shape | error (4) |
| manifest missing, not JSON, of another version, with an unknown or missing key | error (4) |
| two files of one name, or files of different geometry, in a manifest | error (4) when it is written |
| files changed since the manifest was written | error (4) of `spreadflow manifest --check` |
| file that is not an experiment list, or has several detectors or a tilted beam | error (4) |
| spec file missing, without a line, or with other columns | error (4) |
| experiments of a spec file with detectors more than 0.01 px apart | error (4) |
| spec file of which no line can be adopted | error (4) |
| two lines of a spec file with different spectra of one shot | error (4) |
| line of a spec file that cannot be adopted, or whose `.lam` file is no spectrum about the experiment's wavelength | its `AdoptOutcome`, a line in the log |
| stream of another format, without geometry file or without a complete chunk | error (4) |
| number of a stream that is none, or not finite, or a row with too few columns | error (4), which names the line |
| chunk of a stream without an end | left out, with a warning that names the line |
| lattice of a run without images that cannot be adopted | its `AdoptOutcome`, a line in the log |
| files of a run without images with detectors more than 0.05 px apart, or with a shot twice | error (4) |
| part file of another config, other inputs or other shots | its stage makes it again; for a reader, error (4) |
| part file missing, truncated or of fewer rows than its manifest says | its stage makes it again; for a reader, error (4) |
| part or product that is damaged, if by one bit | error (4), which names file and dataset; rerunning its stage makes that part again and keeps the others |
| product of another kind or schema version | error (4) |
| shot twice in a run, or lattice twice in a product, or in those of several runs | error (4), which names it |
| unknown config key, impossible value, space group that does not fit the cell | error (3) |
| missing file that a config key names | error (4) |
| number of ranks other than that launched | error (5) |

"""

CORRELATED = """## Output of correlate

`correlate.h5`, and whatever `correlate.out` names, has results by update; a user's class that publishes has its own in `user`. It is
`<out>.inprogress` until all shots are through. Names in capitals vary: SHOT and DELAY are in units of the shot id, with six digits at least.
The entry of NeXus is that of the last update, and `two_time` is there where it is configured. Beside it lies a JSON of
[figures](summaries.md#correlate).

"""

PRODUCTS = f"""## Products

Products are HDF5 files. A product is one file, or a manifest with its parts: `index.h5` lists the keys of
`index.parts/000000.h5` and so on, one part for each fixed block of shots, and in the group `n_rows` the rows of each
table of each part. Columns marked "in the manifest" are there too, of all parts, so that whoever needs only these opens
none. A file appears under its name only when it is
complete. The root has the attributes `kind`, `schema` (version), `key` (hash of everything that the content depends
on), `software` and `time`, and those of the stage (lists and mappings as JSON). Each dataset has the attributes `units`,
`meaning` and `sha256`, a checksum of its numbers that is compared whenever they are read. Files are of HDF5's format 1.10,
whose own structure has checksums. Datasets of more than {datasets.SMALLEST_COMPRESSED} bytes are compressed with bitshuffle and LZ4:
h5py reads them after `import hdf5plugin`, other programs with `HDF5_PLUGIN_PATH` [set as for images](#image-files).

Index, reindex, predict, pack and stage1 are made of small pieces, `index.parts/000000/000000-000008.h5` and so on, which
are joined to parts of at least 256 shots or lattices as far as there are as many
([decision 40](decisions/0040-manifests-and-pieces.md)).

Parts of `pack` hold their datasets as they are, without compression, so that they are mapped into memory when they are
read; a process compares their checksums once.

Tables are groups and columns are datasets; dimensions have names. A column marked "→ table" holds row numbers of that
table.

"""

IMAGES_HEADER = """# Image files: what was tested

What is read of each format stands in [files.md](files.md#image-files). The tests in the fourth column compare the files with what
stands in the third; those of recorded stills, and of other simulators, run where these are (`pytest --data-dir FOLDER`).

| format | files | compared with | tests | not read, not tested, to mind |
|---|---|---|---|---|
"""

CHANGED_HEADER = """
## Changed files

Of a small file of each format up to four places of its structure (of HDF5 all bytes but pixels, of the others the header, of a .geom all of it) are
changed, left out, repeated, or the file ends there. Each is read in a process of its own, with at most
{most_gib} GiB of memory and {longest} s. It ends in shots (also such as are lost by name) or in one error, never in a
traceback. What libhdf5 does with damage to its own structure is out of our hands: of NXmx, it crashed twice and never came back
once (libhdf5 2.0.0, attributes whose text is in its global heap). Tests read 50 of each; these are the endings of {n} of each, once
({commit}).

| files | shots | one error | lost within libhdf5 |
|---|---|---|---|
"""

COMMANDS = """# The command of every stage under every profile

What a job runs, as Snakemake composes it (`snakemake -n -p --workflow-profile NAME`; a test compares), for a trial `t` with
a run `one` that is indexed here and a run `two` whose lattices DIALS has indexed. `…` is the configuration of the stage, as
JSON. Before it comes the launcher with its ranks, then the container. Profiles for PBS are also shown with the request for
the job; the other executors form theirs. [facilities.md](facilities.md) has the environment of these commands, and
[profiles/README.md](../profiles/README.md) the sources of the profiles.

"""

ANY_CONFIG = re.compile(r"--config '.*' --ranks")
"""What is too long to show of a command."""

EXCHANGE_HEADER = """\
| format | | by | compared with | tests | not read, not tested, to mind |
|---|---|---|---|---|---|
"""
"""Header of the table of formats in docs/interop.md."""

STAGES_HEADER = """\
A stage reads the files in the second column, each an argument of its command; those in brackets may be absent.
`shoeboxes` is the product of `annulus`, `wide` or `pack`, as the section says. It writes into `results/<trial>/` what the third column lists.

| stage | reads | writes |
|---|---|---|
"""
"""Sentences and header of the table of stages."""

REPORT = """\
| `report` | all products above | `report.html`; for each stage `<stage>.json`, its figures, and `<stage>.png`, its picture |
"""
"""Last row of the table of stages. The report is a rule of the workflow and no stage."""


def config_page() -> str:
    """Return docs/config.md: the sections that each stage reads, and the keys of each section."""
    schema_of_keys = Config.model_json_schema(by_alias=True)
    rows = [f"| {stage.word} | {', '.join(stage.sections)} |\n" for stage in STAGES]
    sections = _section("", schema_of_keys, schema_of_keys["$defs"], set())
    return "".join([GENERATED, CONFIG, *rows, AFTER_SECTIONS, *sections])


def _section(name: str, node: dict, definitions: dict, written: set) -> Iterator[str]:
    """Yield the table of a section, then those of the sections within it, each once."""
    yield f"\n## {name or 'Top level'}\n\n"
    if name and node.get("description"):
        yield f"{node['description']}\n\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|\n"

    required = node.get("required", ())
    sections_within = []
    meanings = _meanings(node["title"])
    for key, item in node["properties"].items():
        words, sections = _type(item, definitions)
        path = f"{name}.{key}" if name else key
        sections_within += [(path + suffix, section) for section, suffix in sections]

        default = "(required)" if key in required else _default(item, sections)
        yield f"| `{key}` | {words} | {default} | {_cell(meanings[key])} |\n"

    for path, section in sections_within:
        if section not in written:
            written.add(section)
            yield from _section(path, definitions[section], definitions, written)


def _meanings(name: str) -> dict[str, str]:
    """Return the meaning of each key of a section, by the name of its class."""
    (section,) = (section for section in _sections(Section) if section.__name__ == name)
    meaning_of = docstrings(section)
    fields = section.model_fields.items()
    return {field.alias or name: meaning_of[name] for name, field in fields}


def _sections(section: type[Section]) -> Iterator[type[Section]]:
    """Yield all classes of sections."""
    for below in section.__subclasses__():
        yield below
        yield from _sections(below)


def _default(item: dict, sections: list) -> str:
    """Return the default of a key; that of a section is in the table of the section."""
    value = item.get("default")
    if sections and isinstance(value, dict) and value:
        return "(section)"
    return f"`{json.dumps(value)}`"


Type = tuple[str, list[tuple[str, str]]]
"""Words for the type of a key, and the sections that the key leads to: name, suffix of the path."""


def _type(item: dict, definitions: dict) -> Type:
    """Return the type that a JSON schema describes."""
    if "$ref" in item:
        section = item["$ref"].rsplit("/", 1)[1]
        return "section", [(section, "")]
    if "anyOf" in item:
        options = [_type(option, definitions) for option in item["anyOf"]]
        words = " or ".join(words for words, _ in options)
        return words, [section for _, sections in options for section in sections]
    if "enum" in item or "const" in item:
        values = item.get("enum", [item.get("const")])
        return " or ".join(f"`{value}`" for value in values), []
    if item.get("type") == "array":
        return _list_type(item, definitions)
    if item.get("type") == "object":
        return _mapping_type(item, definitions)
    return _plain_type(item), []


def _list_type(item: dict, definitions: dict) -> Type:
    """Return the type of a list, with the number of its items where that is fixed."""
    words, sections = _type(item.get("items", {}), definitions)
    fewest = item.get("minItems")
    is_fixed = fewest == item.get("maxItems")
    count = f"{fewest} " if fewest and is_fixed else ""
    below = [(section, ".N" + suffix) for section, suffix in sections]
    return f"list of {count}{words}", below


def _mapping_type(item: dict, definitions: dict) -> Type:
    """Return the type of a mapping from names that the user chooses."""
    patterns = item.get("patternProperties", {})
    values = item.get("additionalProperties") or next(iter(patterns.values()), {})
    if not isinstance(values, dict) or not values:
        return "mapping", []
    words, sections = _type(values, definitions)
    below = [(section, ".NAME" + suffix) for section, suffix in sections]
    return f"name → {words}" if words else "mapping", below


PLAIN_TYPES = {
    "null": "null",
    "number": "number",
    "integer": "integer",
    "string": "text",
    "boolean": "true or false",
}
"""Type of JSON schema → words."""

BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
"""Keyword of JSON schema → sign of the bound."""


def _plain_type(item: dict) -> str:
    """Return words for a number, a text or a path, with its bounds."""
    words = PLAIN_TYPES.get(item.get("type", ""), "any")
    if item.get("format") == "path":
        words = "path"
    bounds = [f"{sign} {item[keyword]:g}" for keyword, sign in BOUNDS.items() if keyword in item]
    return ", ".join([words, *bounds])


def files_page() -> str:
    """Return docs/files.md: manifests, images, outcomes, and every dataset of every product."""
    manifest = _fields(images.Manifest)
    files_of_manifest = _fields(images.ManifestFile)
    outcomes = [
        errors.Outcome,
        errors.Level0Outcome,
        errors.AdoptOutcome,
        errors.LatticeOutcome,
        errors.PredictedOutcome,
    ]
    flags = [models.ReflectionFlag, models.Overlap, models.Choice]
    text = [
        GENERATED,
        MANIFEST,
        manifest,
        "\nEach of `files`:\n\n",
        files_of_manifest,
        "\n",
        IMAGES,
        BAD,
        "## Outcomes\n\n",
        *map(_members, outcomes + flags),
        CORRELATED,
        *_correlated(),
        PRODUCTS,
        *_products(),
    ]
    return "".join(text).rstrip() + "\n"


def _correlated() -> Iterator[str]:
    """Yield the tables of what an output of `correlate` holds."""
    yield "| attribute | of | meaning |\n|---|---|---|\n"
    for group, attributes in g2_layout.ATTRIBUTES.items():
        place = f"`{group}`" if group else "the file"
        for name, meaning in attributes.items():
            yield f"| `{name}` | {place} | {meaning} |\n"
    yield "\n| dataset | shape | type | meaning |\n|---|---|---|---|\n"
    for item in g2_layout.ITEMS:
        yield f"| `{item.path}` | {item.dimensions} | {item.type} | {_cell(item.meaning)} |\n"
    yield "\n"


def _products() -> Iterator[str]:
    """Yield the tables of the datasets; kinds of files that share their tables share these."""
    kinds: dict[tuple, list[str]] = {}
    for kind, product in products.BY_KIND.items():
        kinds.setdefault(tuple(product.declared().values()), []).append(kind)

    for names in kinds.values():
        yield f"### {' and '.join(names)}\n\n"
        yield "| dataset | shape | type | unit | meaning |\n|---|---|---|---|---|\n"
        for path, column in products.BY_KIND[names[0]].described().items():
            shape = ", ".join(map(str, column.dims))
            refers = f" → {column.refers}" if column.refers else ""
            place = " (in the manifest)" if column.in_manifest else ""
            meaning = _cell(column.whole_meaning + refers + place)
            yield f"| `{path}` | {shape} | {column.dtype} | {column.unit} | {meaning} |\n"
        yield "\n"


def _fields(model: type[BaseModel]) -> str:
    """Return the table of the keys of a JSON file."""
    text = "| key | default | meaning |\n|---|---|---|\n"
    meaning_of = docstrings(model)
    for name, field in model.model_fields.items():
        default = "(required)" if field.is_required() else f"`{json.dumps(field.default)}`"
        text += f"| `{name}` | {default} | {_cell(meaning_of[name])} |\n"
    return text


def _members(kind: type) -> str:
    """Return the table of an enumeration: name, value and docstring of its members."""
    if issubclass(kind, IntEnum):
        values = {member.name: int(member) for member in kind}
    else:
        values = dict(vars(kind))

    text = f"`{kind.__name__}`: {_cell(inspect.getdoc(kind) or '')}\n\n"
    text += "| name | value | meaning |\n|---|---|---|\n"
    for name, meaning in docstrings(kind).items():
        text += f"| {name} | {values[name]} | {_cell(meaning)} |\n"
    return text + "\n"


def images_page() -> str:
    """Return docs/images.md: what the readers of image files were tested on, and how damage ends."""
    rows = [
        _row(row.format, row.files, row.against, _names(row.tests), row.limits)
        for row in tested_formats.TESTED
    ]
    header = CHANGED_HEADER.format(
        most_gib=mutated_files.MOST_BYTES // 2**30,
        longest=mutated_files.LONGEST_S,
        n=tested_formats.N_CHANGED,
        commit=tested_formats.CHANGED_COMMIT,
    )
    ends = [_row(files, *map(str, counts)) for files, counts in tested_formats.CHANGED.items()]
    return "".join([GENERATED, IMAGES_HEADER, *rows, header, *ends])


def commands_page() -> str:
    """Return docs/commands.md: what a job runs under every profile."""
    config = Config.model_validate(every_stage.EVERY_STAGE)
    sections = [_default_commands(config)]
    sections += [_commands_section(config, machine) for machine in machines.MACHINES]
    return "".join([GENERATED, COMMANDS, *sections]).rstrip() + "\n"


def _default_commands(config: Config) -> str:
    """Return the commands of all stages on a workstation."""
    text = f"## default\n\nA machine with {commands.MAX_RANKS} cores or more; `mpiexec` is that of the "
    text += "environment, by its whole path.\n\n```\n"
    for stage in STAGES:
        many = profiles.Granted(mpi="mpiexec", tasks=commands.MAX_RANKS)
        resources = many if stage.is_parallel else profiles.Granted(mpi="", tasks=1)
        text += f"{shown_command(job_command(config, stage, resources))}\n"
    return f"{text}```\n\n"


def profile_files() -> dict[Path, str]:
    """Return the file of each profile but the default one, which is written by hand."""
    return {
        PROFILES / machine.name / "config.yaml": profiles.text(machine)
        for machine in machines.MACHINES
    }


def _commands_section(config: Config, machine: Machine) -> str:
    """Return the commands of all stages under the profile of a machine."""
    settings = profiles.profile(machine)
    text = f"## {machine.name}\n\n{machine.meaning}.\n\n```\n"
    for stage in STAGES:
        granted = profiles.granted(settings, stage)
        if machine.scheduler == "pbs":
            request = settings["cluster-generic-submit-cmd"]
            text += f"{request.format(rule=stage.word, resources=granted)} ...\n"
        text += f"{shown_command(job_command(config, stage, granted))}\n"
    return f"{text}```\n\n"


def job_command(config: Config, stage: Stage, granted: profiles.Granted) -> str:
    """Return the command of a stage, for the first of its runs where it works on them one by one."""
    run = stage.runs(config)[0] if stage.runs is not None else None
    inputs = files.inputs(config, stage.word, run)
    out = files.outputs(config, stage.word, run)[0]
    return commands.command(config, stage.word, {"run": run or ""}, inputs, out, granted)


def shown_command(command: str) -> str:
    """Return a command without the configuration in it."""
    return ANY_CONFIG.sub("--config … --ranks", command)


def exchange_table() -> str:
    """Return the table of formats in docs/interop.md."""
    rows = [
        _row(row.format, row.direction, row.by, row.against, _names(row.tests), row.limits)
        for row in tested_exchange.EXCHANGED
    ]
    return "".join([EXCHANGE_HEADER, *rows])


def _names(tests: tuple[str, ...]) -> str:
    """Return the names of tests without their files."""
    return ", ".join(f"`{test.rpartition('::')[2]}`" for test in tests)


def _row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(_cell, cells))} |\n"


def stages_table() -> str:
    """Return the table of stages in README.md."""
    rows = [_stage_row(stage) for stage in STAGES]
    return "".join([STAGES_HEADER, *rows, REPORT])


def _stage_row(stage: Stage) -> str:
    """Return the row of a stage: the arguments of its command, and its outputs."""
    arguments = []
    for field in dataclasses.fields(stage.inputs):
        is_optional = field.default is None
        arguments.append(f"[`{field.name}`]" if is_optional else f"`{field.name}`")
    reads = ", ".join(arguments) or "files that the configuration names"

    defaults = Config()
    trial = f"{defaults.results / defaults.trial}/"
    outputs = files.outputs(defaults, stage.word, "<run>")
    writes = ", ".join(f"`{path.removeprefix(trial)}`" for path in outputs)
    return f"| `{stage.word}` | {reads} | {writes}: {_cell(stage.meaning)} |\n"


def decisions_index() -> str:
    """Return the list of decisions in docs/decisions/README.md, from the titles of their pages."""
    lines = []
    for page in sorted(DECISIONS.glob("0*.md")):
        title = page.read_text().splitlines()[0].removeprefix("# ")
        number, _, words = title.partition(". ")
        lines.append(f"{number}. [{words}]({page.name})\n")
    return "".join(lines)


def checks_table() -> str:
    """Return the tables of checks in docs/doctor.md, with what `spreadflow doctor --json
    docs/doctor.json` found.
    """
    findings = json.loads((DOCS / "doctor.json").read_text())
    rows = [
        _row(finding["check"], _question(check), finding["found"])
        for check, finding in zip(examination.CHECKS, findings, strict=True)
    ]
    of_jobs = [_row(_question(check)) for check in jobs.CHECKS]
    return "".join([CHECKS_HEADER, *rows, JOBS_HEADER, *of_jobs])


def _question(check: Callable) -> str:
    """Return what a check asks: the first paragraph of its docstring."""
    paragraph, _, _ = inspect.getdoc(check).partition("\n\n")
    return paragraph


def with_part(page: Path, part: str) -> str:
    """Return the text of a page written by hand, with its generated part replaced.

    Raises ValueError where the page lacks the lines between which the part belongs.
    """
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{page}: the lines around the generated part are missing or doubled")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{part}\n{END}{after}"


def _cell(text: str) -> str:
    """Return a text as a cell of a table: one line, without the sign that parts cells."""
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the documents, or compare them, and return the exit status."""
    pages = {
        DOCS / "config.md": config_page(),
        DOCS / "files.md": files_page(),
        DOCS / "images.md": images_page(),
        DOCS / "commands.md": commands_page(),
        **profile_files(),
        INTEROP: with_part(INTEROP, exchange_table()),
        DOCTOR: with_part(DOCTOR, checks_table()),
        README: with_part(README, stages_table()),
        DECISIONS / "README.md": with_part(DECISIONS / "README.md", decisions_index()),
        **tables.pages(),
    }
    if "--check" not in arguments:
        for path, text in pages.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return 0

    stale = [
        str(path) for path, text in pages.items() if not path.exists() or path.read_text() != text
    ]
    if stale:
        print(f"out of date: {', '.join(stale)}. Run `python docs/generate.py`.", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
