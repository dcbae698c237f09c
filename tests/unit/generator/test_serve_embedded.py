"""Finding a tritonserver, its libpython, and assembling a backend directory; over made-up folders."""

from __future__ import annotations

import importlib.metadata
import sys
import sysconfig
from pathlib import Path

import pytest

from elastriton.core.errors import ConfigError
from elastriton.generator.serve import embedded
from elastriton.generator.serve.backends import assemble, find_backends, names
from elastriton.generator.serve.embedded import PYTHON, STUB, TritonServer, find_libpython, find_tritonserver

ROOT = Path(__file__).parents[3]
LIBPYTHON = f"libpython{PYTHON}.so.1.0"


def make_triton(root: Path, stub: Path) -> Path:
    """A made-up tritonserver below `root`, with a stub at `stub`; the path of its binary."""
    for file in ("bin/tritonserver", "backends/python/libtriton_python.so", "backends/python/utils.py"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(file)
    (root / stub).parent.mkdir(parents=True, exist_ok=True)
    (root / stub).write_bytes(b"\x7fELF" + LIBPYTHON.encode() + b"\0")
    return root / "bin/tritonserver"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_triton(tmp_path / "opt/tritonserver", Path("backends/python") / STUB)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    (tmp_path / "site-packages/nvidia_pytriton.libs").mkdir(parents=True)
    root = tmp_path / "site-packages/pytriton/tritonserver"
    return make_triton(root, Path("python_backend_stubs") / PYTHON / STUB)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded, "IMAGE", tmp_path / "no/image")
    monkeypatch.setattr(embedded, "_wheel", lambda: None)


@pytest.mark.usefixtures("nowhere")
def test_the_image_comes_before_the_wheel(monkeypatch: pytest.MonkeyPatch, image: Path, wheel: Path) -> None:
    monkeypatch.setattr(embedded, "_wheel", lambda: wheel)
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "1.26.4")
    assert find_tritonserver().binary == wheel
    monkeypatch.setattr(embedded, "IMAGE", image)
    assert find_tritonserver().binary == image
    assert find_tritonserver(wheel).binary == wheel


@pytest.mark.usefixtures("nowhere")
def test_a_missing_tritonserver_says_where_it_looked_and_what_to_do() -> None:
    with pytest.raises(
        ConfigError, match=r"no tritonserver found\nlooked at: .*no/image.*nvidia-pytriton.*\nhelp: pip"
    ):
        find_tritonserver()
    with pytest.raises(ConfigError, match=r"no tritonserver at nothing/here\nhelp: "):
        find_tritonserver(Path("nothing/here"))


def test_a_wheel_without_a_stub_for_this_python_lists_those_it_has(wheel: Path) -> None:
    stubs = wheel.parents[1] / "python_backend_stubs"
    (stubs / PYTHON).rename(stubs / "3.9")
    (stubs / "3.8").mkdir()
    with pytest.raises(ConfigError, match=rf"no stub for Python {PYTHON}; it has: 3\.8, 3\.9"):
        find_tritonserver(wheel)


def test_a_tritonserver_without_the_python_backend_is_refused(image: Path) -> None:
    (image.parents[1] / "backends/python/libtriton_python.so").unlink()
    with pytest.raises(ConfigError, match="no Python backend"):
        find_tritonserver(image)


@pytest.mark.parametrize(("version", "good"), [("1.26.4", True), ("2.0.0", False), ("2.3.1", False)])
def test_numpy_2_is_refused_with_the_wheel_only(
    version: str, good: bool, wheel: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: version)
    assert not find_tritonserver(image).from_wheel
    if good:
        assert find_tritonserver(wheel).from_wheel
    else:
        with pytest.raises(ConfigError, match=rf"numpy {version} is too new .*\nhelp: pip install 'numpy<2'"):
            find_tritonserver(wheel)


def test_libpython_is_found_where_pythons_keep_it(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_library_folders", lambda: [tmp_path / "empty", tmp_path])
    monkeypatch.setattr(embedded, "_ldconfig", lambda _name: None)
    server = find_tritonserver(image)
    with pytest.raises(ConfigError, match=rf"(?s){LIBPYTHON} not found.*apt-get install libpython{PYTHON}.*uv.*pyenv"):
        find_libpython(server)
    (tmp_path / LIBPYTHON).touch()
    assert find_libpython(server) == tmp_path / LIBPYTHON
    monkeypatch.setattr(embedded, "_library_folders", list)
    monkeypatch.setattr(embedded, "_ldconfig", lambda name: Path("/cached") / name)
    assert find_libpython(server) == Path("/cached") / LIBPYTHON


def test_this_pythons_own_folders_are_among_those(monkeypatch: pytest.MonkeyPatch) -> None:
    libdir = sysconfig.get_config_var("LIBDIR")
    monkeypatch.setattr(sys, "base_prefix", "/moved/python")
    folders = embedded._library_folders()
    assert folders[0] == Path(libdir)
    assert Path("/moved/python/lib") in folders, "uv and conda move a Python after it was built"


def test_ldconfig_is_asked_for_the_exact_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, program = tmp_path / LIBPYTHON, tmp_path / "ldconfig"
    library.touch()
    entries = [f"\t{name} (libc6,x86-64) => {tmp_path / name}\n" for name in (f"{LIBPYTHON}.1", LIBPYTHON)]
    (tmp_path / f"{LIBPYTHON}.1").touch()
    listing = "".join(entries)
    program.write_text(f"#!/bin/sh\nprintf '%s' '{listing}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded._ldconfig(LIBPYTHON) == library
    assert embedded._ldconfig("libpython3.so") is None


def test_a_stub_that_brings_its_libpython_needs_none(wheel: Path) -> None:
    bundled = b"libpython3-419a3a08.13.so.1.0"
    libraries = wheel.parents[3] / "nvidia_pytriton.libs"
    (libraries / bundled.decode()).touch()
    stub = wheel.parents[1] / "stub"
    stub.write_bytes(b"\0" + bundled + b"\0libpython3.13.so.1.0\0")
    assert find_libpython(TritonServer(wheel, wheel, stub, libraries)) is None


def test_a_stub_of_another_python_is_refused(image: Path) -> None:
    server = find_tritonserver(image)
    server.stub.write_bytes(b"\0libpython3.7m.so.1.0\0")
    with pytest.raises(ConfigError, match=rf"needs libpython3\.7m\.so\.1\.0, but this is Python {PYTHON}"):
        find_libpython(server)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    for name in ("elastic", "cascade"):
        (tmp_path / "ours" / name).mkdir(parents=True)
        (tmp_path / "ours" / name / "model.py").touch()
    (tmp_path / "ours/notes").mkdir()
    return tmp_path / "ours"


def test_backends_are_assembled_beside_tritons(wheel: Path, ours: Path, tmp_path: Path) -> None:
    assert names(ours) == ["cascade", "elastic"]
    (wheel.parents[1] / "backends/identity").mkdir()
    directory = assemble(find_tritonserver(wheel), find_backends(ours), tmp_path / "assembled")
    assert directory == tmp_path / "assembled"
    assert {entry.name for entry in directory.iterdir()} == {"python", "elastic", "cascade", "identity"}
    assert {entry.name for entry in (directory / "python").iterdir()} == {"libtriton_python.so", "utils.py", STUB}
    assert (directory / "python" / STUB).stat().st_mode & 0o111, "the stub is executable, whatever the installer did"
    assert not any(file.is_symlink() for file in (directory / "python").iterdir()), "Triton refuses linked libraries"


def test_an_image_that_has_ours_needs_no_assembling(image: Path, ours: Path, tmp_path: Path) -> None:
    server = find_tritonserver(image)
    assert assemble(server, ours, tmp_path / "first") == tmp_path / "first"
    for name in names(ours):
        (ours / name).rename(server.backends / name)
    (ours / "elastic").mkdir()
    (ours / "elastic/model.py").touch()
    assert assemble(server, ours, tmp_path / "second") == server.backends
    assert not (tmp_path / "second").exists()


def test_a_complete_backend_directory_is_taken_as_it_is(wheel: Path, image: Path, tmp_path: Path) -> None:
    complete = image.parents[1] / "backends"
    assert assemble(find_tritonserver(wheel), complete, tmp_path / "assembled") == complete


def test_ours_are_found_in_the_checkout() -> None:
    assert find_backends() == ROOT / "backends"


def test_a_folder_without_backends_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no folder with a model\.py in .*\nhelp: --backend-directory"):
        find_backends(tmp_path)
