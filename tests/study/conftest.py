from pathlib import Path

import pytest

from cases_study import compare_words, in_child, write_problem


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small study that nothing disturbed; its problem file lies beside it. To be read only."""
    home = tmp_path_factory.mktemp("finished")
    ended = in_child(compare_words(write_problem(home / "tiny.py"), home / "study"))
    assert ended.code == 0, ended.said
    return home / "study"
