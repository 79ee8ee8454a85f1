"""The design's house, read from the sources: who may import whom, and what every file keeps."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for package in ("cnnjax", "experiments") for path in (ROOT / package).rglob("*.py")
)

# docs/design.md: a module imports only from rows above its own, that is of a smaller number.
ROWS = {
    "cnnjax.geometry": 0,
    "cnnjax.receptive_field": 0,
    "cnnjax.files": 0,
    "cnnjax.ops": 1,
    "cnnjax.analysis": 2,
    "cnnjax.pattern": 4,
    "cnnjax.models": 3,
    "cnnjax.surgery": 4,
    "cnnjax.weights": 4,
    "cnnjax.data": 4,
    "cnnjax.training": 5,
    "cnnjax.stats": 5,
    "experiments": 6,
}
# The one pair that shares a row: a receptive field is arithmetic on windows.
WITHIN_A_ROW = {("cnnjax.receptive_field", "cnnjax.geometry")}
# The first row that may import a library; those below it may too.
LIBRARY_ROWS = {
    "flax": 3,
    "safetensors": 4,
    "huggingface_hub": 4,
    "tensorflow_datasets": 4,
    "grain": 4,
    "mlxtend": 4,
    # Checkpoints of weights alone are in row 4, those of a run in row 5.
    "orbax": 4,
    "optax": 5,
    "scipy": 5,
    "absl": 6,
    "matplotlib": 6,
}
NEVER_IN_CNNJAX = {"absl", "matplotlib", "experiments", "torch", "tensorflow"}
MOST_LINES = 400

each_source = pytest.mark.parametrize(
    "path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES]
)


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path):
    """Full names that a source imports, at its top or inside a function."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            # `from cnnjax import ops` imports cnnjax.ops; a class's name does no harm.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(name):
    """The room of the house that a module lives in; the entrance `cnnjax` itself is none."""
    top, *rest = name.split(".")
    if top == "experiments":
        return "experiments"
    return f"cnnjax.{rest[0]}" if top == "cnnjax" and rest else None


def public_names(path):
    """The literal __all__ of a source, None where it has none or computes it."""
    for node in parse(path).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            try:
                return ast.literal_eval(node.value)
            except ValueError:
                return None
    return None


def breaches(path):
    """What in a source breaks the rules of who imports whom, one sentence a breach."""
    own = room(module_name(path))
    row = ROWS[own] if own else -1
    for name in imported(path):
        library, other = name.split(".")[0], room(name)
        if own != "experiments" and library in NEVER_IN_CNNJAX:
            yield f"{own} must never import {library}"
        if library in LIBRARY_ROWS and row < LIBRARY_ROWS[library]:
            yield f"{own} (row {row}) imports {library} (row {LIBRARY_ROWS[library]})"
        if other and other != own and (own, other) not in WITHIN_A_ROW and ROWS[other] >= row:
            yield f"{own} (row {row}) imports {other} (row {ROWS[other]})"


@each_source
def test_module_has_a_row(path):
    own = room(module_name(path))
    assert own is None or own in ROWS, f"{own} has no row: give it one in docs/design.md and here"


@each_source
def test_module_imports_only_from_rows_above_its_own(path):
    assert not list(breaches(path))


@pytest.mark.parametrize(
    ("module", "source", "breach"),
    [
        ("cnnjax/ops/new.py", "from cnnjax import models", "imports cnnjax.models (row 3)"),
        ("cnnjax/ops/new.py", "def f():\n  from ..models import stack", "imports cnnjax.models"),
        ("cnnjax/models/new.py", "import cnnjax.training.loop", "imports cnnjax.training (row 5)"),
        ("cnnjax/data/new.py", "from cnnjax.weights import x", "imports cnnjax.weights (row 4)"),
        ("cnnjax/ops/new.py", "import flax.linen as nn", "imports flax (row 3)"),
        ("cnnjax/training/new.py", "from absl import flags", "must never import absl"),
        ("cnnjax/stats.py", "import experiments.report", "must never import experiments"),
        ("cnnjax/data/new.py", "import tensorflow as tf", "must never import tensorflow"),
        ("cnnjax/__init__.py", "from cnnjax import ops", "imports cnnjax.ops (row 1)"),
    ],
)
def test_breach_is_found(monkeypatch, tmp_path, module, source, breach):
    # A checker that finds nothing would let every source pass.
    path = tmp_path / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert any(breach in found for found in breaches(path))


@each_source
def test_module_has_a_docstring(path):
    assert ast.get_docstring(parse(path))


@each_source
def test_public_names_exist(path):
    if any(name.split(".")[0] == "torch" for name in imported(path)):
        pytest.importorskip("torch", reason="PyTorch is the peer of the benchmarks: cnnjax[torch]")
    module = importlib.import_module(module_name(path))
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert not [name for name in names if not hasattr(module, name)]


@each_source
def test_public_functions_and_classes_have_docstrings(path):
    names = public_names(path) or []
    undocumented = [
        node.name
        for node in parse(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and node.name in names
        and not ast.get_docstring(node)
    ]
    assert not undocumented


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if room(module_name(path)) not in (None, "experiments")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_library_module_says_what_is_public(path):
    private = path.name.startswith("_") and path.name != "__init__.py"
    assert private or public_names(path) is not None


@each_source
def test_arguments_are_never_checked_by_assert(path):
    lines = [node.lineno for node in ast.walk(parse(path)) if isinstance(node, ast.Assert)]
    assert not lines, f"assert vanishes under -O and teaches nobody: lines {lines}"


@each_source
def test_file_is_short_enough_to_be_read_at_once(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def modules_loaded_by(statement):
    program = f"import sys\n{statement}\nprint(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_operations_loads_neither_flax_nor_datasets_nor_checkpoints():
    loaded = modules_loaded_by("import cnnjax.ops")
    assert "jax" in loaded
    heavy = {"flax", "tensorflow_datasets", "tensorflow", "orbax", "optax", "grain", "torch"}
    assert not loaded & (heavy | {"matplotlib", "experiments"})


def test_importing_the_package_or_its_geometry_loads_no_jax():
    assert "jax" not in modules_loaded_by("import cnnjax, cnnjax.geometry")


def test_constraints_hold_no_address():
    # A package index is the user's own choice, and its address may carry a secret.
    assert "://" not in (ROOT / "constraints.txt").read_text(encoding="utf-8")
