import pytest

from attngen.runtime.cache import Cache
from tests.cache.cache_entries import ENTRY, KEY


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def stored(folder):
    """A folder that holds ENTRY under KEY; gives the path of the file."""
    cache = Cache(folder)
    cache.put(KEY, ENTRY)
    cache.close()
    return folder / f"{KEY}.agk"
