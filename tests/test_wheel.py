"""The wheel carries all that a run needs, in any folder."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # a build writes beside its sources
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name.startswith(("src/", "conf/")) or name in ("pyproject.toml", "README.md", "LICENSE"):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_every_source_and_setting_is_in_the_wheel(unpacked: Path) -> None:
    for folder, inside in ((ROOT / "src/graftlm", "graftlm"), (ROOT / "conf", "graftlm/conf")):
        wanted = {
            path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
        }
        found = {path.relative_to(unpacked / inside) for path in (unpacked / inside).rglob("*") if path.is_file()}
        assert wanted <= found, wanted - found


def test_a_run_works_from_the_wheel_in_any_folder(unpacked: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "graftlm", "run", "experiment=smoke", "transfer=none"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    code = "import graftlm, graftlm.conf; print(graftlm.__file__, list(graftlm.conf.__path__))"
    where = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    ).stdout
    assert str(ROOT) not in where
