"""Several fits as one set of estimating equations: stacked fits (suest) and two-step estimation.

Both are made of one fact: estimates theta_j solve sum_i s_ij(theta_j) = 0, so that their joint
covariance is a sandwich on the scores side by side, (n, k_1 + k_2 + ...), with zeros where a term is
not part of an equation. The result is an `Optimum` over a likelihood known at its estimates; robust,
clustered, HAC, survey and score-bootstrap covariances then hold without further code.
"""

from mlecov.joint.stacked import EstimatingEquations, stack
from mlecov.joint.steps import MurphyTopel, two_step

__all__ = ["EstimatingEquations", "MurphyTopel", "stack", "two_step"]
