"""The command line: the demo's numbers, formats, one clear line for bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mlecov as ml


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlecov", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_demo_prints_greenes_variances() -> None:
    done = run("demo")
    assert done.returncode == 0, done.stderr
    for number in ("46.16337", "44.25460", "100.51159", "15.6027"):
        assert number in done.stdout
    assert "probit of grade" in done.stdout and done.stderr == ""


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_compare_a_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    data = ml.load("spector")
    data.to_csv(path, index=False) if suffix == "csv" else data.to_parquet(path)
    done = run(
        "compare",
        str(path),
        "grade ~ gpa",
        "--model",
        "probit",
        "--cov",
        "oim,opg,robust",
        "--format",
        "json",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    fit = ml.fit(ml.models.probit("grade ~ gpa", data))
    np.testing.assert_allclose([row["robust"] for row in rows], fit.cov("robust").bse, rtol=1e-12)


@pytest.mark.parametrize("form", ["text", "html", "latex", "csv"])
def test_formats(form: str) -> None:
    done = run("compare", "spector", "grade ~ gpa + psi", "-m", "logit", "-f", form)
    assert done.returncode == 0 and "gpa" in done.stdout


def test_lists() -> None:
    assert "probit" in run("models").stdout and "spector" in run("datasets").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "nothing.csv", "y ~ x"], "there is no file nothing.csv"),
        (["compare", "spectre", "grade ~ gpa"], "spector"),
        (["compare", "spector", "grade ~ gpaa", "-m", "probit"], "Did you mean 'gpa'"),
        (["compare", "spector", "grade ~ gpa", "-m", "probitt"], "Did you mean 'probit'"),
        (["compare", "spector", "gpa ~ psi", "-m", "probit"], "must be 0 or 1"),
        (["compare", "spector", "grade ~ gpa", "-m", "probit", "-c", "robst"], "'robust'"),
    ],
)
def test_bad_input_gets_one_line_and_status_two(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
