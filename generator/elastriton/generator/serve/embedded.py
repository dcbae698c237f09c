"""Find a tritonserver, and the shared library of Python that its stubs need.

Triton's Python backend runs each model instance in a `stub`: a program built for one minor version of Python, which
loads that version's libpython and then the environment of the first `python3` on PATH.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from elastriton.core.errors import ConfigError

IMAGE = Path("/opt/tritonserver/bin/tritonserver")  # NVIDIA's container image
INSTALL = "pip install 'elastriton[server]'"
STUB = "triton_python_backend_stub"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class TritonServer:
    """A tritonserver on this machine, whose Python backend fits this interpreter."""

    binary: Path
    backends: Path  # holds `python/`: the backend's shared library and its utilities
    stub: Path
    libraries: Path | None  # the wheel's own shared libraries; an image has them where the loader looks

    @property
    def from_wheel(self) -> bool:
        return self.libraries is not None


def find_tritonserver(path: Path | None = None) -> TritonServer:
    """The tritonserver at `path`; without one that of NVIDIA's image, or else that of the wheel nvidia-pytriton."""
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"no tritonserver at {path}\nhelp: leave --tritonserver out, or {INSTALL}")
        server = _describe(path.resolve())
    else:
        wheel = _wheel()
        found = next((binary for binary in (IMAGE, wheel) if binary is not None and binary.is_file()), None)
        if found is None:
            looked = wheel if wheel is not None else f"the package nvidia-pytriton (not installed in {sys.prefix})"
            raise ConfigError(
                f"no tritonserver found\nlooked at: {IMAGE}; {looked}\nhelp: {INSTALL}, or --tritonserver PATH"
            )
        server = _describe(found)
    if server.from_wheel:
        _check_numpy()
    return server


def find_libpython(server: TritonServer) -> Path | None:
    """The libpython that the server's stub loads; None where the stub brings its own."""
    names = re.findall(rb"libpython3[\w.-]*?\.so[.\d]*", server.stub.read_bytes())
    wanted = {name.decode() for name in names}
    if not wanted or (server.libraries is not None and any((server.libraries / name).is_file() for name in wanted)):
        return None
    name = sorted(wanted)[0]
    if not name.startswith(f"libpython{PYTHON}."):
        raise ConfigError(
            f"{server.stub} needs {name}, but this is Python {PYTHON}\n"
            f"help: install elastriton in the Python that this Triton was built for, or {INSTALL}"
        )
    folders = _library_folders()
    found = next((folder / name for folder in folders if (folder / name).is_file()), None) or _ldconfig(name)
    if found is not None:
        return found
    raise ConfigError(
        f"{name} not found: this Python ({sys.executable}) is linked statically, and Triton's stub needs the library\n"
        f"looked at: {', '.join(map(str, folders))} and the cache of ldconfig\n"
        f"help: Debian, Ubuntu: apt-get install libpython{PYTHON}; uv: uv python install {PYTHON}; "
        f"pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {PYTHON}"
    )


def _wheel() -> Path | None:
    """Where nvidia-pytriton keeps its tritonserver; found without importing the package."""
    try:
        spec = importlib.util.find_spec("pytriton")
    except ValueError:
        return None
    return Path(spec.origin).parent / "tritonserver/bin/tritonserver" if spec is not None and spec.origin else None


def _describe(binary: Path) -> TritonServer:
    root = binary.parent.parent
    backends, stubs = root / "backends", root / "python_backend_stubs"
    if not (backends / "python/libtriton_python.so").is_file():
        raise ConfigError(f"{binary} has no Python backend: nothing in {backends / 'python'}\nhelp: {INSTALL}")
    if not stubs.is_dir():
        stub, libraries, present = backends / "python" / STUB, None, "none"
    else:
        stub, libraries = stubs / PYTHON / STUB, root.parents[1] / "nvidia_pytriton.libs"
        present = ", ".join(sorted((folder.name for folder in stubs.iterdir()), key=_minor))
    if not stub.is_file():
        raise ConfigError(f"{binary} has no stub for Python {PYTHON}; it has: {present}\nhelp: use such a Python")
    return TritonServer(binary, backends, stub, libraries)


def _minor(version: str) -> int:
    return int(version.rpartition(".")[2])


def _check_numpy() -> None:
    """The wheel's stubs are of Triton 24.10: with numpy 2 they answer with empty tensors, and say nothing."""
    try:
        version = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(f"numpy is not installed in {sys.prefix}: Triton's stubs need it\nhelp: {INSTALL}") from None
    if int(version.split(".")[0]) >= 2:
        raise ConfigError(
            f"numpy {version} is too new for the Triton 24.10 of nvidia-pytriton: every output would come back empty\n"
            "help: pip install 'numpy<2'"
        )


def _library_folders() -> list[Path]:
    """Where Pythons keep their libpython: uv, pyenv and conda under their prefix, distributions in system folders."""
    libdir, multiarch = (str(value or "") for value in sysconfig.get_config_vars("LIBDIR", "MULTIARCH"))
    folders = [libdir, f"{libdir}/{multiarch}", f"{sys.base_prefix}/lib", f"/usr/lib/{multiarch}"]
    folders += ["/usr/lib64", "/usr/lib", "/usr/local/lib"]
    return list(dict.fromkeys(Path(folder) for folder in folders if folder.startswith("/")))


def _ldconfig(name: str) -> Path | None:
    program = shutil.which("ldconfig", path=os.pathsep.join([os.environ.get("PATH", ""), "/sbin", "/usr/sbin"]))
    if program is None:
        return None
    listing = subprocess.run([program, "-p"], capture_output=True, text=True, check=False).stdout
    found = re.search(rf"^\s*{re.escape(name)} .*=> (.+)$", listing, re.MULTILINE)
    path = Path(found.group(1)) if found else None
    return path if path is not None and path.is_file() else None
