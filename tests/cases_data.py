"""Tests on data that are fetched."""

import pytest

from ravine.problems.data import available


def require_data(name: str) -> None:
    """Skip a test whose data are not in the cache: tests need no network, and the code is tested without them."""
    if not next(row for row in available() if row.name == name).fetched:
        pytest.skip(f"the data of {name} are not in the cache; `ravine data fetch {name}` brings them")
