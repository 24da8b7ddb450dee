"""What the image's build takes away is not missed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy
import pytest

SCRIPT = Path(__file__).parents[3] / "serving-image" / "slim.py"


@pytest.fixture(scope="module")
def slim() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slim", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_stripped_library_is_smaller_and_still_loads(slim: ModuleType, tmp_path: Path) -> None:
    uvloop = importlib.util.find_spec("uvloop")
    assert uvloop is not None
    assert uvloop.origin is not None
    shutil.copytree(Path(uvloop.origin).parent, tmp_path / "uvloop")
    (library,) = (tmp_path / "uvloop").glob("loop.*.so")
    before = library.stat().st_size
    slim.strip(library)
    assert library.stat().st_size < before / 4
    program = "import asyncio, uvloop; print(uvloop.__file__); uvloop.run(asyncio.sleep(0))"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": str(tmp_path)}, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith(str(tmp_path))


def test_a_file_that_is_no_library_stays_as_it_is(slim: ModuleType, tmp_path: Path) -> None:
    script = tmp_path / "libc.so"
    script.write_text("GROUP ( /lib/libc.so.6 )" + " " * 100)
    slim.strip(script)
    assert script.read_text() == "GROUP ( /lib/libc.so.6 )" + " " * 100


def test_what_is_left_is_tried_and_the_build_ends_when_something_is_missed(
    slim: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = Path(numpy.__file__).parents[1]
    for name in ("numpy", "numpy.libs", "onnxruntime"):
        shutil.copytree(packages / name, tmp_path / name)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    models = tmp_path / "onnxruntime" / "datasets"
    shutil.copytree(models, tmp_path / "kept")
    runtime = tmp_path / "onnxruntime" / "capi"
    assert list(runtime.glob("libonnxruntime.so*"))
    slim.main(tmp_path)
    assert not list(runtime.glob("libonnxruntime.so*"))
    assert not models.exists()

    (tmp_path / "kept").rename(models)
    (runtime / "_pybind_state.py").unlink()
    with pytest.raises(subprocess.CalledProcessError):
        slim.main(tmp_path)
