"""For whom the guard works: the key of the request that is being answered, or where it came from."""

from contextvars import ContextVar

_OWNER: ContextVar[str | None] = ContextVar("streamward_owner", default=None)


def serve_owner(*, key_id: str | None, peer: str) -> None:
    """Note for whom this task works, and every task that it starts.

    Args:
        key_id: Which key asks; None for callers without one, who are told apart by their address.
        peer: From `Peers.of`.
    """
    _OWNER.set(f"peer {peer}" if key_id is None else f"key {key_id}")


def current_owner() -> str | None:
    """Return for whom this task works; None if it works for the service itself."""
    return _OWNER.get()
