"""What several folders of tests share; its place puts `tests/` on the path, for `stand_ins`."""

import pytest
import stand_ins
from hypothesis import HealthCheck, settings
from small_dataset import dataset  # noqa: F401 - a fixture

# A slow machine is no failure.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture
def server(tmp_path):
    """A file server on this machine for tmp_path/served, with faults to order."""
    folder = tmp_path / "served"
    folder.mkdir()
    with stand_ins.Server(folder) as running:
        yield running
