"""The jobs: data, mlecov's way and the peers' ways of each."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mlecov as ml
from tests.benchmarks import peers
from tests.benchmarks.peers import Reported

Entries = dict[str, Callable[[], object]]
ALL_THREE = ("oim", "opg", "robust")


@dataclass(frozen=True)
class Job:
    """A name, a function that makes the data and returns {who: callable}, and the goal in words."""

    name: str
    prepare: Callable[[], Entries]
    goal: str


def design(n: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([np.ones(n), rng.standard_normal((n, k - 1))])


def binary(n: int, k: int, link: str = "probit") -> tuple[np.ndarray, np.ndarray]:
    X = design(n, k)
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(n) if link == "probit" else rng.logistic(size=n)
    return (X @ np.r_[0.2, np.linspace(-0.3, 0.3, k - 1)] + noise > 0).astype(float), X


def counts(n: int, k: int, alpha: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    X = design(n, k)
    mu = np.exp(X @ np.r_[0.5, np.linspace(-0.2, 0.2, k - 1)])
    m = 1 / alpha
    return np.random.default_rng(1).negative_binomial(m, m / (m + mu)).astype(float), X


def fit_all(likelihood: Any, names: tuple[str, ...] = ALL_THREE) -> Any:
    fit = ml.fit(likelihood)
    for name in names:
        _ = fit.cov(name).bse
    return fit


def statsmodels_all(model: Any, **options: Any) -> Any:
    """Fit, and the outer product and sandwich that statsmodels leaves to its user."""
    result = model.fit(disp=0, **options)
    S = model.score_obs(result.params)
    opg = np.linalg.inv(S.T @ S)
    bread = result.cov_params()
    return np.sqrt(np.diag(opg)), np.sqrt(np.diag(bread @ (S.T @ S) @ bread))


def probit_large() -> Entries:
    import statsmodels.api as sm

    y, X = binary(1_000_000, 20)
    return {
        "mlecov": lambda: fit_all(ml.models.probit(y, X)),
        "statsmodels Probit": lambda: statsmodels_all(sm.Probit(y, X)),
        "R glm, one covariance": peers.glm(y, X, 'binomial("probit")'),
        "X'X": lambda: X.T @ X,
    }


def newton_step() -> Entries:
    y, X = binary(1_000_000, 20)
    likelihood = ml.models.probit(y, X)
    theta = np.r_[0.2, np.linspace(-0.3, 0.3, 19)]
    return {"mlecov": lambda: likelihood.evaluate(theta, order=2), "X'X": lambda: X.T @ X}


def nb2_loglike(y: Any, mu: Any, alpha: Any) -> Any:
    import jax.numpy as jnp
    from jax.scipy.special import gammaln

    m, mean = 1 / alpha, jnp.exp(mu)
    tail = m * jnp.log(m / (m + mean)) + y * jnp.log(mean / (m + mean))
    return gammaln(y + m) - gammaln(m) - gammaln(y + 1) + tail


def nb2_user(n: int, k: int, slow: bool = True) -> Entries:
    import statsmodels.api as sm
    from scipy.special import gammaln
    from statsmodels.base.model import GenericLikelihoodModel

    y, X = counts(n, k)

    class Peer(GenericLikelihoodModel):
        def loglikeobs(self, params: Any) -> Any:
            mean, m = np.exp(self.exog @ params[:-1]), 1 / np.exp(params[-1])
            tail = m * np.log(m / (m + mean)) + self.endog * np.log(mean / (m + mean))
            return gammaln(self.endog + m) - gammaln(m) - gammaln(self.endog + 1) + tail

    def own() -> Any:
        params = {"mu": ml.linear(["X"]), "alpha": ml.positive()}
        return fit_all(ml.likelihood(nb2_loglike, {"y": y, "X": X}, params))

    def generic() -> Any:
        model = Peer(y, X, extra_params_names=["lnalpha"])
        result = model.fit(start_params=np.zeros(k + 1), method="bfgs", disp=0, maxiter=500)
        return result.bse, result.covjac, result.covjhj

    entries: Entries = {
        "mlecov": own,
        "statsmodels NegativeBinomial": lambda: statsmodels_all(sm.NegativeBinomial(y, X), maxiter=500),
    }
    if slow:
        entries["GenericLikelihoodModel"] = generic
    written: dict[str, Callable[[Any, Any], Callable[[], object]]] = {
        "JAX and scipy by hand": peers.raw_jax,
        "estimagic, score given": peers.estimagic,
        "R maxLik, score given": peers.maxlik,
        "R TMB, one covariance": peers.tmb,
    }
    if n <= 10_000:  # at 1e5 rows it ends at a wrong point
        written["delicatessen, score given"] = peers.delicatessen
    return entries | {name: make(y, X) for name, make in written.items()}


def nb2_ready(n: int, k: int) -> Entries:
    import statsmodels.api as sm

    y, X = counts(n, k)
    return {
        "mlecov": lambda: fit_all(ml.models.nb2(y, X)),
        "statsmodels NegativeBinomial": lambda: statsmodels_all(sm.NegativeBinomial(y, X), maxiter=500),
        "R MASS glm.nb, one covariance": peers.glm(y, X, "nb2"),
    }


R_FAMILIES = {"probit": 'binomial("probit")', "logit": "binomial", "poisson": "poisson"}


def small(model: str) -> Entries:
    import statsmodels.api as sm

    y, X = counts(1000, 5) if model == "poisson" else binary(1000, 5)
    peer = {"probit": sm.Probit, "logit": sm.Logit, "poisson": sm.Poisson}[model]
    return {
        "mlecov": lambda: fit_all(getattr(ml.models, model)(y, X)),
        "statsmodels, fit alone": lambda: peer(y, X).fit(disp=0),
        "statsmodels, all three": lambda: statsmodels_all(peer(y, X)),
        "R glm, one covariance": peers.glm(y, X, R_FAMILIES[model]),
    }


def small_formula() -> Entries:
    import pandas as pd
    import statsmodels.formula.api as smf

    y, X = binary(1000, 5)
    data = pd.DataFrame(X[:, 1:], columns=list("abcd")).assign(y=y)
    return {
        "mlecov": lambda: fit_all(ml.models.probit("y ~ a + b + c + d", data)),
        "statsmodels formula": lambda: smf.probit("y ~ a + b + c + d", data).fit(disp=0),
    }


def logit_dummies() -> Entries:
    import pandas as pd

    rng = np.random.default_rng(0)
    n = 1_000_000
    x = rng.standard_normal((n, 20))
    g = rng.integers(0, 500, n)
    effect = rng.standard_normal(500) * 0.3
    y = (x @ np.linspace(-0.3, 0.3, 20) + effect[g] + rng.logistic(size=n) > 0).astype(float)
    data = pd.DataFrame(x, columns=[f"x{j}" for j in range(20)]).assign(y=y, g=pd.Categorical(g))
    formula = "y ~ " + " + ".join(f"x{j}" for j in range(20)) + " + C(g)"

    def peer() -> Any:
        from glum import GeneralizedLinearRegressor

        model = GeneralizedLinearRegressor(family="binomial", alpha=0, drop_first=True)
        return model.fit(data.drop(columns="y"), y)

    return {
        "mlecov": lambda: fit_all(ml.models.logit(formula, data), ("oim", "robust")),
        "glum, fit alone": peer,
    }


def clusters() -> Entries:
    import statsmodels.api as sm

    y, X = binary(1_000_000, 20, "logit")
    groups = np.random.default_rng(2).integers(0, 100_000, len(y))
    fit = ml.fit(ml.models.logit(y, X))
    result = sm.Logit(y, X).fit(disp=0)

    def own() -> Any:
        return ml.Fit(fit.optimum).cov(ml.Cluster(groups))

    def peer() -> Any:
        from statsmodels.stats.sandwich_covariance import cov_cluster

        return cov_cluster(result, groups)

    return {"mlecov": own, "statsmodels cov_cluster": peer, "X'X": lambda: X.T @ X}


def bootstrap() -> Entries:
    import statsmodels.api as sm

    y, X = binary(1000, 5, "logit")
    fit = ml.fit(ml.models.logit(y, X))

    def peer() -> Any:
        rng = np.random.default_rng(0)
        found = []
        for _ in range(999):
            rows = rng.integers(0, 1000, 1000)
            found.append(sm.Logit(y[rows], X[rows]).fit(disp=0).params)
        return np.cov(np.array(found).T)

    return {
        "mlecov": lambda: ml.Fit(fit.optimum).cov(ml.Bootstrap(reps=999, seed=0)),
        "loop of statsmodels fits": peer,
    }


def bootstrap_user() -> Entries:
    y, X = counts(1000, 3)
    fit = ml.fit(
        ml.likelihood(nb2_loglike, {"y": y, "X": X}, {"mu": ml.linear(["X"]), "alpha": ml.positive()})
    )
    return {"mlecov": lambda: ml.Fit(fit.optimum).cov(ml.Bootstrap(reps=999, seed=0))}


def monte_carlo() -> Entries:
    import statsmodels.api as sm

    y, X = binary(500, 4)
    truth = ml.fit(ml.models.probit(y, X))

    def peer() -> Any:
        rng = np.random.default_rng(0)
        eta = X @ truth.theta
        return [
            statsmodels_all(sm.Probit((eta + rng.standard_normal(500) > 0).astype(float), X))
            for _ in range(1000)
        ]

    return {
        "mlecov": lambda: truth.monte_carlo(estimators=list(ALL_THREE), reps=1000, seed=0),
        "loop of statsmodels fits": peer,
    }


def garch() -> Entries:
    y = ml.load("dmbp")["y"].to_numpy()

    def peer() -> Any:
        from arch import arch_model

        return arch_model(y, mean="Constant", vol="GARCH", p=1, q=1, rescale=False).fit(disp="off")

    return {
        "mlecov": lambda: fit_all(ml.models.garch(y), ("oim", "opg", "robust", "eim", "bw")),
        "arch, fit alone": peer,
    }


SCRIPT = """
import pandas as pd
{imports}
data = pd.read_csv({path!r})
{body}
"""


def whole_script() -> Entries:
    import pandas as pd

    folder = Path(tempfile.mkdtemp())
    y, X = binary(1000, 5)
    path = str(folder / "data.csv")
    pd.DataFrame(X[:, 1:], columns=list("abcd")).assign(y=y).to_csv(path, index=False)
    formula = "y ~ a + b + c + d"
    own = f"print(ml.fit(ml.models.probit({formula!r}, data)).compare(['oim', 'opg', 'robust']))"
    peer = f"r = smf.probit({formula!r}, data).fit(disp=0)\nprint(r.summary())"
    scripts = {
        "mlecov": SCRIPT.format(imports="import mlecov as ml", path=path, body=own),
        "statsmodels, one covariance": SCRIPT.format(
            imports="import statsmodels.formula.api as smf", path=path, body=peer
        ),
        "import numpy and pandas alone": "import numpy, pandas",
    }

    def runner(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    return {name: runner(code) for name, code in scripts.items()}


USER_PROCESS = """
import time
import jax, jax.numpy, jax.scipy.special
import numpy as np, pandas, scipy.special
from tests.benchmarks.jobs import counts, fit_all, ml, nb2_loglike
y, X = counts(10000, 8)
start = time.perf_counter()
fit_all(ml.likelihood(nb2_loglike, dict(y=y, X=X), dict(mu=ml.linear(["X"]), alpha=ml.positive())))
print(time.perf_counter() - start)
"""


def user_processes() -> Entries:
    """The seconds that a new process reports for the fit, JAX imported, and for the first process ever."""
    import os

    raise_if = Path(__file__).resolve().parents[2]

    def process(folder: str) -> float:
        environment = os.environ | {"MLECOV_CACHE_DIR": folder}
        done = subprocess.run(
            [sys.executable, "-c", USER_PROCESS],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
            cwd=raise_if,
        )
        return float(done.stdout)

    kept = tempfile.mkdtemp()
    process(kept)
    return {
        "mlecov": lambda: Reported(process(kept)),
        "mlecov, first process": lambda: Reported(process(tempfile.mkdtemp())),
    }


JOBS = [
    Job("probit 1e6 x 20: fit, oim, opg, robust", probit_large, "an eighth of statsmodels"),
    Job("one Newton evaluation, probit 1e6 x 20", newton_step, "within 3 times X'X"),
    Job("user-written NB2 1e4 x 8, all three", lambda: nb2_user(10_000, 8), "0.3 s in a later process"),
    Job(
        "user-written NB2 1e5 x 20, all three",
        lambda: nb2_user(100_000, 20),
        "1/7 of NegativeBinomial, 1/40 of GLLM",
    ),
    Job("user-written NB2, processes", user_processes, "1.6 s in the first process, 0.3 s in later ones"),
    Job("ready-made NB2 1e4 x 8", lambda: nb2_ready(10_000, 8), "a quarter of statsmodels"),
    Job("ready-made NB2 1e5 x 20", lambda: nb2_ready(100_000, 20), "an eighth of statsmodels"),
    Job("probit n=1000 k=5, arrays", lambda: small("probit"), "no slower than statsmodels' fit"),
    Job("logit n=1000 k=5, arrays", lambda: small("logit"), "no slower than statsmodels' fit"),
    Job("poisson n=1000 k=5, arrays", lambda: small("poisson"), "no slower than statsmodels' fit"),
    Job("probit n=1000 k=5, formula", small_formula, "no slower than statsmodels' formula"),
    Job("logit 1e6 x (20 + 500 dummies): oim, robust", logit_dummies, "1.0 s where glum takes 1.6 s"),
    Job("logit 1e6 x 20: 1e5 clusters after the fit", clusters, "3 times X'X"),
    Job("999 bootstraps of a logit n=1000 k=5", bootstrap, "a tenth of a loop of statsmodels"),
    Job("999 bootstraps of a user's NB2 n=1000", bootstrap_user, "1 s"),
    Job("1000 Monte Carlo fits of a probit n=500", monte_carlo, "a tenth of a loop of statsmodels"),
    Job("GARCH(1,1) n=1974, five covariances", garch, "no slower than arch's fit"),
    Job("whole script: import, CSV, probit, print", whole_script, "no slower than statsmodels"),
]
