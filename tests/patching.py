"""Replaces a function wherever the package uses it."""

import sys
from collections.abc import Callable
from typing import Any

import pytest


def patch_everywhere(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], replacement: Any) -> None:
    """Puts `replacement` under every name that a module of tmu_jax has for `function`; fails where there is none."""
    found = 0
    for module_name, module in list(sys.modules.items()):
        if module_name.split(".")[0] != "tmu_jax":
            continue
        for name, value in list(vars(module).items()):
            if value is function:
                monkeypatch.setattr(module, name, replacement)
                found += 1
    assert found, function
