"""What is listed, what lies in the tree and what a wheel carries are the same."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
PACKAGES = PYPROJECT["tool"]["setuptools"]["packages"]
PACKAGE_DIR = PYPROJECT["tool"]["setuptools"]["package-dir"]
LINKS = ("backends", "passes")


def directory(package: str) -> Path:
    return Path(PACKAGE_DIR.get(package, package.replace(".", "/")))


def test_every_package_of_the_tree_is_listed() -> None:
    walk = os.walk(ROOT / "pitome_fx", followlinks=True)
    tree = {Path(path).relative_to(ROOT) for path, _, files in walk if "__init__.py" in files}
    assert sorted(PACKAGES) == sorted(".".join(path.parts) for path in tree)


@pytest.mark.parametrize("package", PACKAGES)
def test_mapping_and_symlinks_lead_to_the_same_directory(package: str) -> None:
    mapped = ROOT / directory(package)
    assert mapped.resolve() == (ROOT / package.replace(".", "/")).resolve()


@pytest.mark.parametrize("name", LINKS)
def test_symlinks_are_relative(name: str) -> None:
    link = ROOT / "pitome_fx" / name
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name


def test_direct_dependencies_are_pinned() -> None:
    extras = PROJECT["optional-dependencies"]
    installed = ("test", "zoo", "viz", "dev", "docs", "quant", "onnx", "openvino", "tensorrt")
    wanted = [*PROJECT["dependencies"], *(name for extra in installed for name in extras[extra])]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    names = [re.split(r"[^\w-]", requirement)[0] for requirement in wanted]
    assert sorted(pin.split("==")[0] for pin in pins) == sorted(names)


BACKEND_BY_NAME = """
import sys, types
import torch

assert "pitome" in torch._dynamo.list_backends()
assert "pitome_fx" not in sys.modules, "the list must not import the package"
torch.compile(torch.nn.Identity(), backend="pitome")
backend = torch._dynamo.backends.registry.lookup_backend("pitome")
assert isinstance(backend, types.FunctionType), "attributes are set on it"
"""


def test_backend_is_found_without_importing_the_package(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BACKEND_BY_NAME], cwd=tmp_path, check=True)


IMPORTED_WHEN_USED = """
import sys
import pitome_fx

assert "matplotlib" not in sys.modules
for name, place in pitome_fx.IMPORTED_WHEN_USED.items():
    assert place not in sys.modules, f"{place} is imported before {name} is used"
for name in pitome_fx.__all__:
    assert getattr(pitome_fx, name) is not None
assert set(pitome_fx.IMPORTED_WHEN_USED) <= set(pitome_fx.__all__)
assert "matplotlib" not in sys.modules
"""


def test_what_compiling_does_not_need_is_imported_when_it_is_used(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", IMPORTED_WHEN_USED], cwd=tmp_path, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("symlinks", [True, False], ids=["symlinks", "no-symlinks"])
def test_wheel_carries_every_package_and_nothing_else(tmp_path: Path, symlinks: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("pitome_fx", "tests", *LINKS):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    if not symlinks:
        for name in LINKS:
            (source / "pitome_fx" / name).unlink()

    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(source)], check=True)

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {
        f"{package.replace('.', '/')}/{file.name}"
        for package in PACKAGES
        for file in (ROOT / directory(package)).glob("*.py")
    }
    assert carried == modules | {"pitome_fx/py.typed"}
