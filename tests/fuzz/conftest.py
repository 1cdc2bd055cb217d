import mutations
import pytest
from hypothesis import HealthCheck
from hypothesis import Phase
from hypothesis import settings

# Reading an artifact takes longer than what Hypothesis is made for, and a
# damage that is drawn by a seed does not shrink.
settings.register_profile(
    "bounded",
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("bounded")


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """One small artifact of every kind."""
    return mutations.make_artifacts(tmp_path_factory.mktemp("artifacts"))
