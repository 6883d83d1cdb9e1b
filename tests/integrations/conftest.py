import pytest

from tests.server.marked_guard import marked_moderator


@pytest.fixture
def guard():
    """A guard to which `#` is unsafe: two successive ones in an answer, one in a prompt."""
    with marked_moderator() as moderator:
        yield moderator
