"""The command line over the public face: demo, compare, datasets, models."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import mlecov as ml
from mlecov import autodiff
from mlecov.errors import DataError, MlecovError, SpecificationError, suggestion
from mlecov.lazy import lazy

pd = lazy("pandas")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Maximum likelihood with every covariance estimator, side by side.",
)

Format = Annotated[str, typer.Option("--format", "-f", help="text, html, latex, csv or json.")]


def greene_loglike(income: Any, educ: Any, beta: Any) -> Any:
    """Return Greene's exponential log-likelihood contributions (n,): mean beta + educ."""
    return -autodiff.jnp().log(beta + educ) - income / (beta + educ)


@app.command()
def demo(form: Format = "text") -> None:
    """Greene's exponential regression, written by hand, then Spector and Mazzeo's probit."""
    typer.echo("Greene, Econometric Analysis: income exponential with mean beta + educ, 20 observations.")
    typer.echo("The variance of beta by three estimators (published: 46.16337, 44.2546, 100.5116):\n")
    likelihood = ml.likelihood(
        greene_loglike,
        data=ml.load("greene"),
        params={"beta": 1.0},
        information=lambda educ, beta: [[float(((beta + educ) ** -2.0).sum())]],
        name="Greene's exponential regression",
    )
    fit = ml.fit(likelihood)
    for name in ("oim", "eim", "opg"):
        covariance = fit.cov(name)
        typer.echo(f"  {name:4s} {covariance.user[0, 0]:.5f}   {covariance.label}")
    typer.echo("")
    typer.echo(fit.compare(["oim", "eim", "opg", "robust", "HC1", "bw"]).render(form))
    typer.echo("\nSpector and Mazzeo (1980): probit of grade, 32 students.\n")
    probit = ml.fit(ml.models.probit("grade ~ gpa + tuce + psi", ml.load("spector")))
    typer.echo(probit.compare(["oim", "eim", "opg", "robust", "HC1", "bw"]).render(form))


@app.command()
def compare(
    data: Annotated[str, typer.Argument(help="A CSV or Parquet file, or the name of a shipped data set.")],
    formula: Annotated[str, typer.Argument(help='For example "y ~ x1 + x2".')],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A ready-made model (mlecov models).")
    ] = "gaussian",
    cov: Annotated[
        str,
        typer.Option("--cov", "-c", help="Estimators, separated by commas; cluster:COLUMN clusters."),
    ] = "",
    missing: Annotated[str, typer.Option(help="raise or drop.")] = "raise",
    form: Format = "text",
) -> None:
    """Fit a ready-made model and print its covariance estimators side by side."""
    known = ml.models.names()
    if model not in known:
        raise SpecificationError(f"model {model!r} is not known.{suggestion(model, known)}")
    likelihood = getattr(ml.models, model)(formula, read(data), missing=missing)
    fit = ml.fit(likelihood)
    requests = [request(text) for text in cov.split(",") if text.strip()] or None
    typer.echo(fit.compare(requests).render(form))


def request(text: str) -> Any:
    """Return the covariance that one word of --cov asks for."""
    name, _, columns = text.strip().partition(":")
    if name in ("cluster", "clustered") and columns:
        return ml.Cluster(*columns.split("+"))
    return name


def read(source: str) -> Any:
    """Return the frame of a CSV or Parquet file or of a shipped data set.

    Raises
    ------
    DataError
        Where there is no such file or data set, or it can not be read.
    """
    path = Path(source)
    if path.suffix.lower() in (".parquet", ".pq", ".csv", ".txt", ".tsv"):
        if not path.exists():
            raise DataError(f"there is no file {source}.")
        try:
            if path.suffix.lower() in (".parquet", ".pq"):
                return pd.read_parquet(path)
            return pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",")
        except Exception as error:
            raise DataError(f"{source} can not be read: {error}") from None
    return ml.load(source)


@app.command()
def datasets(form: Format = "text") -> None:
    """List the shipped data sets."""
    table = ml.datasets()
    if form == "json":
        typer.echo(table.to_json(orient="records", indent=2))
    elif form == "csv":
        typer.echo(table.to_csv(index=False).rstrip("\n"))
    else:
        for row in table.to_dict("records"):
            typer.echo(f"{row['name']:14s} {row['rows']:6d} rows  {row['title']}")


@app.command()
def models() -> None:
    """List the ready-made models."""
    for name in ml.models.names():
        line = (getattr(ml.models, name).__doc__ or "").strip().splitlines()[0]
        typer.echo(f"{name:24s} {line.removeprefix('Return the likelihood of ').strip()}")


def main() -> None:
    """Run the command line; bad input gets one clear line and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    try:
        app()
    except MlecovError as error:
        typer.echo(f"mlecov: {' '.join(str(error).split())}", err=True)
        raise SystemExit(2) from None
