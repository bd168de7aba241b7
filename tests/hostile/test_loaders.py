"""Whatever is in a file, it is accepted or refused in one plain line."""

import pytest
from hostile.loaders import NAMES, SLOW, is_refused, loaders
from hostile.mutation import damaged
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="session")
def table(tiny, tmp_path_factory):
    return loaders(tmp_path_factory.mktemp("loaders"), tiny)


def test_every_loader_is_tried(table):
    assert set(table) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_loader_accepts_what_it_should(table, name):
    assert not any(is_refused(table[name].load, seed) for seed in table[name].seeds)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_the_bytes_a_loader_accepts_them_or_says_no_in_one_line(table, name):
    loader = table[name]

    @settings(max_examples=12 if name in SLOW else 30, database=None)
    @given(damaged(loader.seeds), st.booleans())
    def try_one(data, resealed):
        is_refused(loader.load, loader.resealed(data) if resealed else data)

    try_one()
