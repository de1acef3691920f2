"""The Gaussian lattice factor: its width."""

import numpy as np

GAUSS = 0.63
"""Width of the Gaussian lattice factor, F_latt = N_a N_b N_c exp(−Σ(N Δh)²/0.63), without unit.

With it, |F_latt|² integrates over a cell to what a block of N cells gives, but for 2 % (nanoBragg).
"""

SIZE_SIGMA = float(np.sqrt(GAUSS / 4))
"""Standard deviation of |F_latt|² along an axis, in N·Δh: |F_latt|² ∝ exp(−½ (N Δh)²/σ²) with σ² =
0.63/4. Divided by the edge of a domain, Å, it is one in reciprocal space, Å⁻¹.
"""
