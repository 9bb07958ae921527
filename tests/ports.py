"""Ports of this machine for servers that are told theirs."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One that nobody else is given by chance for a minute, in which a slow server comes to take it.

    A connection that its server has just closed keeps it: the kernel hands it to nobody who wants any port. A server
    that names it, and reuses addresses as they all do, gets it.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address: tuple[str, int] = listener.getsockname()
        with socket.create_connection(address) as caller:
            listener.accept()[0].close()
            caller.recv(1)  # its end, which came first from the server
    return address[1]
