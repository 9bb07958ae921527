"""A real web server that answers as it was told: files, or the recorded answers of a hub or a registry."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """What a path is answered with. `cut` leaves off the last byte that Content-Length promised."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass
class WebServer:
    """Its answers by path and query, which a test may change, and the requests that came, with their login."""

    url: str
    answers: dict[str, Answer]
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def web_server(answers: dict[str, Answer]) -> Iterator[WebServer]:
    """Serve until the block ends, at a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append((self.path, self.headers.get("Authorization")))
            answer = web.answers.get(self.path, Answer(b"no", 404))
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body[:-1] if answer.cut else answer.body)

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that has seen enough hangs up."""

    server = Server(("127.0.0.1", 0), Handler)
    web = WebServer(f"http://127.0.0.1:{server.server_port}", answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
