import subprocess
import sys

import pytest


def devcluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "holdfast_devcluster", *arguments], capture_output=True, text=True, timeout=180
    )


def test_build_image_of_an_unknown_name_says_which_there_are() -> None:
    done = devcluster("build-image", "nothing")
    assert done.returncode == 2
    assert "'operator', 'serving', 'training', 'prometheus', " in done.stderr


@pytest.mark.parametrize("name", ["../elsewhere", "Upper", "-dash", "x" * 41])
def test_a_name_that_could_be_no_node_s_is_refused(name: str) -> None:
    done = devcluster("status", f"--name={name}")
    assert done.returncode == 2
    assert "must be lower-case letters" in done.stderr


def test_a_failure_is_one_line_without_a_stack_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CLUSTER", "embedded")
    done = devcluster("kubeconfig", "--name", "never-made")
    assert done.returncode == 1
    assert done.stderr == "devcluster: There is no cluster never-made; `up` makes it.\n"
