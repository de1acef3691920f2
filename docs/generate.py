"""Writes docs/config.md and docs/files.md from the code; with --check, fails where the committed
files differ.

python docs/generate.py [--check]
"""

import ast
import inspect
import json
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from spreadflow import errors, models
from spreadflow.config import Config
from spreadflow.io import images, nexus_writer, schema
from spreadflow.io.images import nexus
from spreadflow.trial import STAGES

HERE = Path(__file__).parent
GENERATED = "<!-- written by docs/generate.py: edit the code, not this file -->\n"

CONFIG = """# Configuration

One YAML file, or several of which later ones lie over earlier ones, mapping by mapping; everything else is replaced.
Keys that are left out take their default; an unknown key is an error. Units are in the names; without one, lengths in
real or reciprocal space are in Å, energies in eV. `spreadflow config` prints all keys with their defaults as YAML.

A rule reruns when a key of a section it reads changes:

"""

IMAGES = f"""## Image files

NXmx (NeXus/HDF5), one frame of every stack per shot. Written: what nxmx, DIALS and our reader agree on.
Read: the first `NXentry` of definition `NXmx`, with

| item | what is read |
|---|---|
| `data/<signal>` | (n, slow, fast) or (n, panel, slow, fast), integer or float |
| `instrument/<NXdetector>/<NXdetector_module>` | one panel each: `data_origin`, `data_size` of 2 or 3 elements; \
`fast_pixel_direction`, `slow_pixel_direction` and any chain of translations and rotations they depend on, absolute or \
relative paths, lengths in {", ".join(nexus.MM)}. Panels of equal shape, square pixels, downstream of the sample |
| `pixel_mask`, `pixel_mask_*` | zero = good, shaped like a frame |
| `underload_value`, `saturation_value` | trusted range, both ends included |
| `<NXbeam>/incident_wavelength` | one value, or one per frame ({", ".join(nexus.ANGSTROM)}); its `variant`, or \
itself, with `_weights` (or `_weight`): the spectrum, channels (m,) or (n, m), weights (n, m) |
| `data_offset`, `data_scaling_factor` | defaults for the manifest's `offset_adu` and `adu_per_photon` |

McStas coordinates become laboratory coordinates by diag(-1, 1, -1). `sensor_thickness` is written as
{nexus_writer.SURFACE_MM} mm, so that a reader's parallax correction vanishes: photons are simulated where they hit the
surface. The thickness and attenuation length of the simulated *capture* are its attributes `capture_thickness_mm` and
`capture_attenuation_mm`; where they are absent a sensor captures everything.

Simulated files hold what is known of their shots in the group `/truth` (below); only summaries and tests read it.

## Masks

An HDF5 file with the dataset `mask`, (panel, slow, fast) or (slow, fast); a pixel is used where it is zero. Masks of
image file, manifest and config add up.

## Experiment lists

`level0.expt` is a DIALS ExperimentList (JSON) with one beam and the detector. Read: any list whose experiments share
one detector with panels of equal shape, hierarchies resolved, and a beam along the lab z axis.

## Lattices of others

A spec file names a lattice a line: `.expt .refl [spectrum.lam] [number of the experiment]`, relative names from its
folder. Read of the experiment: crystal (`real_space_a`, `b`, `c`, Hall symbol), wavelength, detector, and its one image
(relative names from the folder of the .expt, frame `single_file_indices`), which is found among the run's by its path,
or by its name where there is no file any more and no other of that name. Read of the .refl (MessagePack): the columns
`id`, `miller_index`, `panel`, `xyzobs.px.value`, the rows by the experiment's identifier, or by its number where it
has none.

"""

BAD = """## Bad input

Wrong input is one error (exit status in brackets); an unlucky shot is one outcome, and nothing else is lost.

| what | ends as |
|---|---|
| image file missing, truncated, not HDF5, not NXmx, of another size or frame count | each of its shots `UNREADABLE` |
| image file of another number or shape of panels than the run | each of its shots `UNREADABLE` |
| frame that does not decompress | `UNREADABLE` |
| no image file of a run readable, and no geometry given | error (4) |
| wavelength or spectrum missing, not finite, not positive, or without photons | `BAD_SPECTRUM` |
| channel with negative weight in an otherwise good spectrum | the channel counts as 0 |
| no spectrum, but a wavelength | one channel at that wavelength |
| less than a tenth of the pixels usable (mask, NaN, below the trusted range) | `MASKED` |
| NaN in an image | the pixel is not used |
| NaN in a mask file | the pixel is not used; nothing but NaN: `MASKED` |
| every usable pixel the same number (all zeros) | `EMPTY` |
| too many usable pixels above the trusted range | `SATURATED` |
| mask file missing, without `mask`, or of another shape | error (4) |
| manifest missing, not JSON, of another version, with an unknown or missing key | error (4) |
| two files of one name, or files of different geometry, in a manifest | error (4) when it is written |
| files changed since the manifest was written | error (4) of `spreadflow manifest --check` |
| experiment list that is none, with several detectors or a tilted beam | error (4) |
| spec file missing, without a line, or with other columns | error (4) |
| experiments of a spec file with detectors more than 0.01 px apart | error (4) |
| spec file of which no line can be adopted | error (4) |
| line of a spec file that can't be adopted | its `AdoptOutcome`, a line in the log |
| part file of another config, other inputs or other shots | made again by its stage; error (4) for a reader |
| part file missing or truncated | made again by its stage; error (4) for a reader |
| product of another kind or schema version | error (4) |
| unknown config key, impossible value, space group that does not fit the cell | error (3) |
| file that a config key names missing | error (4) |
| ranks other than launched | error (5) |

"""

PRODUCTS = """## Products

HDF5. A product is one file, or a manifest with its parts: `index.h5` names the keys of `index.parts/000000.h5` and so
on, one part for each fixed block of shots. Files appear under their name only when they are complete. Root attributes:
`kind`, `schema` (version), `key` (hash of what the file is made from), `software`, `time`, and those of the stage
(lists and mappings as JSON). Each dataset has the attributes `units` and `meaning`.

Tables are groups, columns are datasets; dimensions are named. A column "→ table" holds row numbers of that table.

"""


def config() -> str:
    """docs/config.md."""
    tree = Config.model_json_schema(by_alias=True)
    sections = [(stage.word, stage.sections) for stage in STAGES]
    text = GENERATED + CONFIG + "| stage | sections |\n|---|---|\n"
    text += "".join(f"| {stage} | {', '.join(names)} |\n" for stage, names in sections)
    text += "\n`simulate` also reads the shots of its own run; overlays are handed over already laid over their sections.\n"
    return text + "".join(_section("", tree, tree["$defs"], set()))


def _section(name: str, node: dict, definitions: dict, done: set) -> Iterator[str]:
    """A section's table, then the sections within, each once."""
    yield f"\n## {name or 'Top level'}\n\n"
    if name and node.get("description"):
        yield f"{node['description']}\n\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|\n"
    inner = []
    for key, item in node["properties"].items():
        kind, below = _type(item, definitions)
        inner += [
            (".".join(filter(None, (name, key))) + suffix, section) for section, suffix in below
        ]
        default = "(required)" if key in node.get("required", ()) else _default(item, below)
        yield f"| `{key}` | {kind} | {default} | {_cell(item.get('description', ''))} |\n"
    for path, section in inner:
        if section not in done:
            done.add(section)
            yield from _section(path, definitions[section], definitions, done)


def _default(item: dict, below: list) -> str:
    value = item.get("default")
    return "(section)" if below and isinstance(value, dict) and value else f"`{json.dumps(value)}`"


def _type(item: dict, definitions: dict) -> tuple[str, list[tuple[str, str]]]:
    """Words for a JSON-schema type, and the sections it leads to with the suffix of their path."""
    if "$ref" in item:
        return "section", [(item["$ref"].rsplit("/", 1)[1], "")]
    if "anyOf" in item:
        kinds = [_type(option, definitions) for option in item["anyOf"]]
        return " or ".join(k for k, _ in kinds), [b for _, below in kinds for b in below]
    if "enum" in item or "const" in item:
        return " or ".join(f"`{v}`" for v in item.get("enum", [item.get("const")])), []
    if item.get("type") == "array":
        kind, below = _type(item.get("items", {}), definitions)
        count = f"{item['minItems']} " if item.get("minItems") else ""
        return f"list of {count}{kind}", [(section, ".N" + suffix) for section, suffix in below]
    if item.get("type") == "object":
        inside = item.get("additionalProperties") or next(
            iter(item.get("patternProperties", {}).values()), {}
        )
        kind, below = (
            _type(inside, definitions) if isinstance(inside, dict) and inside else ("", [])
        )
        return f"name → {kind}" if kind else "mapping", [
            (section, ".NAME" + suffix) for section, suffix in below
        ]
    words = {
        "null": "null",
        "number": "number",
        "integer": "integer",
        "string": "text",
        "boolean": "true or false",
    }
    kind = "path" if item.get("format") == "path" else words.get(item.get("type", ""), "any")
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    return ", ".join(
        [kind, *(f"{sign} {item[bound]:g}" for bound, sign in signs.items() if bound in item)]
    ), []


def files() -> str:
    """docs/files.md."""
    text = (
        GENERATED
        + "# Files\n\n## Manifest of a run\n\nJSON, written by `simulate` or `spreadflow manifest`.\n\n"
    )
    text += (
        _fields(images.Manifest) + "\nEach of `files`:\n\n" + _fields(images.ManifestFile) + "\n"
    )
    text += IMAGES + BAD + "## Outcomes\n\n"
    text += (
        _members(errors.Outcome)
        + _members(errors.AdoptOutcome)
        + _members(errors.LatticeOutcome)
        + _members(models.ReflectionFlag)
    )
    text += _members(models.Overlap)
    text += PRODUCTS
    kinds: dict[int, list[str]] = {}
    for kind, datasets in schema.FILES.items():
        kinds.setdefault(id(datasets), []).append(kind)
    for names in kinds.values():
        text += f"### {' and '.join(names)}\n\n| dataset | shape | type | unit | meaning |\n|---|---|---|---|---|\n"
        for path, d in schema.FILES[names[0]].items():
            meaning = d.meaning + (f" → {d.refers}" if d.refers else "")
            text += f"| `{path}` | {', '.join(map(str, d.dims))} | {d.dtype} | {d.unit} | {_cell(meaning)} |\n"
        text += "\n"
    return text.rstrip() + "\n"


def _fields(model: type[BaseModel]) -> str:
    text = "| key | default | meaning |\n|---|---|---|\n"
    for name, field in model.model_fields.items():
        default = "(required)" if field.is_required() else f"`{json.dumps(field.default)}`"
        text += f"| `{name}` | {default} | {_cell(field.description or '')} |\n"
    return text


def _members(kind: type) -> str:
    """Name, value and docstring of the members of an enumeration."""
    body: list[Any] = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    values = {m.name: int(m) for m in kind} if issubclass(kind, IntEnum) else vars(kind)
    text = f"`{kind.__name__}`: {_cell(inspect.getdoc(kind) or '')}\n\n| name | value | meaning |\n|---|---|---|\n"
    for at, node in enumerate(body):
        if isinstance(node, ast.Assign):
            after = body[at + 1] if at + 1 < len(body) else None
            meaning = after.value.value if isinstance(after, ast.Expr) else ""
            name = node.targets[0].id
            text += f"| {name} | {values[name]} | {_cell(meaning)} |\n"
    return text + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the documents, or compare them. Returns the exit status."""
    stale = []
    for name, text in (("config.md", config()), ("files.md", files())):
        path = HERE / name
        if "--check" not in arguments:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(str(path))
    if stale:
        print(f"out of date: {', '.join(stale)}. Run `python docs/generate.py`.", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
