from functools import cached_property

import pytest

from rsd.release import sign
from tests.deploy.edge.conftest import Shared as EdgeShared


class Shared(EdgeShared):
    @cached_property
    def other_public(self) -> bytes:
        """A public key that no bundle here is signed with."""
        return sign.make_key(self.folder / "secret" / "other")[1].read_bytes()


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    return Shared(tmp_path_factory.mktemp("rollout"))
