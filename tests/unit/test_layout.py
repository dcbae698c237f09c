"""Guards of the repository's shape: who may import whom, what leaks into the import space, what the wheel holds."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PORTIONS = ("core", "runtime", "generator", "client")
MAY_IMPORT = {
    "core": {"core"},
    "runtime": {"runtime", "core"},
    "client": {"client", "core"},
    "generator": {"generator", "runtime", "core", "client"},
    "backends": {"runtime", "core"},
}
CORE_MAY_LOAD = {"elastriton", "numpy", "numba"}
FORBIDDEN_IN_CORE = {"time", "threading", "asyncio", "torch", "triton_python_backend_utils", "tritonclient"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("portion", PORTIONS)
def test_no_portion_closes_the_namespace(portion: str) -> None:
    assert not (ROOT / portion / "elastriton" / "__init__.py").exists()
    assert (ROOT / portion / "elastriton" / portion / "__init__.py").is_file()
    assert (ROOT / portion / "elastriton" / portion / "py.typed").is_file()


@pytest.mark.parametrize("portion", MAY_IMPORT)
def test_imports_go_downwards_only(portion: str) -> None:
    for path in sources(portion):
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("elastriton.")}
        assert ours <= MAY_IMPORT[portion], f"{path.relative_to(ROOT)} imports {sorted(ours - MAY_IMPORT[portion])}"


def test_core_knows_no_clock_thread_torch_or_triton() -> None:
    for path in sources("core"):
        tops = {name.split(".")[0] for name in imports(path)}
        assert not tops & FORBIDDEN_IN_CORE, f"{path.relative_to(ROOT)} imports {sorted(tops & FORBIDDEN_IN_CORE)}"
        foreign = {top for top in tops if top not in sys.stdlib_module_names} - CORE_MAY_LOAD
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_only_the_seam_knows_pb_utils() -> None:
    knowing = {
        path.relative_to(ROOT).as_posix()
        for folder in (*PORTIONS, "backends")
        for path in sources(folder)
        if "triton_python_backend_utils" in imports(path)
    }
    assert knowing == {
        "runtime/elastriton/runtime/triton.py",
        "runtime/elastriton/runtime/metrics.py",
    }


def test_backends_are_thin_and_have_no_siblings() -> None:
    for folder in sorted((ROOT / "backends").iterdir()):
        files = [path.name for path in folder.iterdir() if path.name != "__pycache__"]
        assert files == ["model.py"], f"{folder.name} holds {files}: a sibling loses to site-packages on sys.path"
        assert len((folder / "model.py").read_text(encoding="utf-8").splitlines()) <= 100


def test_files_stay_small() -> None:
    everywhere = (*PORTIONS, "backends", "bench", "examples", "tests")
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for folder in everywhere for path in sources(folder)
    }
    too_long = {path.name: n for path, n in lengths.items() if n > 350}
    assert not too_long, f"split by meaning: {too_long}"
    product = [n for path, n in lengths.items() if path.relative_to(ROOT).parts[0] in PORTIONS]
    assert statistics.median(product) <= 120


def loaded_by(statement: str, cwd: Path) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd, timeout=120)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import elastriton.generator.cli", {"torch", "numpy", "tritonclient", "pydantic", "timm", "transformers"}),
        ("import elastriton.client", {"torch", "onnxruntime", "timm", "transformers", "pydantic"}),
        (
            "import elastriton.runtime.scheduling, elastriton.runtime.cascading, elastriton.runtime.images",
            {"torch", "timm", "transformers", "tritonclient", "pydantic"},
        ),
        ("import elastriton.generator.serve", {"torch", "numpy", "tritonclient", "pytriton"}),
    ],
)
def test_import_diet(statement: str, heavy: set[str], tmp_path: Path) -> None:
    assert not loaded_by(statement, tmp_path) & heavy


@pytest.mark.parametrize("name", [*PORTIONS, "backends", "tests", "model", "utils"])
def test_no_generic_name_leaks(name: str, tmp_path: Path) -> None:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is not None)"
    run = subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path, timeout=60)
    assert run.returncode == 0, f"{name} can be imported from anywhere"


def test_wheel_holds_the_tree_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=300, cwd=tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if name.endswith(".py")}
    tree = {path.relative_to(ROOT / portion).as_posix() for portion in PORTIONS for path in sources(portion)}
    backends = {f"elastriton/generator/{path.relative_to(ROOT).as_posix()}" for path in sources("backends")}
    assert inside == tree | backends
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"elastriton"}


def test_what_ships_stays_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    total = sum(path.stat().st_size for path in files if path.is_file())
    assert total < 25_000_000, f"the repository ships {total / 1e6:.1f} MB"
    unsafe = [path.name for path in files if path.suffix in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"}]
    assert not unsafe, f"no pickles: {unsafe}"
