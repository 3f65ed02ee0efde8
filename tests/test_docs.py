"""The examples of the page on users' own models run as written, in order."""

import pathlib
import re

import jax
import numpy as np

from tests.tiny import tiny_data

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "your-model.md"


def test_the_page_on_your_own_model_runs_as_written(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    scope: dict = {"data": tiny_data()}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in blocks:
            exec(block, scope)
    assert len(blocks) == 4
    assert "94 % were expected" in capsys.readouterr().out
    assert set(scope["new_variables"]) == {"params", "batch_stats"}
    assert (scope["new_net"].head.kernel[...] != scope["net"].head.kernel[...]).any()
    assert type(scope["new_mlp"]) is type(scope["mlp"])
    assert np.abs(scope["new_mlp"].layers[0].weight - scope["mlp"].layers[0].weight).max() > 0
    kernels = [scope[name]["conv2_d"]["w"] for name in ("params", "new_params")]
    assert np.abs(kernels[1] - kernels[0]).max() > 0
