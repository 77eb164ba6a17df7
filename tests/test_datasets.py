"""The shipped data sets, and the reference cases that stand on them."""

from __future__ import annotations

import csv
import importlib
import json
import keyword
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlecov.errors import DataError
from tests.cases import REFERENCE, case_names, load_case

datasets = importlib.import_module("mlecov.datasets")  # the package exports a function of that name

TABLE = datasets.datasets().set_index("name")
NAMES = list(TABLE.index)
CASES = case_names()
RAW = {name: json.loads((REFERENCE / name / "case.json").read_text(encoding="utf-8")) for name in CASES}
MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users)/")


def documented_columns(name: str) -> list[str]:
    """Return the columns that the README of a data set explains, in its order."""
    text = (datasets.path(name) / "README.md").read_text(encoding="utf-8")
    section = text.split("## Variables\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `([^`]+)` \|[^|]*\| *[^| ][^|]*\|$", section, flags=re.MULTILINE)


def test_there_are_at_least_fifteen_and_each_is_in_the_index() -> None:
    index = (datasets.path("greene").parent / "README.md").read_text(encoding="utf-8")
    entries = re.findall(r"^\| \[(\w+)\]\(\w+/README.md\) \| (\d+) \|", index, re.MULTILINE)
    listed = {name: int(rows) for name, rows in entries}
    assert len(NAMES) >= 15
    assert listed == TABLE["rows"].to_dict()


@pytest.mark.parametrize("name", NAMES)
def test_data_set_is_whole(name: str) -> None:
    frame = datasets.load(name)
    assert len(frame) == TABLE.loc[name, "rows"]
    assert ", ".join(frame.columns) == TABLE.loc[name, "columns"]
    assert not frame.isna().to_numpy().any()
    # Arguments of a likelihood are matched to columns by name, so a name must be able to be an argument.
    assert all(column.isidentifier() and not keyword.iskeyword(column) for column in frame.columns)
    assert (datasets.path(name) / "data.csv").stat().st_size < 2_000_000


@pytest.mark.parametrize("name", NAMES)
def test_readme_says_what_a_reader_needs(name: str) -> None:
    text = (datasets.path(name) / "README.md").read_text(encoding="utf-8")
    assert all(TABLE.loc[name, key] for key in ("title", "source", "licence"))
    assert re.findall("^## (.*)$", text, re.MULTILINE) == ["Variables", "Papers", "Reference values"]
    assert re.search(r"## Papers\n\n- \S", text)
    assert documented_columns(name) == list(datasets.load(name).columns)
    assert MACHINE.search(text) is None


@pytest.mark.parametrize("name", NAMES)
def test_readme_quotes_its_reference_cases(name: str) -> None:
    text = (datasets.path(name) / "README.md").read_text(encoding="utf-8").split("## Reference values")[1]
    cases = {case: raw["estimates"] for case, raw in RAW.items() if raw.get("dataset") == name}
    assert cases
    assert set(re.findall(r"^### .*\(`(\w+)`\)$", text, re.MULTILINE)) == set(cases)
    for case, estimates in cases.items():
        for parameter, value in estimates.items():
            label = re.escape(f"`{parameter}`".replace("|", "\\|"))
            quoted = [float(number) for number in re.findall(rf"^\| {label} \| (\S+) \|", text, re.MULTILINE)]
            assert min(abs(np.array(quoted) - value)) <= 1e-7 * abs(value), (case, parameter)


def test_each_call_returns_its_own_frame() -> None:
    first = datasets.load("greene")
    first["income"] = 0.0
    assert datasets.load("greene")["income"].min() == 6.42


def test_numbers_are_the_nearest_doubles_and_kinds_are_kept(tmp_path: Path) -> None:
    file = datasets.path("innovation") / "data.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        texts = [row["sales"] for row in csv.DictReader(lines)]
    frame = datasets.load("innovation")
    assert frame["sales"].tolist() == [float(text) for text in texts]
    assert frame["cites"].dtype == np.int64
    assert frame["company"].iloc[0] == "3COM CORP"
    (tmp_path / "data.csv").write_text('a,b,c\n1,2.0,NA\n2,3.5,"x, y"\n', encoding="utf-8")
    small = datasets.read(tmp_path / "data.csv")
    assert [small["a"].dtype, small["b"].dtype] == [np.int64, np.float64]
    assert small["c"].tolist() == ["NA", "x, y"]


@pytest.mark.parametrize("line", ["3", "3,4,5"])
def test_a_ragged_file_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "data.csv").write_text(f"a,b\n1,2\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="argument 2 is"):
        datasets.read(tmp_path / "data.csv")


def test_categories_keep_the_order_of_the_readme() -> None:
    housing = datasets.load("housing")
    assert housing["sat"].cat.categories.tolist() == ["Low", "Medium", "High"]
    assert housing["sat"].cat.ordered
    assert housing["type"].cat.categories.tolist() == ["Tower", "Apartment", "Atrium", "Terrace"]
    assert not housing["type"].cat.ordered
    assert datasets.load("biochemists")["mar"].cat.categories[0] == "Single"


@pytest.mark.parametrize("name", ["spectra", "", "../tests", "README.md"])
def test_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(DataError, match=rf"no data set '{re.escape(name)}'.*affairs.*wpi1"):
        datasets.load(name)


def make(root: Path, name: str) -> None:
    """Write a data set of one row, and the index that marks the folder as ours."""
    (root / name).mkdir(parents=True)
    (root / "README.md").write_text("# Data sets\n", encoding="utf-8")
    (root / name / "data.csv").write_text("a\n1\n", encoding="utf-8")
    (root / name / "README.md").write_text("# One\n\n- source: s\n- licence: l\n\nText.\n", encoding="utf-8")


def test_wheel_comes_before_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mlecov"
    package.mkdir()
    monkeypatch.setattr(datasets, "_PACKAGE", package)
    (tmp_path / "datasets").mkdir()  # a stranger's: has no index
    with pytest.raises(DataError, match="installation is incomplete"):
        datasets.datasets()
    make(tmp_path / "datasets", "in_checkout")
    assert datasets.datasets()["name"].tolist() == ["in_checkout"]
    make(package / "_datasets", "in_wheel")
    assert datasets.load("in_wheel")["a"].tolist() == [1]
    with pytest.raises(DataError, match="in_wheel"):
        datasets.path("in_checkout")


# Terms of the log-likelihood where they are not the rows of the data.
TERMS: dict[str, Callable[[pd.DataFrame], int]] = {
    "greene_modechoice_clogit": lambda data: data["individual"].nunique(),
    "hamilton_gnp": lambda data: len(data) - 4,
    "klein_fiml": lambda data: len(data) - 1,
    "sleepstudy_lmm": lambda data: data["subject"].nunique(),
    "stata_arima_airline": lambda data: len(data) - 13,
    "stata_arima_wpi1": lambda data: len(data) - 1,
    "stata_arima_wpi1_seasonal": lambda data: len(data) - 1,
    "stata_tnbreg": lambda data: int((data["docvis"] > 0).sum()),
    "stata_tpoisson": lambda data: int((data["docvis"] > 0).sum()),
}


@pytest.mark.parametrize("name", CASES)
def test_case_is_whole(name: str) -> None:
    case = load_case(name)
    assert case.name == name
    assert len(case.data) == case.raw["rows"]
    assert TERMS.get(name, len)(case.data) == case.raw["n"]
    assert not case.data.isna().to_numpy().any()
    assert np.isfinite(case.theta).all()
    assert 0 < len(case.theta) <= case.raw["k"]
    for estimator, printed in case.std_errors.items():
        assert printed.keys() <= case.estimates.keys(), estimator
        values = np.array(list(printed.values()))
        assert np.isfinite(values).all() and (values >= 0).all(), estimator
    assert case.source and case.raw["published_provenance"] and case.raw["licence"]


@pytest.mark.parametrize("name", CASES)
def test_case_stands_alone(name: str) -> None:
    text = (REFERENCE / name / "case.json").read_text(encoding="utf-8")
    assert MACHINE.search(text) is None
    assert "data_file" not in text
    assert ("dataset" in RAW[name]) != (REFERENCE / name / "data.csv").exists()


def test_selection_by_prefix() -> None:
    assert case_names("strikes") == ["strikes_exponential", "strikes_greene", "strikes_weibull"]
    assert len(CASES) >= 70
    assert np.isnan(load_case("hamilton_gnp").bse("hessian")).tolist() == [False] * 4 + [True] + [False] * 4


def test_data_without_a_registry_source_stay_out() -> None:
    assert not {"frontier41_eg1", "laurent_aparch"} & set(CASES)


# The data give the printed numbers by arithmetic that shares nothing with the package.


def test_greene_gives_the_three_printed_variances() -> None:
    case = load_case("greene_exponential")
    y, scale = case.data["income"].to_numpy(), case.theta[0] + case.data["educ"].to_numpy()
    score = y / scale**2 - 1 / scale
    assert abs(score.sum()) < 1e-12
    curvature = (2 * y / scale**3 - 1 / scale**2).sum()
    variances = {
        "hessian": 1 / curvature,
        "expected_information": 1 / (scale**-2).sum(),
        "opg": 1 / (score**2).sum(),
    }
    for estimator, printed in case.raw["published_variances"].items():
        assert f"{variances[estimator]:.7g}" == f"{printed:.7g}"


@pytest.mark.parametrize("name", ["spector_logit", "spector_logit_R"])
def test_spector_has_a_zero_score_at_the_logit_estimates(name: str) -> None:
    case = load_case(name)
    if name == "spector_logit":  # Stata held this column in single precision, see the notes of the case
        case.data["gpa"] = case.data["gpa"].astype(np.float32).astype(np.float64)
    regressors = [case.data[name] if name in case.data else np.ones(32) for name in case.estimates]
    design = np.column_stack(regressors)
    residual = case.data["grade"].to_numpy() - 1 / (1 + np.exp(-design @ case.theta))
    assert np.abs(design.T @ residual).max() < 5e-9


def test_dmbp_gives_the_benchmark_loglikelihood() -> None:
    case = load_case("fcp_garch")
    mu, omega, alpha, beta = case.theta
    squared = (case.data["y"].to_numpy() - mu) ** 2
    loglik, variance, previous = 0.0, squared.mean(), squared.mean()
    for now in squared:
        variance, previous = omega + alpha * previous + beta * variance, now
        loglik -= 0.5 * (np.log(2 * np.pi) + np.log(variance) + now / variance)
    assert case.loglik is not None
    assert abs(loglik / case.loglik - 1) < 1e-13


def test_petersen_gives_the_least_squares_coefficients() -> None:
    case = load_case("petersen")
    design = np.column_stack([np.ones(5000), case.data["x"]])
    coefficients = np.linalg.lstsq(design, case.data["y"].to_numpy(), rcond=None)[0]
    assert np.abs(coefficients / case.theta - 1).max() < 1e-12
