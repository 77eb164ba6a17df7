"""Multinomial, conditional and mixed logit: closed forms, published cases, ragged choice sets, panels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy.special import chdtri

from mlecov.errors import DataError, IdentificationError, SpecificationError, SupportError
from mlecov.models.binary import logit
from mlecov.models.choice import ConditionalLogit, conditional_logit, multinomial_logit
from mlecov.models.choice_mixed import MixedLogit, mixed_logit
from mlecov.optimize import maximize
from tests.cases import load_case
from tests.models.common import check_model, extrapolated
from tests.models.reference import check_computed, check_errors, check_estimates

Array = npt.NDArray[np.float64]
MODES = ["beach", "pier", "boat", "charter"]


def check_whole(likelihood: Any, theta: Array, rtol: float = 1e-8) -> None:
    """Check scores and Hessian of whole parameters against extrapolated differences."""
    found = likelihood.evaluate(theta, order=2, scores=True)
    dense = found.scores.to_dense()
    np.testing.assert_allclose(found.scores.sum(), found.gradient, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(likelihood.evaluate(theta).loglike_obs, found.loglike_obs, rtol=1e-12)
    for j in range(len(theta)):

        def at(shift: float, j: int = j) -> Any:
            there = theta.copy()
            there[j] += shift
            return likelihood.evaluate(there, order=1)

        slope = extrapolated(lambda h: at(h).loglike_obs, 0.0, 0.05)
        np.testing.assert_allclose(dense[:, j], slope, rtol=rtol, atol=rtol * np.abs(dense).max())
        bend = extrapolated(lambda h: at(h).gradient, 0.0, 0.05)
        np.testing.assert_allclose(found.hessian[j], bend, rtol=rtol, atol=rtol * np.abs(found.hessian).max())


def test_multinomial_derivatives_simulation_and_recovery() -> None:
    X = np.column_stack([np.ones(4000), np.random.default_rng(101).normal(size=4000)])
    check_model(
        multinomial_logit(np.arange(4000) % 4, X), np.array([0.5, -0.8, -1.0, 0.2, -0.3, 0.4]), seed=3
    )


def test_two_categories_are_the_logit() -> None:
    X = np.column_stack([np.ones(300), np.random.default_rng(2).normal(size=300)])
    y = (X[:, 1] + np.random.default_rng(3).logistic(size=300) > 0).astype(float)
    np.testing.assert_allclose(
        maximize(multinomial_logit(y, X)).theta, maximize(logit(y, X)).theta, rtol=1e-10
    )


def test_anes_party_identification() -> None:
    case = load_case("anes96_mnlogit")
    columns = {"_cons": "Intercept"} | {
        name: name for name in ("logpopul", "selfLR", "age", "educ", "income")
    }
    entries = [key.split(":") for key in case.estimates]
    names = {f"{column}:{outcome}": f"mu.{outcome[3:]}[{columns[column]}]" for column, outcome in entries}
    optimum = maximize(multinomial_logit("PID ~ logpopul + selfLR + age + educ + income", case.data))
    assert optimum.likelihood.n_terms == case.raw["n"] and optimum.likelihood.space.k == case.raw["k"]
    check_estimates(optimum, case, names, 1e-6, 1e-6)
    check_errors(optimum, case.std_errors["hessian"], names, "oim", 1e-8)
    check_errors(optimum, case.std_errors["hessian"], names, "eim", 1e-8)
    check_computed(optimum, case, names, 1e-8)


def test_fishing_multinomial_logit() -> None:
    case = load_case("fishing_mnl")
    data = case.data.assign(income=case.data.income / 1000)
    names = {f"c_{mode}": f"mu.{mode}[Intercept]" for mode in MODES[1:]}
    names |= {f"inc_{mode}": f"mu.{mode}[income]" for mode in MODES[1:]}
    optimum = maximize(multinomial_logit("mode ~ income", data, base="beach"))
    check_estimates(optimum, case, names, 1e-10, 1e-9)
    check_errors(optimum, case.std_errors["hessian"], names, "oim", 1e-10)
    check_computed(optimum, case, names, 1e-8)


def test_the_base_changes_labels_alone() -> None:
    data = load_case("fishing_mnl").data
    one, two = (maximize(multinomial_logit("mode ~ income", data, base=base)) for base in ("beach", "boat"))
    np.testing.assert_allclose(one.evaluation.loglike, two.evaluation.loglike, rtol=1e-13)
    first = dict(zip(one.likelihood.space.labels, one.theta, strict=True))
    second = dict(zip(two.likelihood.space.labels, two.theta, strict=True))
    np.testing.assert_allclose(second["mu.beach[income]"], -first["mu.boat[income]"], rtol=1e-9)
    with pytest.raises(SpecificationError, match="base='plane' is not among"):
        multinomial_logit("mode ~ income", data, base="plane")


def fishing_long(data: pd.DataFrame) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "angler": np.arange(len(data)),
                "mode": mode,
                "chosen": (data["mode"] == mode) * 1.0,
                "price": data[f"p{mode}"],
                "catch": data[f"c{mode}"],
            }
        )
        for mode in MODES
    ]
    return pd.concat(parts).reset_index(drop=True)


def test_fishing_conditional_logit() -> None:
    case = load_case("fishing_clogit")
    optimum = maximize(conditional_logit("chosen ~ price + catch", fishing_long(case.data), unit="angler"))
    names = {"price": "mu[price]", "catch": "mu[catch]"}
    assert optimum.likelihood.n_terms == case.raw["n"]
    check_estimates(optimum, case, names, 1e-11, 1e-9)
    check_errors(optimum, case.std_errors["hessian"], names, "oim", 1e-10)
    check_errors(optimum, case.std_errors["hessian"], names, "eim", 1e-10)
    check_computed(optimum, case, names, 1e-8)


def test_greene_travel_mode_conditional_logit() -> None:
    case = load_case("greene_modechoice_clogit")
    data = case.data
    data = data.assign(
        air=(data["mode"] == 1) * 1.0, train=(data["mode"] == 2) * 1.0, bus=(data["mode"] == 3) * 1.0
    )
    data["hinc_air"] = data.hinc * data.air
    formula = "choice ~ air + train + bus + gc + ttme + hinc_air"
    columns = ("air", "train", "bus", "gc", "ttme", "hinc_air")
    names = dict(zip(case.estimates, [f"mu[{column}]" for column in columns], strict=True))
    optimum = maximize(conditional_logit(formula, data, unit="individual"))
    check_estimates(optimum, case, names, 4e-5, 5e-5)
    check_errors(optimum, case.std_errors["hessian"], names, "oim", 1.2e-4)
    check_computed(optimum, case, names, 1e-8)


def ragged(n: int, seed: int = 5) -> tuple[Array, Array, npt.NDArray[np.intp]]:
    """Return y, X and units of 1 to 5 alternatives, rows of units apart from each other."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(n), 1 + np.arange(n) % 5)
    y = np.r_[True, unit[1:] != unit[:-1]].astype(float)
    shuffled = rng.permutation(len(unit))
    return y[shuffled], rng.normal(size=(len(unit), 2))[shuffled], unit[shuffled]


def test_conditional_logit_of_ragged_sets() -> None:
    y, X, unit = ragged(60)
    likelihood, theta = conditional_logit(y, X, unit=unit), np.array([0.4, -0.7])
    check_whole(likelihood, theta)
    # the sum over units, written as a loop
    total = 0.0
    for i in range(60):
        v = X[unit == i] @ theta
        total += float(v[y[unit == i] == 1][0] - np.log(np.exp(v).sum()))
    np.testing.assert_allclose(likelihood.evaluate(theta).loglike, total, rtol=1e-13)


@pytest.mark.parametrize("order", [2])
def test_units_drawn_or_grouped_add_up(order: int) -> None:
    y, X, unit = ragged(40)
    panel = mixed_logit(y, X, unit=unit, random=["x1"], draws=20)
    plain = conditional_logit(y, X, unit=unit)
    for likelihood, theta in ((plain, np.array([0.4, -0.7])), (panel, np.array([0.4, -0.7, -0.3]))):
        whole = likelihood.evaluate(theta, order=order, scores=True)
        drawn = np.array([3, 0, 3, 17])
        part = likelihood.subset(drawn).evaluate(theta, order=order, scores=True)
        assert whole.loglike_obs is not None and part.loglike_obs is not None
        assert whole.scores is not None and part.scores is not None and whole.hessian is not None
        np.testing.assert_allclose(part.loglike_obs, whole.loglike_obs[drawn], rtol=1e-12)
        np.testing.assert_allclose(
            part.scores.to_dense(), whole.scores.to_dense()[drawn], rtol=1e-10, atol=1e-14
        )
        blocks = [b for _, b in likelihood.curvature_blocks(theta, np.arange(40) % 7, 7, "observed")]
        np.testing.assert_allclose(np.concatenate(blocks).sum(axis=0), -whole.hessian, rtol=1e-10)
        doubled = likelihood.evaluate(theta, order=2, weights=np.full(40, 2.0))
        np.testing.assert_allclose(doubled.hessian, 2 * whole.hessian, rtol=1e-12)


def check_units(likelihood: ConditionalLogit | MixedLogit, theta: Array, equality: bool = True) -> None:
    """Check score mean zero, information equality and recovery on outcomes drawn at theta."""
    drawn = likelihood.simulate(np.random.default_rng(9), theta)
    found = drawn.evaluate(theta, order=2, scores=True)
    assert found.scores is not None and found.hessian is not None
    s = found.scores.to_dense()
    assert (np.abs(s.mean(axis=0)) < 5 * s.std(axis=0) / np.sqrt(len(s))).all()
    if equality:
        spread = np.sqrt(((s[:, :, None] * s[:, None, :]) ** 2).sum(axis=0))
        assert (np.abs(s.T @ s + found.hessian) < 6 * spread).all()
    optimum = maximize(drawn)
    move = optimum.theta - theta
    assert move @ optimum.evaluation.information @ move < chdtri(len(theta), 1e-5)


def test_conditional_logit_simulation() -> None:
    y, X, unit = ragged(3000)
    check_units(conditional_logit(y, X, unit=unit), np.array([0.4, -0.7]))


def panel(persons: int, situations: int = 4, alternatives: int = 3) -> dict[str, Any]:
    n = persons * situations * alternatives
    return {
        "y": np.tile([1.0] + [0.0] * (alternatives - 1), persons * situations),
        "X": np.random.default_rng(8).normal(size=(n, 3)),
        "unit": np.repeat(np.arange(persons), situations * alternatives),
        "situation": np.tile(np.repeat(np.arange(situations), alternatives), persons),
    }


THETA = np.array([0.8, -0.5, 0.4, np.log(0.9), np.log(0.6)])


def mixed(persons: int, draws: int, **options: Any) -> MixedLogit:
    p = panel(persons)
    return mixed_logit(
        p["y"], p["X"], unit=p["unit"], situation=p["situation"], random=["x0", "x2"], draws=draws, **options
    )


def test_mixed_logit_derivatives_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    likelihood = mixed(30, 16).simulate(np.random.default_rng(1), THETA)
    check_whole(likelihood, THETA)
    whole = likelihood.evaluate(THETA, order=2)
    monkeypatch.setattr("mlecov.models.choice_mixed.BLOCK", 5000)
    parts = likelihood.evaluate(THETA, order=2)
    np.testing.assert_allclose(parts.hessian, whole.hessian, rtol=1e-11)
    np.testing.assert_allclose(parts.loglike_obs, whole.loglike_obs, rtol=1e-13)


def test_mixed_logit_is_the_mean_over_draws_of_products() -> None:
    likelihood = mixed(5, 7).simulate(np.random.default_rng(1), THETA)
    data, sd, found = likelihood.data, np.exp(THETA[3:]), likelihood.evaluate(THETA).loglike_obs
    assert found is not None
    for i in range(5):
        rows = slice(i * 12, (i + 1) * 12)
        x, y = data.matrix[rows], data.y[rows]
        total = 0.0
        for r in range(7):
            b = THETA[:3].copy()
            b[[0, 2]] += sd * likelihood.draws[i, r]
            odds = np.exp(x @ b).reshape(4, 3)
            total += np.prod((odds / odds.sum(axis=1, keepdims=True)).ravel()[y == 1])
        np.testing.assert_allclose(found[i], np.log(total / 7), rtol=1e-12)


@pytest.mark.parametrize("sequence", ["halton", "sobol"])
def test_mixed_logit_simulation(sequence: str) -> None:
    check_units(mixed(800, 64, sequence=sequence), THETA, equality=sequence == "halton")


def test_mixed_logit_at_zero_spread_is_the_conditional_logit() -> None:
    y, X, unit = ragged(200)
    both = mixed_logit(y, X, unit=unit, random=["x0"], draws=8)
    theta = np.array([0.4, -0.7])
    plain = conditional_logit(y, X, unit=unit).evaluate(theta)
    np.testing.assert_allclose(both.evaluate(np.append(theta, -30.0)).loglike, plain.loglike, rtol=1e-11)


def test_row_order_does_not_matter_to_a_panel() -> None:
    p = panel(20)
    first = mixed(20, 16)
    # persons keep their order of first appearance, rows and situations are shuffled
    order = np.concatenate([i * 12 + np.random.default_rng(i).permutation(12) for i in range(20)])
    second = mixed_logit(
        p["y"][order], p["X"][order], unit=p["unit"][order], situation=p["situation"][order],
        random=["x0", "x2"], draws=16,
    )  # fmt: skip
    np.testing.assert_allclose(
        second.evaluate(THETA).loglike_obs, first.evaluate(THETA).loglike_obs, rtol=1e-12
    )


def test_choices_that_are_none_are_refused() -> None:
    X, unit = np.arange(8.0).reshape(4, 2) ** 2, np.array([0, 0, 1, 1])
    with pytest.raises(SupportError, match="one row of each choice situation must be chosen; 1 situation"):
        conditional_logit(np.array([1, 1, 0, 1]), X, unit=unit)
    with pytest.raises(SupportError, match="must be 1 on the chosen row"):
        conditional_logit(np.array([1, 2, 0, 1]), X, unit=unit)
    with pytest.raises(SpecificationError, match="needs unit="):
        conditional_logit(np.array([1, 0, 0, 1]), X)
    with pytest.raises(IdentificationError, match="x1 do not vary within any choice situation"):
        conditional_logit(np.array([1, 0, 0, 1]), np.array([[1.0, 5], [2, 5], [3, 6], [1, 6]]), unit=unit)
    with pytest.raises(
        SpecificationError, match=r"random=\['price'\]; expected distinct columns among x0, x1"
    ):
        mixed_logit(np.array([1, 0, 0, 1]), X, unit=unit, random=["price"])
    with pytest.raises(SpecificationError, match="sequence='primes'"):
        mixed_logit(np.array([1, 0, 0, 1]), X, unit=unit, random=["x0"], sequence="primes")
    with pytest.raises(DataError, match="levels 'a'; expected two or more"):
        multinomial_logit(np.array(["a", "a"]), np.ones((2, 1)))


def test_a_person_drawn_twice_in_a_row_keeps_situations_apart() -> None:
    likelihood = mixed(6, 8)
    whole = likelihood.evaluate(THETA).loglike_obs
    drawn = np.array([3, 3, 0])
    assert whole is not None
    np.testing.assert_allclose(likelihood.subset(drawn).evaluate(THETA).loglike_obs, whole[drawn], rtol=1e-12)
    # with one situation a person, equal codes of the same person drawn twice meet at the border
    y, X, unit = ragged(12)
    single = mixed_logit(y, X, unit=unit, situation=unit, random=["x0"], draws=8)
    theta = np.array([0.4, -0.7, -0.3])
    alone = single.evaluate(theta).loglike_obs
    drawn = np.array([4, 4, 4, 1])
    assert alone is not None
    np.testing.assert_allclose(single.subset(drawn).evaluate(theta).loglike_obs, alone[drawn], rtol=1e-12)
