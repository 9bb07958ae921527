"""The host: keeps the published revision loaded, and answers requests with it on one thread.

`current.json` is looked at every two seconds. A new revision is loaded beside the one that serves and then takes its
place by one assignment: a request that is under way keeps the model it began with, and none is refused. A revision that
cannot be loaded changes nothing but the log, and is tried again, later each time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.publish import CURRENT
from trimtab_jobs.serve.metrics import Metrics
from trimtab_jobs.serve.protocol import Refused, read_request, write_response
from trimtab_jobs.serve.served import Options, Served, read_revision

POLL_SECONDS = 2.0
LONGEST_PAUSE = 60.0
QUEUE_LIMIT = 128
"""Requests that wait for the thread. More are refused with 503: they would only be answered too late."""

log = logging.getLogger(__name__)


class Host:
    """Serves the folder's current revision under the name `model`."""

    def __init__(self, model: str, folder: Path, options: Options) -> None:
        self.model = model
        self.served: Served | None = None
        self.metrics = Metrics(model, lambda: self.served)
        self._folder = folder
        self._options = options
        self._current = ""
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._background = ThreadPoolExecutor(1, thread_name_prefix="background")
        self._waiting = 0

    async def watch(self) -> None:
        """Follow `current.json` for ever."""
        loop, pause, told = asyncio.get_running_loop(), POLL_SECONDS, ""
        while True:
            try:
                await loop.run_in_executor(self._background, self._look)
                pause, told = POLL_SECONDS, ""
            except FileNotFoundError as error:  # nothing is published yet, or the publisher is between two steps
                told = _tell(f"waiting for {error.filename}", told)
            except Exception as error:  # whatever is wrong with the new revision, the old one serves on
                told = _tell(f"{self._folder / CURRENT}: not loaded: {error}", told)
                pause = min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    def _look(self) -> None:
        text = (self._folder / CURRENT).read_text()
        if text == self._current:
            return
        revision = read_revision(text)
        self.served = Served(self._folder, revision, self._options, self._background)
        self._current = text
        log.info("serving %s with %s as %s", revision.digest, revision.engine.value, self.model)

    async def infer(self, body: bytes) -> bytes:
        """Answer an inference request. Raises Refused with the HTTP status."""
        if self._waiting >= QUEUE_LIMIT:
            raise Refused(f"{QUEUE_LIMIT} requests are waiting: try again later, or add replicas", 503)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, self._infer, body)
        finally:
            self._waiting -= 1

    def _infer(self, body: bytes) -> bytes:
        served = self.ready()
        request = read_request(body, served.inputs)
        started = time.perf_counter()
        try:
            outputs = served.run(request.inputs)
        except InvalidInput as refusal:
            raise Refused(str(refusal)) from None
        self.metrics.inference_duration.observe(time.perf_counter() - started)
        served.observe(request.inputs, outputs)
        return write_response(self.model, served.revision.digest, request, outputs)

    def ready(self) -> Served:
        """What is served. Raises Refused while nothing is."""
        if self.served is None:
            raise Refused(f"model {self.model!r} is not ready: nothing is loaded yet", 503)
        return self.served

    def close(self) -> None:
        """Finish what is under way."""
        self._worker.shutdown()
        self._background.shutdown()


def _tell(message: str, told: str) -> str:
    """Log a message unless it was the last one told."""
    if message != told:
        log.warning(message)
    return message
