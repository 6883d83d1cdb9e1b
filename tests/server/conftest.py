import pytest

from tests.server.services import open_service


@pytest.fixture
def service(tmp_path):
    """A service that asks for no keys."""
    with open_service(tmp_path) as opened:
        yield opened


@pytest.fixture
def closed_service(tmp_path):
    """A service that asks for keys."""
    with open_service(tmp_path, auth={"required": True}) as opened:
        yield opened
