"""The wheel: built and installed apart from the source tree, it brings models, templates, units and all of the code."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from dicomnode.share import share

ROOT = Path(__file__).parents[2]
FOLDERS = ("models", "ae_config", "systemd")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked(folder: str) -> set[str]:
    """Give the files of a folder as they are in the source tree, without what Python leaves behind."""
    return {
        path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree: nothing is written into the checkout."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("dicomnode", *FOLDERS):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(out), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed into a folder of its own."""
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def test_list_of_packages_is_the_tree() -> None:
    """pyproject.toml lists every folder of code, and nothing that is not there."""
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "dicomnode").rglob("__init__.py")}
    folders |= {f"dicomnode._share.{name}" for name in FOLDERS}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders


def test_wheel_holds_every_file(wheel: Path) -> None:
    """Each module, SQL script, word list, model, template and unit of the tree is in the wheel."""
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = tracked("dicomnode") | {f"dicomnode/_share/{path}" for folder in FOLDERS for path in tracked(folder)}
    assert wanted - inside == set()


def test_installed_node_finds_its_folders(installed: Path) -> None:
    """Away from the source tree, `share` gives the installed folders, and a configuration can be written from them."""
    code = (
        "from pathlib import Path; from dicomnode.share import share; from dicomnode.commands.init import compose\n"
        "for name in ('models', 'ae_config', 'systemd'): print(share(name))\n"
        "print(len(compose('A', 1, Path('/s'), [])))"
    )
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=installed, env=environment,
    )
    *folders, files = done.stdout.splitlines()
    assert folders == [str(installed / "dicomnode" / "_share" / name) for name in FOLDERS]
    assert int(files) >= 4
    assert (installed / "dicomnode" / "_share" / "systemd" / "dicomnode.target").is_file()


def test_folders_are_found_in_the_source_tree() -> None:
    """In a checkout or an editable installation, `share` gives the folders of the repository."""
    assert [share(name) for name in FOLDERS] == [ROOT / name for name in FOLDERS]


def test_onnxruntime_is_one_of_two() -> None:
    """Exactly one onnxruntime is asked for on any machine: with CUDA on x86-64 Linux, without elsewhere."""
    from packaging.requirements import Requirement

    found = [Requirement(text) for text in PROJECT["project"]["dependencies"] if text.startswith("onnxruntime")]
    machines = [("x86_64", "linux"), ("aarch64", "linux"), ("arm64", "darwin"), ("AMD64", "win32")]
    for machine, system in machines:
        here = {"platform_machine": machine, "sys_platform": system}
        names = [one.name for one in found if one.marker is not None and one.marker.evaluate(here)]
        assert names == ["onnxruntime-gpu" if (machine, system) == ("x86_64", "linux") else "onnxruntime"]


def test_training_is_an_extra() -> None:
    """Torch and MONAI come with the extra ``train`` only."""
    needed = " ".join(PROJECT["project"]["dependencies"])
    assert "torch" not in needed
    assert "monai" not in needed
    assert {"torch", "monai"} <= {text.split(">")[0] for text in PROJECT["project"]["optional-dependencies"]["train"]}
