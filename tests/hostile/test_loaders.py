"""Every loader accepts valid files, and accepts or refuses any other bytes with one line."""

import pytest
from hostile.loaders import NAMES, SLOW, is_refused, loaders
from hostile.mutation import damaged
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="session")
def table(tiny, tmp_path_factory):
    return loaders(tmp_path_factory.mktemp("loaders"), tiny)


def test_every_loader_is_named(table):
    assert set(table) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_loader_accepts_valid_files_and_refuses_others_with_one_line(table, name):
    loader = table[name]
    assert not any(is_refused(loader.load, seed) for seed in loader.seeds)

    @settings(max_examples=8 if name in SLOW else 20, database=None)
    @given(damaged(loader.seeds), st.booleans())
    def load_one(data, has_valid_checksum):
        is_refused(loader.load, loader.with_valid_checksum(data) if has_valid_checksum else data)

    load_one()
