"""F(hkl) of a model by cctbx, run by its own Python: cctbx_peer.py <job.json> <out.npz>.

job: model (path), anomalous (name of atom or element → [f', f'']), hkl, k_sol, b_sol, grid (of the
mask). out: direct (summed over atoms, IT92) and solvent (k_sol exp(−b_sol/4d²) F_mask), complex.
"""

import json
import sys
from pathlib import Path

import iotbx.pdb
import numpy as np
from cctbx import miller
from cctbx.array_family import flex
from mmtbx import masks

job = json.loads(Path(sys.argv[1]).read_text())
structure = iotbx.pdb.input(file_name=job["model"]).xray_structure_simple()
structure.scattering_type_registry(table="it1992")
for scatterer in structure.scatterers():
    name = scatterer.label.removeprefix('pdb="')[:4].strip()
    anomalous = job["anomalous"].get(name) or job["anomalous"][scatterer.element_symbol()]
    scatterer.fp, scatterer.fdp = anomalous
    scatterer.flags.set_use_fp_fdp(True)
    scatterer.occupancy /= (
        scatterer.weight_without_occupancy()
    )  # files tell the share, cctbx counts mates once
indices = flex.miller_index([tuple(h) for h in job["hkl"]])
nodes = miller.set(structure.crystal_symmetry(), indices, anomalous_flag=True)
direct = nodes.structure_factors_from_scatterers(
    structure, algorithm="direct", cos_sin_table=False
).f_calc()
mask = masks.bulk_solvent(
    structure.expand_to_p1(sites_mod_positive=True),
    ignore_zero_occupancy_atoms=True,
    solvent_radius=1.11,
    shrink_truncation_radius=0.9,
    gridding_n_real=job["grid"],
)
damped = job["k_sol"] * np.exp(
    -job["b_sol"] * 0.25 / nodes.d_spacings().data().as_numpy_array() ** 2
)
transform = nodes.structure_factors_from_map(
    map=mask.data, use_scale=True, anomalous_flag=False, use_sg=False
)
solvent = damped * transform.data().as_numpy_array()
np.savez(sys.argv[2], direct=direct.data().as_numpy_array(), solvent=solvent)
