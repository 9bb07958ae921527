"""What a pod of the policy tests runs: it listens, or it calls others and prints whom it reached.

It needs no more than the image's Python. A test passes this file's text to `python -c`.
"""

from __future__ import annotations

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from socketserver import BaseRequestHandler, ThreadingTCPServer, UDPServer
from threading import Thread

PATIENCE = 3
"""Seconds. An agent may drop what it forbids; most say so."""


class Echo(BaseRequestHandler):
    """Over UDP only an answer tells that anybody is there."""

    def handle(self) -> None:
        words, connection = self.request
        connection.sendto(words, self.client_address)


class Listener(ThreadingTCPServer):
    """A connection is the answer. The next run may listen where the last one's connections still linger."""

    allow_reuse_address = True


def listen(ports: list[int], udp: list[int]) -> None:
    """Over TCP on these ports, and over UDP on those."""
    servers = [Listener(("", port), BaseRequestHandler) for port in ports]
    servers += [UDPServer(("", port), Echo) for port in udp]
    for server in servers:
        Thread(target=server.serve_forever).start()


def reached(protocol: str, host: str, port: str) -> bool:
    """Whether somebody answers."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect((host, int(port)))
            if protocol == "udp":
                connection.send(b"?")
                connection.recv(1)
        except OSError:
            return False
        return True


def main(command: str, *words: str) -> None:
    if command == "listen":
        listen([int(port) for port in words], udp=[53])
        return
    with ThreadPoolExecutor(len(words)) as callers:
        answers = callers.map(lambda word: reached(*word.split()), words)
    sys.stdout.write(json.dumps(list(answers)))


if __name__ == "__main__":
    main(*sys.argv[1:])
