"""Default starts lead to a maximum: 100 simulated samples of each count, binary, ordered and choice model."""

from functools import partial
from typing import Any

import numpy as np
import pytest

import mlecov as ml
from mlecov.errors import MlecovError
from tests.models.common import check_starts

B = [0.3, 0.5, -0.4]
MODELS: dict[str, tuple[Any, list[float], float]] = {
    "probit": (ml.models.probit, B, 0.0),
    "logit": (ml.models.logit, B, 0.0),
    "cloglog": (ml.models.cloglog, B, 0.0),
    "poisson": (ml.models.poisson, B, 1.0),
    "exponential": (ml.models.exponential, B, 1.0),
    "nb1": (ml.models.nb1, [*B, 0.0], 1.0),
    "nb2": (ml.models.nb2, [*B, -0.3], 1.0),
    "generalized_poisson": (ml.models.generalized_poisson, [*B, -1.0], 1.0),
    "zero_inflated_poisson": (ml.models.zero_inflated_poisson, [1.0, 0.5, -0.4, -0.8], 1.0),
    "hurdle_poisson": (ml.models.hurdle_poisson, [1.0, 0.5, -0.4, 0.8], 1.0),
    "truncated_poisson": (ml.models.truncated_poisson, [0.8, 0.5, -0.4], 1.0),
}


def outcomes(build: Any, y: Any, X: Any) -> Any:
    """Return the likelihood with placeholder outcomes that its support allows and that vary."""
    placeholder = np.arange(len(X)) % 2.0
    if build is ml.models.hurdle_poisson:
        placeholder = np.arange(len(X)) % 3.0
    if build is ml.models.truncated_poisson:
        placeholder = 1.0 + placeholder
    return build(placeholder, X)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_default_starts_converge_on_simulated_samples(name: str) -> None:
    build, theta, outcome = MODELS[name]
    check_starts(partial(outcomes, build), np.array(theta), outcome)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ordered_logit", "ordered_probit", "multinomial_logit"])
def test_default_starts_converge_with_categories(name: str) -> None:
    rng = np.random.default_rng(3)
    failures = []
    for seed in range(100):
        X = rng.standard_normal((400, 2))
        noise = rng.logistic(size=400) if name != "ordered_probit" else rng.standard_normal(400)
        latent = X @ (np.array([0.8, -0.5]) + 0.2 * rng.standard_normal(2)) + noise
        y = np.digitize(latent, [-0.7, 0.6]).astype(float)
        design = np.column_stack([np.ones(400), X]) if name == "multinomial_logit" else X
        try:
            fit = ml.fit(getattr(ml.models, name)(y, design))
            if not fit.converged:
                failures.append(f"{seed}: {fit.record.criterion}")
        except MlecovError as error:
            failures.append(f"{seed}: {error}"[:200])
    assert not failures, f"{len(failures)} of 100: {failures[:5]}"
