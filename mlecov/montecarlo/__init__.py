"""Coverage and size by simulation: which covariance can be trusted at this n?"""

from mlecov.montecarlo.results import MonteCarlo, Replications
from mlecov.montecarlo.study import Study, monte_carlo, run_batch

__all__ = ["MonteCarlo", "Replications", "Study", "monte_carlo", "run_batch"]
