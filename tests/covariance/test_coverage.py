"""Few clusters: CR2 and the cluster bootstrap cover nearer to nominal than CR0 (slow simulation)."""

import numpy as np
import pytest

import mlecov as ml
from tests.cases import load_case

GROUPS, SIZE, REPS = 10, 15, 400


@pytest.mark.slow
def test_with_ten_clusters_cr2_and_the_bootstrap_beat_cr0() -> None:
    rng = np.random.default_rng(2024)
    group = np.repeat(np.arange(GROUPS), SIZE)
    covered = {"CR0, normal": 0, "CR2, Satterthwaite": 0, "bootstrap-t": 0}
    for rep in range(REPS):
        x = rng.standard_normal(GROUPS)[group] + 0.5 * rng.standard_normal(len(group))
        y = 1 + x + rng.standard_normal(GROUPS)[group] + rng.standard_normal(len(group))
        fit = ml.fit(ml.models.gaussian(y, np.column_stack([np.ones(len(y)), x])))
        intervals = {
            "CR0, normal": fit.conf_int(cov=ml.Cluster(group, type="CR0")),
            "CR2, Satterthwaite": fit.conf_int(cov=ml.Cluster(group, type="CR2", df="satterthwaite")),
            "bootstrap-t": fit.conf_int(
                cov=ml.Bootstrap("cluster", group=group, reps=199, seed=rep, studentize=True, progress=False),
                kind="t",
            ),
        }
        for name, found in intervals.items():
            low, high = found.iloc[1]
            covered[name] += low <= 1.0 <= high
    rates = {name: count / REPS for name, count in covered.items()}
    error = 3 * np.sqrt(0.95 * 0.05 / REPS)
    assert rates["CR0, normal"] < 0.95 - error, rates
    assert abs(rates["CR2, Satterthwaite"] - 0.95) < error, rates
    assert abs(rates["bootstrap-t"] - 0.95) < abs(rates["CR0, normal"] - 0.95), rates


def test_lung_weibull_clustered_by_institution() -> None:
    """R survival's survreg(..., cluster(inst)): CR0, 18 institutions, no factor."""
    case = load_case("lung_weibull")
    data = case.data
    data["event"] = (data["status"] == 2).astype(float)
    known = data.dropna(subset=["inst"]) if data["inst"].isna().any() else data
    fit = ml.fit(ml.models.weibull("time ~ age + sex + ph_ecog", known, event="event"))
    found = fit.cov(ml.Cluster("inst", type="CR0"))
    expected = case.std_errors["cluster:inst"]
    labels = {"(Intercept)": "mu[Intercept]", "age": "mu[age]", "sex": "mu[sex]", "ph_ecog": "mu[ph_ecog]"}
    for name, label in labels.items():
        at = list(fit.params.index).index(label)
        assert found.bse[at] == pytest.approx(expected[name], rel=1e-8), name
