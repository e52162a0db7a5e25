"""What several folders of tests share; its place puts `tests/` on the path, for `stand_ins`."""

import pytest
import stand_ins
from small_dataset import dataset  # noqa: F401 - a fixture


@pytest.fixture
def server(tmp_path):
    """A file server on this machine for tmp_path/served, with faults to order."""
    folder = tmp_path / "served"
    folder.mkdir()
    with stand_ins.Server(folder) as running:
        yield running
