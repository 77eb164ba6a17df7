"""The layer table of the package: imports go down only, heavy libraries stay in their homes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mlecov"

# Each entry may import those above it (and its own package); siblings on one line may not import each other.
LEVELS: list[tuple[str, ...]] = [
    ("errors", "lazy", "links", "special_coefficients"),
    ("parallel", "linalg", "vectorize", "autodiff", "kindbase", "rendering"),
    ("special_cores", "matrix", "kinds_vector"),
    ("functions", "kinds"),
    ("accurate", "expressions"),
    ("parameters", "data", "terms"),
    ("likelihood",),
    ("factors", "optimum"),
    ("formulas",),
    ("separable", "streaming"),
    ("engines",),
    ("declare", "optimize", "covariance", "models"),
    ("batch",),
    ("inference",),
    ("diagnostics",),
    ("summary",),
    ("ecosystem", "joint", "montecarlo", "compare"),
    ("storage", "check"),
    ("result",),
    ("fit",),
    ("datasets",),
    ("interop", "least_squares", "plots"),
    ("__init__",),
    ("cli",),
    ("__main__",),
]

HOMES = {
    "jax": {"autodiff"},
    "tabmat": {"likelihood/design", "factors", "formulas"},
    "formulaic": {"formulas"},
    "narwhals": {"data"},
    "matplotlib": {"plots"},
    "statsmodels": {"interop", "summary"},
    "pyarrow": {"likelihood/chunked_source"},
    "dask": {"likelihood/chunked_dask"},
    "distributed": {"likelihood/chunked_dask"},
}


def modules() -> dict[str, Path]:
    return {str(p.relative_to(PACKAGE).with_suffix("")): p for p in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return module.split("/")[0]


def imported(path: Path) -> set[str]:
    """Return every module named by an import or by lazy("...")."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("lazy", "importlib.import_module")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(str(node.args[0].value))
    return found


def level(name: str) -> int:
    return next(i for i, names in enumerate(LEVELS) if name in names)


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module: str) -> None:
    own = room(module)
    known = {name for names in LEVELS for name in names}
    assert own in known, f"{own} has no place in the layer table"
    for target in imported(modules()[module]):
        parts = target.split(".")
        if parts[0] != "mlecov" or len(parts) < 2 or parts[1] not in known or parts[1] == own:
            continue
        assert level(parts[1]) < level(own), f"{module} imports {target}: that is not below it"


@pytest.mark.parametrize("module", modules())
def test_heavy_libraries_stay_in_their_homes(module: str) -> None:
    for target in imported(modules()[module]):
        library = target.split(".")[0]
        if library in HOMES:
            homes = HOMES[library]
            assert module in homes or room(module) in homes, f"{module} imports {target}; its home is {homes}"


def test_import_is_light() -> None:
    heavy = [
        "jax",
        "dask",
        "matplotlib",
        "statsmodels",
        "scipy.stats",
        "scipy.optimize",
        "tabmat",
        "formulaic",
    ]
    code = f"import sys, mlecov; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_no_bare_allclose_and_no_empty_tests() -> None:
    """A comparison whose result nobody reads asserts nothing; so does a test without an assertion."""
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                name = ast.unparse(node.value.func)
                assert not (name.endswith("allclose") and "assert" not in name), f"{path}:{node.lineno}"


def test_no_module_shadows_a_model() -> None:
    """Importing mlecov.models.X as a module would put the module in the place of the model X."""
    names = {path.stem for path in (PACKAGE / "models").glob("*.py")}
    models = (PACKAGE / "models" / "__init__.py").read_text(encoding="utf-8")
    tree = ast.parse(models)
    homes = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "HOMES"
    )
    assert not names & set(ast.literal_eval(homes)), "a module bears a model's name"  # type: ignore[arg-type]
