"""Whatever one argument of the public boundary is: it works, or one line names it, and nothing is written."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile.calls import BeganError, begin, calls, make_files
from tests.hostile.values import FEW, MANY, anything, explore
from tests.patching import patch_everywhere
from tmu_jax.stages import compute
from tmu_jax.training.loop import fit

LIKE_PATHS = ("csv", "test_csv", "public_key")
"""Arguments that may be paths and something else: the system's own error names the file."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("given")
    make_files(made)
    return made


@pytest.fixture
def known(folder, monkeypatch):
    """The calls, none of which trains."""
    monkeypatch.chdir(folder)
    found = calls(folder)
    patch_everywhere(monkeypatch, fit, begin)
    patch_everywhere(monkeypatch, compute, begin)
    return found


def check_line(said: str, words: tuple[str, ...]) -> None:
    """One line that names one of these, where there are any, and steers no terminal."""
    assert not words or any(word in said for word in words), ascii(said)
    assert len(said.splitlines()) == 1, ascii(said)
    assert "\x1b" not in said


def below(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.rglob("*"))


def test_each_call_works_as_it_is(known):
    for name, call in known.items():
        try:
            call.function(**call.given)
        except BeganError:
            assert name in ("train", "unlearn", "prepare", "forget", "rehearse", "tune")


@pytest.mark.parametrize("cases", [3 * FEW, pytest.param(4 * MANY, marks=pytest.mark.slow)])
def test_an_argument_that_nobody_means_is_named_in_one_line(known, folder, cases):
    places = [(name, argument) for name, call in known.items() for argument in call.arguments()]
    before = below(folder)

    @explore(cases)
    @given(place=st.sampled_from(places), value=anything)
    def check(place, value):
        name, argument = place
        call = known[name]
        try:
            call.function(**{**call.given, argument: value})
        except BeganError:
            pass
        except (ValueError, TypeError, OSError) as error:
            names_itself = isinstance(error, OSError) and argument in LIKE_PATHS
            check_line(str(error), () if names_itself else (argument, *call.others.get(argument, ())))
        assert below(folder) == before

    check()
