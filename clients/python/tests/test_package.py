"""The folder can be installed with pip, and the installed package is typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1]


def test_package_installs_with_its_types(tmp_path: Path) -> None:
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    quiet = ["--disable-pip-version-check", "--root-user-action=ignore"]
    target = tmp_path / "installed"
    command = [sys.executable, *install, *quiet, "--target", str(target), str(FOLDER)]
    subprocess.run(command, check=True, timeout=120)
    assert (target / "oddswire" / "py.typed").exists()
    assert {path.name for path in target.iterdir()} == {"oddswire", "oddswire-0.1.0.dist-info"}
    say = "import oddswire; print(oddswire.__file__)"
    environment = {"PYTHONPATH": str(target)}
    said = subprocess.run(
        [sys.executable, "-c", say], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.strip() == str(target / "oddswire" / "__init__.py")
