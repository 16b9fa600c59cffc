from pathlib import Path

import pytest

from cases_claims import assert_runs_through


@pytest.mark.slow
def test_the_scales_run_through(small: None, tmp_path: Path) -> None:
    assert_runs_through("sutskever-init-scale", tmp_path)
