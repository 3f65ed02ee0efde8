"""A type checker sees a misspelt name, and what may be spelt is what there is."""

import pathlib
import re
import subprocess
import sys
from typing import get_args

import pytest

import tmu_jax
from tmu_jax.data import DatasetName, cifar
from tmu_jax.models import ARCHITECTURES, Architecture

SAMPLE = pathlib.Path(__file__).with_name("typing_sample.py")
ROOT = pathlib.Path(__file__).parents[2]


def test_the_names_are_those_that_there_are():
    assert get_args(tmu_jax.MethodName) == tuple(tmu_jax.METHODS)
    assert get_args(Architecture) == tuple(ARCHITECTURES)
    assert get_args(DatasetName) == (*cifar.FILES, "synthetic")


@pytest.mark.slow
def test_mypy_sees_each_misspelling_and_nothing_else():
    pytest.importorskip("mypy", reason="pip install -e '.[dev]'")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(SAMPLE)]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seen = [int(line) for line in re.findall(r"typing_sample\.py:(\d+): error: .*\[arg-type\]", checked.stdout)]
    lines = SAMPLE.read_text().splitlines()
    assert seen == [number for number, line in enumerate(lines, 1) if line.endswith("# wrong")], checked.stdout
    assert checked.stdout.count("error:") == len(seen) == 11
