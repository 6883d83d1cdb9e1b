"""The sockets that a service listens on, bound before anything slow begins."""

import errno
import os
import socket

from streamward.errors import ConfigError
from streamward.server.config import ListenConfig


def bind(config: ListenConfig) -> list[socket.socket]:
    """Bind the address; nobody can connect until the server listens.

    Returns:
        One socket for each address of `host`, all with one port; the caller closes them.

    Raises:
        ConfigError: The port is taken or forbidden, or the address is not this machine's.
    """
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"listen.host {config.host!r} is not an address of this machine") from error
    bound: list[socket.socket] = []
    problem: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        port = bound[0].getsockname()[1] if bound else config.port
        try:
            bound.append(_bound(family, kind, protocol, (address[0], port, *address[2:])))
        except OSError as error:
            problem = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # localhost on a machine without IPv6
                break
    else:
        if bound:
            return bound
    for each in bound:
        each.close()
    assert problem is not None, "there was an address"
    raise ConfigError(_told(problem, config)) from problem


def _bound(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _told(error: OSError, config: ListenConfig) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {config.port} of {config.host} is taken: another program listens there. Stop it, or choose another"
            " port (listen.port)"
        )
    if error.errno == errno.EACCES:
        return f"port {config.port} may not be opened by this user; choose one from 1024 on (listen.port)"
    return f"listen.host {config.host!r} is not an address of this machine"
