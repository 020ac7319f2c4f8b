"""The wheel holds all that a user needs: installed elsewhere, it runs a sample by a bare name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGES = ("corpus", "jobs", "recipes", "schemas", "trainer")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that has the wheel, and this one's dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in PACKAGES:
        shutil.copytree(PROJECT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*build, str(source)], check=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    made = folder / "venv" / "bin" / "python"
    site = Path(
        subprocess.run(
            [made, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()
    )  # fmt: skip
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    # Behind the wheel: the libraries, without the editable installation of the project.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made


def run(python: Path, folder: Path, *words: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [python, *words], cwd=folder, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_wheel_runs_a_sample_with_a_recipe_of_its_own(python: Path, tmp_path: Path) -> None:
    places = run(python, tmp_path, "-c", "import jobs.cli, corpus.text; print(jobs.cli.__file__)")
    assert str(PROJECT) not in places
    crawl = str(PROJECT / "samples" / "SAMPLE-00000.warc.gz")
    words = ["run", "--recipe", "sample", "--input", crawl, "--root", "root", "--until", "dedup"]
    assert "extracted" in run(python, tmp_path, "-m", "jobs.submit", *words)
    assert (tmp_path / "root" / "canonical" / "manifest.json").is_file()


def test_the_wheel_has_the_trainer(python: Path, tmp_path: Path) -> None:
    assert "pretrain" in run(python, tmp_path, "-m", "trainer", "--help")
