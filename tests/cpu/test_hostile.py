"""No input ends the process: each of `hostile` gives lax's result or lax's own error."""

import json
import os
import subprocess
import sys

import pytest

from tests.cpu import hostile
from tests.cpu.common import HAS_COMPILER, needs_compiler


def run(**environment):
    """What was wrong with each case; where the process ended early, that the last one ended it."""
    environment = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # as conftest has it in this process
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "MALLOC_ARENA_MAX": "1",
        **environment,
    }
    command = [sys.executable, "-m", "tests.cpu.hostile"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    found = {}
    for line in done.stdout.splitlines():
        name, *wrong = json.loads(line)
        found[name] = wrong[0] if wrong else f"ended the process with {done.returncode}: {done.stderr[-2000:]}"
    return found


@pytest.fixture(scope="module")
def compiled():
    return run()


@pytest.mark.parametrize("name", hostile.CASES)
def test_result_or_error_is_that_of_lax(compiled, name):
    assert compiled[name] is None


@needs_compiler
@pytest.mark.parametrize("name", hostile.CALLS)
def test_compiled_code_refuses_what_does_not_fit_together(compiled, name):
    assert compiled[name] is None


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as on Linux")
def test_compiled_code_without_memory_is_an_error(compiled):
    assert compiled["without memory"] is None


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="it is what the tests above run")
def test_products_end_no_process_either():
    found = run(CXX="/bin/false")
    assert found == dict.fromkeys(hostile.CASES)
