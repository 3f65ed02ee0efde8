"""A series on Ray: two workers of this machine, one of them killed."""

import io
import os

import jax
import pytest
from rich.console import Console

import tmu_jax
from experiments import all as series
from experiments.protocol import run as runner
from tests.protocol import tiny_series
from tests.protocol.test_tasks import counted, records_of
from tmu_jax.unlearning import METHODS

ray = pytest.importorskip("ray")
cluster = pytest.importorskip("experiments.protocol.cluster")

pytestmark = pytest.mark.slow
