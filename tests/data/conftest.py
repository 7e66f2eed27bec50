"""Shared by the tests of the data: tables written by hand."""

import pytest
from handmade import write_csv


@pytest.fixture
def write_table(tmp_path):
    """`write_csv` into the test's own folder, by file name."""
    return lambda *rows, name="table.csv", **options: write_csv(tmp_path / name, *rows, **options)
