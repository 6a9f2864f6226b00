import pytest

from tests.deploy.edge.conftest import Shared


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    return Shared(tmp_path_factory.mktemp("mender"))
