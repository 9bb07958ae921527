"""What a stage works with: a Task whose addresses are resolved and whose files are those that Inspect pinned.

Everything is made when it is first asked for, so a stage opens no more than it needs: a trial never the holdout, and
the original model only where quality is compared with it.
"""

from __future__ import annotations

import logging
import tempfile
from functools import cached_property
from importlib import import_module
from pathlib import Path

from trimtab.api.model import EngineName, Metric, ModelFormat, SourceFormat, show_metric
from trimtab.api.work import Finalist, Measurement, Task
from trimtab_jobs import onnx_model
from trimtab_jobs.data import Array, Splits
from trimtab_jobs.engines import EngineOptions, Session, engine
from trimtab_jobs.errors import InvalidInput
from trimtab_jobs.evaluate import Judge, measure, one_line
from trimtab_jobs.hardware import hardware
from trimtab_jobs.inputs import Fetched, fetch
from trimtab_jobs.metrics import NoMetric, choose
from trimtab_jobs.model import Model
from trimtab_jobs.pipeline import Context, convert
from trimtab_jobs.ranks import Ranks
from trimtab_jobs.store import Store, digest_file, digest_folder

log = logging.getLogger(__name__)

SOURCES = {SourceFormat.ONNX: "trimtab_jobs.onnx_model", SourceFormat.PYTORCH: "trimtab_jobs.torch_model"}
"""What checks a model of each format and brings it into a folder: `import_source(source, path, code, out)`."""
CODE_PIN = "metrics.custom.code"
"""Among the pinned digests."""


class Desk:
    """A Task with its addresses resolved and its files checked against the digests that Inspect pinned."""

    def __init__(self, task: Task, store: Store) -> None:
        self.task = task
        self.store = store
        self.hardware = hardware()
        self.options = EngineOptions(self.hardware.threads, task.target.compute_capability)
        uris = {name: split.uri for name, split in task.data.named().items()}
        self.paths = Fetched(uris, "data", store.files)
        self.splits = Splits(self.paths)

    def pinned(self, *names: str) -> dict[str, str]:
        """The digests of those splits that are given. Raises InvalidInput for one that changed since Inspect."""
        paths = {name: self.paths[name] for name in names if name in self.paths}
        for name, path in paths.items():
            if not path.is_file():
                raise InvalidInput(f"data.{name}: {path}: there is no such file any more: put it back")
        digests = {name: digest_file(path) for name, path in paths.items()}
        for name, digest in digests.items():
            self._check_pin(name, f"data.{name}: {paths[name]}", digest)
        return digests

    @cached_property
    def source(self) -> str:
        """The input model as an artifact."""
        source = self.task.model
        beside = onnx_model.external_files if source.format == SourceFormat.ONNX else lambda path: []
        path = fetch(source.uri, "model.uri", self.store.files, beside)
        if kept := self._kept(path):
            return kept
        code = self._fetch(source.code, "model.code") if source.code else None
        with tempfile.TemporaryDirectory(prefix="trimtab-") as out:
            import_module(SOURCES[source.format]).import_source(source, path, code, Path(out))
            self._check_pin("model", f"model.uri: {source.uri}", digest_folder(Path(out)))
            return self.store.put(Path(out))

    def _kept(self, path: Path) -> str:
        """The artifact that Inspect made of the input model, if it is a copy of what is there now."""
        pin = self.task.pins.get("model", "")
        known = self.task.model.format == SourceFormat.ONNX and pin and self.store.has(pin)
        return pin if known and onnx_model.is_copy(self.store.folder(pin), path) else ""

    def _fetch(self, uri: str, field: str) -> Path:
        return fetch(uri, field, self.store.files)

    def _check_pin(self, name: str, what: str, digest: str) -> None:
        if self.task.pins.get(name, digest) != digest:
            raise InvalidInput(f"{what} changed since the job began: put the old content back, or create a new job")

    @cached_property
    def context(self) -> Context:
        """What the steps of a pipeline share. The splits they may read are held against their pins, once."""
        task = self.task
        quality = [task.quality, task.metrics.wire(), task.target.engines[0], self.code_digest]
        return Context(
            store=self.store,
            original=self.source,
            splits=self.splits,
            data=self.pinned("calibration", "train", "evaluation"),
            seed=task.seed,
            hardware=self.hardware,
            drop=self.drop,
            quality=quality,
            ranks=self.ranks,
        )

    @cached_property
    def ranks(self) -> Ranks | None:
        """Who takes the steps that train, where the runtime has several processes for them."""
        distributed = self.task.distributed
        if not distributed:
            return None
        paths = {name: self.paths[name] for name in self.pinned("calibration", "train")}
        return Ranks(self.task, distributed, paths, self.hardware.threads)

    def drop(self, session: Session) -> float:
        """What `Bench.drop` is."""
        return self.judge.drop(session)

    @cached_property
    def baseline(self) -> str:
        """The input model as an ONNX artifact."""
        return convert(self.source, ModelFormat.ONNX, self.context)

    @cached_property
    def code(self) -> Path | None:
        """The file of a custom metric."""
        custom = self.task.metrics.custom
        return self._fetch(custom.code, "metrics.custom.code") if custom and custom.code else None

    @property
    def code_digest(self) -> str:
        """That of a custom metric's file, empty without one. Raises InvalidInput if it changed since Inspect."""
        if self.code is None:
            return ""
        if not self.code.is_file():
            raise InvalidInput(f"metrics.custom.code: {self.code}: there is no such file: check the address")
        digest = digest_file(self.code)
        self._check_pin(CODE_PIN, f"metrics.custom.code: {self.code}", digest)
        return digest

    @cached_property
    def judge(self) -> Judge:
        """What is measured in this job."""
        return Judge([self.quality, *self.task.measure], self.task.metrics, self._original, self.splits, self.code)

    @cached_property
    def quality(self) -> Metric:
        """The quality metric that counts."""
        return self.task.quality or choose(self.splits.evaluation, self.first_outputs)

    @cached_property
    def first_outputs(self) -> list[Array]:
        """What the input model answers to one sample. Asked of ONNX Runtime, which every image has."""
        session = engine(EngineName.ONNXRUNTIME).load(self.model(self.baseline), self.options)
        return session.run(next(self.splits.evaluation.batches(1)))

    def _original(self) -> Session:
        return engine(self.task.target.engines[0]).load(self.model(self.baseline), self.options)

    def model(self, artifact: str) -> Model:
        return self.store.model(artifact)

    def measure(self, artifact: str, reference: bool = False) -> list[Measurement]:
        """The artifact on every engine of the target, over the evaluation split.

        A metric that cannot be computed is a finding about a candidate. Of the reference, what all are compared with
        on the first engine, it raises NoMetric.
        """
        found: list[Measurement] = []
        model, split = self.model(artifact), self.splits.evaluation
        for name in self.task.target.engines:
            try:
                measured = measure(name, model, split, self.options, self.judge)
            except NoMetric as error:
                if reference and not found:
                    raise
                measured = Measurement(engine=name, executed=False, note=one_line(error))
            log.info("%s: %s", name.value, _show(measured))
            found.append(measured)
        return found

    def load(self, finalist: Finalist) -> Session:
        return engine(finalist.engine).load(self.model(finalist.artifact), self.options)


def _show(measured: Measurement) -> str:
    if not measured.executed:
        return f"not executed: {measured.note}"
    return ", ".join(f"{metric} {show_metric(metric, value)}" for metric, value in measured.metrics.items())
