"""Manifests that must be refused, each a good one with a change, and what a person is told.

`says` is what the models say; `server` is what the API server says, where that differs because the check is its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import yaml

from trimtab.api.schema.kinds import KINDS
from trimtab.api.schema.wire import inlined, wire_schema

Manifest = dict[str, Any]
REMOVED = object()

JOB = yaml.safe_load("""
apiVersion: trimtab.dev/v1alpha1
kind: OptimizationJob
metadata: {name: digits, namespace: default}
spec:
  model: {uri: pvc://models/digits.safetensors, format: PyTorch, factory: "digits:build", code: pvc://models/digits.py}
  data:
    calibration: {uri: pvc://data/calibration.npz}
    train: {uri: pvc://data/train.npz}
    evaluation: {uri: pvc://data/evaluation.npz}
    holdout: {uri: pvc://data/holdout.npz}
  target: {engines: [ONNXRuntime, OpenVINO], device: CPU, computeCapability: SM89, runtimeRef: {name: cpu-small}}
  constraints:
  - {metric: accuracy, maxDrop: 1%}
  - {metric: latencyP95, max: 5ms}
  - {metric: size, max: 20Mi}
  - {metric: accuracy, min: 98%}
  objectives: [{metric: latencyP50, goal: Minimize}]
  techniques:
  - prune: {granularity: [Channel], ratio: {values: ["0.3", "0.5"]}, ignoredLayers: [head]}
    optional: true
  - distill: {epochs: {min: 1, max: 3}, learningRate: {min: "0.0001", max: "0.01", scale: Log}}
  - quantize: {precision: [Int8], method: [Static], operatorScope: [Compute], perChannel: [true]}
  search: {algorithm: Bayesian, maxTrials: 8, earlyStopping: {patience: 3}, parallelism: 2, seed: 7}
  budget: {deadline: 1h, memory: 2Gi, gpuSeconds: 3600}
  publish: {uri: pvc://published}
  suspend: true
  ttlSecondsAfterFinished: 3600
""")
MONITOR = yaml.safe_load("""
apiVersion: trimtab.dev/v1alpha1
kind: ModelMonitor
metadata: {name: digits, namespace: default}
spec:
  target: {model: digits-v2}
  triggers:
  - drift: {sustained: 5m}
  - latency: {percentile: P95, max: 20ms, window: 5m, sustained: 5m}
  action: Recalibrate
  capture: pvc://captured
  cooldown: 1h
  suspend: true
""")
MONITOR["spec"]["jobTemplate"] = {"spec": JOB["spec"]}
RUNTIME = yaml.safe_load("""
apiVersion: trimtab.dev/v1alpha1
kind: OptimizationRuntime
metadata: {name: cpu-small, namespace: default}
spec:
  image: localhost/trimtab-jobs:dev
  imagePullPolicy: Never
  imagePullSecrets: [{name: registry}]
  store: {uri: pvc://store, keep: 720h}
  env: [{name: OMP_NUM_THREADS, value: "1"}]
  envFrom: [{secretRef: {name: s3}}]
  claims: [{claim: models, mountPath: /models, readOnly: true}]
  resources: {requests: {cpu: 500m}, limits: {cpu: 1, memory: 1Gi, nvidia.com/gpu: 1}}
  resourceClaims: [{name: gpu, resourceClaimTemplateName: one-gpu}]
  nodeSelector: {kubernetes.io/arch: amd64}
  tolerations: [{key: nvidia.com/gpu, operator: Equal, value: present, effect: NoExecute, tolerationSeconds: 60}]
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [a, b]}]
      preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 10
        preference: {matchExpressions: [{key: cores, operator: Gt, values: ["15"]}]}
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {labelSelector: {matchLabels: {app: cache}}, topologyKey: topology.kubernetes.io/zone}
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 50
        podAffinityTerm: {labelSelector: {matchLabels: {app: web}}, topologyKey: kubernetes.io/hostname}
  distributed: {numNodes: 2, numProcPerNode: 4}
  playoff:
    exclusive: Required
    nodeSelector: {pool: serving}
    tolerations: [{operator: Exists}]
    affinity: {nodeAffinity: {}}
    resources: {limits: {cpu: "4"}}
  priorityClassName: batch
  queue: {name: team-a, priorityClassName: batch}
  schedulerName: volcano
  runtimeClassName: nvidia
  podLabels: {cost-center: ml}
  podAnnotations: {cluster-autoscaler.kubernetes.io/safe-to-evict: "false"}
  activeDeadline: 1h
  ttlSecondsAfterFinished: 3600
""")
CLUSTER_RUNTIME = RUNTIME | {
    "kind": "ClusterOptimizationRuntime",
    "metadata": {"name": "cpu-small"},
    "spec": RUNTIME["spec"] | {"allowedNamespaces": ["team-*"], "allowedImages": ["registry.example.com/team/*"]},
}
GOOD = {manifest["kind"]: manifest for manifest in (JOB, MONITOR, RUNTIME, CLUSTER_RUNTIME)}

AMOUNTS = (0, 2, "2", "0.5", "1.", "007", "100n", "5u", "500m", "3k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Ei")
AMOUNTS += ("1e3", "1E3", "1e-3", "1e+3", "1e99")
"""Of a resource, as people write them."""
NO_AMOUNTS = (-1, 0.5, True, [], "", "-1", "+1", ".5", ".", "Gi", "1 Gi", "1GB", "1gi", "1K", "1e", "1e1.5", "0x1")


NODES = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.0.matchExpressions"


@dataclass(frozen=True)
class Case:
    """A good manifest, the fields to change (dotted paths), and the answer."""

    good: Manifest
    changes: Mapping[str, Any]
    says: str
    server: str = ""

    @property
    def manifest(self) -> Manifest:
        return changed(self.good, self.changes)

    def __str__(self) -> str:
        return f"{self.good['kind']}.{','.join(self.changes).removeprefix('spec.')}"


CASES = (
    # What people get wrong first: units, addresses, spelling.
    Case(JOB, {"spec.constraints.0.maxDrop": "one"}, "'one' is not a percent such as 1%"),
    Case(JOB, {"spec.budget.deadline": "90"}, "'90' is not a duration such as 5ms or 2h"),
    Case(JOB, {"spec.budget.memory": "2GiB"}, "'2GiB' is not a quantity such as 20Mi"),
    Case(JOB, {"spec.budget.deadline": "99999999h"}, "'99999999h' is not a duration such as 5ms or 2h, at most 99999h"),
    Case(MONITOR, {"spec.cooldown": "99999999h"}, "'99999999h' is not a duration such as 5ms or 2h, at most 99999h"),
    Case(JOB, {"spec.model.uri": "ftp://host/m"}, "'ftp://host/m' is not a file, pvc, http, https, s3"),
    Case(
        JOB,
        {"spec.model.uri": "https://me:secret@host/m"},
        "is not a file, pvc, http, https, s3",
    ),
    Case(
        JOB,
        {"spec.model.uri": "models:/digits"},
        "'models:/digits' is not a file, pvc, http, https, s3",
    ),
    Case(JOB, {"spec.publish.uri": "hf://org/name"}, "'hf://org/name' is not a file, pvc, s3, gs or oci address"),
    Case(JOB, {"spec.model.uri": "pvc://My_Claim/m"}, "'pvc://My_Claim/m' is not a file, pvc, http, https, s3"),
    Case(JOB, {"spec.model.uri": "pvc://a%2fb/m.onnx"}, "'pvc://a%2fb/m.onnx' is not a file, pvc, http, https, s3"),
    Case(JOB, {"spec.publish.uri": "pvc://../store"}, "'pvc://../store' is not a file, pvc, s3, gs or oci address"),
    *(
        Case(good, {field: uri}, f"'{uri}' has .. in its path: name the place in the claim itself")
        for good, field, uri in (
            (JOB, "spec.model.uri", "pvc://models/../store/m.onnx"),
            (JOB, "spec.model.code", "pvc://models/a/../../m.py"),
            (JOB, "spec.data.holdout.uri", "pvc://data/%2e%2E/x.npz"),
            (JOB, "spec.publish.uri", "pvc://published/a%2f.%2e"),
            (MONITOR, "spec.capture", "pvc://captured/.."),
            (RUNTIME, "spec.store.uri", "pvc://store/../other"),
        )
    ),
    Case(RUNTIME, {"spec.store.keep": "23h"}, "keep must be at least 24h, and longer than a job may take"),
    Case(RUNTIME, {"spec.store.uri": "s3://store/a"}, "keep is for a store on a disk"),
    Case(RUNTIME, {"spec.store.uri": "oci://store/a"}, "'oci://store/a' is not a file, pvc, s3 or gs address"),
    Case(JOB, {"spec.model.factory": "build"}, "'build' is not a module:function such as digits:build"),
    Case(JOB, {"spec.target.runtimeRef.name": "GPU"}, "'GPU' is not a Kubernetes name such as cpu-small"),
    Case(JOB, {"spec.techniques.0.prune.ratio.values": ["30%"]}, "'30%' is not a number such as 0.5"),
    Case(
        JOB, {"spec.techniques.0.prune.ratios": {}}, "Extra inputs", 'unknown field "spec.techniques[0].prune.ratios"'
    ),
    Case(JOB, {"spec.data.holdout": REMOVED}, "Field required", "spec.data.holdout: Required value"),
    Case(JOB, {"spec.search.seed": "seven"}, "valid integer", "spec.search.seed in body must be of type integer"),
    Case(
        JOB,
        {"spec.target.engines.0": "TFLite"},
        "Input should be 'ONNXRuntime', 'OpenVINO' or 'TensorRT'",
        'supported values: "ONNXRuntime", "OpenVINO", "TensorRT"',
    ),
    # One for each rule.
    Case(JOB, {"spec.target.engines": ["OpenVINO", "OpenVINO"]}, "engines names an engine twice: name each once"),
    Case(JOB, {"metadata.name": "n" * 41}, "metadata.name has more than 40 characters"),
    Case(JOB, {"spec.model.factory": REMOVED}, "a PyTorch model needs factory"),
    Case(JOB, {"spec.constraints.0.max": "99%"}, "give exactly one of maxDrop, max and min"),
    Case(
        JOB,
        {"spec.constraints.0.metric": "size"},
        "maxDrop is for quality: bound latency, size and other costs with max",
    ),
    Case(JOB, {"spec.constraints.1.max": "20Mi"}, "the bound has the wrong unit: accuracy takes a percent (98%)"),
    Case(JOB, {"spec.constraints.2.max": "5ms"}, "the bound has the wrong unit: accuracy takes a percent (98%)"),
    Case(JOB, {"spec.constraints.1.max": "0.0ms"}, "max must be above 0"),
    Case(JOB, {"spec.constraints.2.max": "0"}, "max must be above 0"),
    Case(JOB, {"spec.constraints.3.min": "0.98"}, "the bound has the wrong unit: accuracy takes a percent (98%)"),
    Case(JOB, {"spec.budget.memory": "0Mi"}, "memory must be above 0"),
    Case(JOB, {"spec.budget.deadline": "0s"}, "'0s' is no time at all: give more than 0"),
    Case(JOB, {"spec.search.timeout": "0.0h0m"}, "'0.0h0m' is no time at all: give more than 0"),
    *(
        Case(
            JOB,
            {f"spec.constraints.{number}": {"metric": metric, kind: share}},
            "accuracy, topK, f1, auroc and cosine are at most 100%: give min or maxDrop as a part of that",
        )
        for number, metric, kind, share in (
            (0, "accuracy", "maxDrop", "999%"),
            (3, "accuracy", "min", "200%"),
            (3, "cosine", "min", "100.01%"),
            (3, "auroc", "min", "101%"),
        )
    ),
    Case(
        JOB, {"spec.constraints.1": {"metric": "accuracy", "maxDrop": "2%"}}, "constraints has two bounds of one kind"
    ),
    Case(JOB, {"spec.constraints.1": {"metric": "size", "max": "21Mi"}}, "constraints has two bounds of one kind"),
    *(
        Case(
            JOB,
            {
                "spec.constraints.1": {"metric": metric, "min": low},
                "spec.constraints.2": {"metric": metric, "max": high},
            },
            "constraints asks for more of a metric (min) than it allows (max): no model can keep both",
        )
        for metric, low, high in (
            ("cosine", "90%", "80%"),
            ("latencyP50", "1h30m", "89m"),
            ("size", "1Mi", "1M"),
            ("mse", "0.5", "4e-1"),
        )
    ),
    Case(JOB, {"spec.constraints.2.metric": "throughput"}, "the bound has the wrong unit: accuracy takes a percent"),
    Case(JOB, {"spec.constraints.2": {"metric": "mse", "max": "-1"}}, "max must be above 0"),
    Case(JOB, {"spec.objectives.0.metric": "costPerMillion"}, "costPerMillion needs metrics.pricePerHour"),
    Case(JOB, {"spec.constraints.0.metric": "custom"}, "the metric custom needs metrics.custom"),
    Case(JOB, {"spec.objectives.0.metric": "accuracy"}, "the goal is the wrong way round: Maximize accuracy, topK"),
    Case(JOB, {"spec.objectives.0.goal": "Maximize"}, "the goal is the wrong way round: Maximize accuracy, topK"),
    Case(
        JOB,
        {"spec.objectives.0.metric": "custom", "spec.metrics": {"custom": {"function": "my:score"}}},
        "the goal of an objective on custom is not that of metrics.custom",
    ),
    Case(JOB, {"spec.metrics": {"pricePerHour": "0.0"}}, "pricePerHour must be above 0"),
    Case(JOB, {"spec.metrics": {"custom": {"function": "score"}}}, "'score' is not a module:function such as"),
    Case(JOB, {"spec.data.train": REMOVED}, "distill trains: give data.train"),
    Case(JOB, {"spec.data.calibration": REMOVED}, "static quantization needs data.calibration"),
    Case(JOB, {"spec.techniques.2": {"nncf": {}}, "spec.data.calibration": REMOVED}, "nncf needs data.calibration"),
    Case(
        JOB,
        {"spec.techniques.2": {"nncf": {}}, "spec.target.engines": ["ONNXRuntime"]},
        "only OpenVINO runs what nncf makes: add it to target.engines",
    ),
    *(
        Case(
            JOB,
            {**steps, "spec.target.engines": ["OpenVINO"]},
            "no technique takes what nncf makes: make it the last step, and name it once",
        )
        for steps in (
            {"spec.techniques.1": {"nncf": {}, "optional": True}},
            {"spec.techniques.1": {"nncf": {}}, "spec.techniques.2": {"nncf": {}}},
        )
    ),
    Case(
        JOB,
        {"spec.model.format": "ONNX", "spec.model.factory": REMOVED},
        "prune and distill need a PyTorch model",
    ),
    Case(JOB, {"spec.techniques.0.quantize": {}}, "a step names exactly one technique: split it in two"),
    Case(JOB, {"spec.techniques.0.prune": REMOVED}, "a step names exactly one technique: split it in two"),
    Case(JOB, {"spec.techniques.0.prune.ratio.min": "0.1"}, "give either values, or min and max"),
    Case(JOB, {"spec.techniques.1.distill.epochs.max": REMOVED}, "give either values, or min and max"),
    Case(JOB, {"spec.techniques.1.distill.learningRate.max": "1e-9"}, "min is above max: the range is empty"),
    Case(JOB, {"spec.techniques.1.distill.epochs.min": 4}, "min is above max: the range is empty"),
    Case(
        JOB,
        {"spec.techniques.2.quantize.calibrationSamples": {"values": [100], "min": 100}},
        "give either values, or min and max",
    ),
    Case(
        JOB,
        {"spec.techniques.2.quantize.calibrationSamples": {"min": 300, "max": 100}},
        "min is above max: the range is empty",
    ),
    Case(JOB, {"spec.techniques.1.distill.learningRate.min": "0"}, "a Log scale needs min above 0"),
    Case(MONITOR, {"spec.target.model": "my model"}, "'my model' is not a label value such as digits-v2"),
    Case(MONITOR, {"spec.triggers.0.latency": {"max": "5ms"}}, "a trigger names exactly one of drift and latency"),
    Case(MONITOR, {"spec.capture": "s3://captured"}, "'s3://captured' is not a file:// or pvc:// address"),
    Case(MONITOR, {"spec.capture": REMOVED}, "Recalibrate needs capture, the folder the server writes recent"),
    Case(MONITOR, {"spec.jobTemplate.spec.data.train": REMOVED}, "distill trains: give data.train"),
    Case(RUNTIME, {"spec.resources.limits.memory": "1 GB"}, "'1 GB' is not an amount such as 2, 500m or 2Gi"),
    Case(RUNTIME, {"spec.activeDeadline": "0s"}, "'0s' is no time at all: give more than 0"),
    *(
        Case(RUNTIME, {"spec.image": image}, f"'{image}' is not an image such as registry.example.com/team")
        for image in ("", " jobs ", "a b", "jobs:", "-jobs")
    ),
    *(
        Case(RUNTIME, {"spec.claims.0.mountPath": path}, f"'{path}' is not an absolute path such as /data, with no ..")
        for path in ("/", "/a/../b", "/..", "/a/.", "/a//b", "/a/", "/a:b")
    ),
    *(
        Case(RUNTIME, {"spec.claims.0.mountPath": path}, f"'{path}' is taken: mount the claim elsewhere, such as at")
        for path in ("/tmp", "/trimtab", "/trimtab/volumes/models", "/dev/shm", "/proc", "/sys/fs")
    ),
    Case(
        RUNTIME,
        {"spec.claims": [{"claim": claim, "mountPath": "/models"} for claim in ("a", "b")]},
        "claims has a mountPath twice: mount each claim at a path of its own",
    ),
    *(
        Case(RUNTIME, {"spec.resources.limits": {name: "1"}}, f"'{name}' is not a resource that Kubernetes knows: cpu")
        for name in ("gpu", "CPU", "nvidia.com", "nvidia.com/", "/gpu", "a/b/c", "hugepages-big", "a b/c")
    ),
    Case(RUNTIME, {"spec.resources.requests": {"cpu": "1001m"}}, "requests has more of a resource than limits"),
    Case(RUNTIME, {"spec.resources.requests": {"memory": "1.1G"}}, "requests has more of a resource than limits"),
    Case(RUNTIME, {"spec.resources.requests": {"cpu": 2}}, "requests has more of a resource than limits"),
    Case(
        RUNTIME,
        {"spec.playoff.resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}},
        "requests has more of a resource than limits: lower the request, or raise the limit",
    ),
    *(
        Case(
            RUNTIME,
            {"spec.resources": resources},
            "devices such as nvidia.com/gpu, and huge pages, are set aside as limits says: give them in limits alone",
        )
        for resources in (
            {"requests": {"nvidia.com/gpu": 1}},
            {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}},
            {"requests": {"hugepages-2Mi": "4Mi"}, "limits": {"hugepages-2Mi": "6Mi", "cpu": 1}},
        )
    ),
    *(
        Case(
            RUNTIME, {"spec.resources.limits": {"nvidia.com/gpu": amount}}, "devices such as nvidia.com/gpu are not div"
        )
        for amount in ("0.5", "1500m")
    ),
    Case(RUNTIME, {"spec.env.0.name": "OMP-THREADS"}, "'OMP-THREADS' is not a variable's name such as OMP_NUM"),
    Case(RUNTIME, {"spec.claims.0.mountPath": "models"}, "'models' is not an absolute path such as /data"),
    Case(RUNTIME, {"spec.nodeSelector": {"arch": "x86 64"}}, "'x86 64' is not a label's value such as amd64"),
    *(
        Case(RUNTIME, {field: {name: "v"}}, f"'{name}' is not {expected}")
        for field, expected in (
            ("spec.nodeSelector", "a label's name such as"),
            ("spec.playoff.nodeSelector", "a label's name such as"),
            ("spec.podLabels", "a label's name such as"),
            ("spec.podAnnotations", "an annotation's name such as"),
        )
        for name in ("a b", "a/b/c", "-a", "a.", "a..b/c", "n" * 64)
    ),
    Case(RUNTIME, {"spec.podLabels": {"good": "v", "a b": "v"}}, "'a b' is not a label's name such as"),
    Case(RUNTIME, {"spec.podLabels": {"team": "a b"}}, "'a b' is not a label's value such as amd64"),
    Case(RUNTIME, {"spec.tolerations.0.key": "a b"}, "'a b' is not a label's name such as kubernetes.io/arch"),
    Case(RUNTIME, {"spec.resourceClaims.0.name": "GPU"}, "'GPU' is not a word of lower-case letters, digits and dash"),
    Case(RUNTIME, {"spec.resourceClaims": [{"name": "a", "resourceClaimTemplateName": "b"}] * 2}, "has a name twice"),
    Case(RUNTIME, {"spec.queue.name": "Team A"}, "'Team A' is not a word of lower-case letters, digits and dashes"),
    Case(RUNTIME, {"spec.queue.priorityClassName": "high.prio"}, "'high.prio' is not a word of lower-case letters"),
    Case(RUNTIME, {"spec.tolerations.0.operator": "Exists"}, "Exists takes no value, and Equal needs a key"),
    Case(RUNTIME, {"spec.tolerations.0.key": REMOVED}, "Exists takes no value, and Equal needs a key"),
    Case(RUNTIME, {"spec.tolerations.0.effect": "NoSchedule"}, "tolerationSeconds is for the effect NoExecute"),
    Case(RUNTIME, {f"{NODES}.0.values": []}, "In and NotIn need values, Gt and Lt one whole number"),
    Case(RUNTIME, {f"{NODES}.0.operator": "Gt"}, "In and NotIn need values, Gt and Lt one whole number"),
    Case(RUNTIME, {f"{NODES}.0.operator": "Exists"}, "In and NotIn need values, Gt and Lt one whole number"),
    Case(RUNTIME, {"spec.podLabels": {"trimtab.dev/managed": "false"}}, "podLabels: names that begin with trimtab.dev"),
    Case(RUNTIME, {"spec.podLabels": {"kueue.x-k8s.io/queue-name": "q"}}, "podLabels: names that begin with trimtab"),
    Case(
        RUNTIME,
        {"spec.podAnnotations": {"container.apparmor.security.beta.kubernetes.io/work": "unconfined"}},
        "podAnnotations: names that begin with trimtab.dev",
    ),
    Case(
        RUNTIME,
        {"spec.nodeSelector": {"k" * 254: "v"}},
        "at most 253 characters",
        "a name has more than 253 characters",
    ),
    Case(CLUSTER_RUNTIME, {"spec.allowedNamespaces.0": "Team"}, "'Team' is not a namespace, or several by a star"),
    # A star in the registry's name would let anybody's registry in.
    Case(
        CLUSTER_RUNTIME,
        {"spec.allowedImages.0": "r.example.com*"},
        "'r.example.com*' is not an image with its registry",
    ),
    Case(CLUSTER_RUNTIME, {"spec.allowedImages.0": "*/team/jobs"}, "'*/team/jobs' is not an image with its registry"),
)
CASES += tuple(replace(case, good=CLUSTER_RUNTIME) for case in CASES if case.good is RUNTIME)


CLUSTER_CASES = tuple(
    Case(good, {field: value}, "a file:// address is for runs without a cluster")
    for good, field, value in (
        (JOB, "spec.model.uri", "file:///trimtab/volumes/store/artifacts/0/model.onnx"),
        (JOB, "spec.model.code", "file:///opt/venv/evil.py"),
        (JOB, "spec.data.evaluation.uri", "file:///proc/self/environ"),
        (JOB, "spec.metrics", {"custom": {"function": "mine:error", "code": "file:///opt/venv/mine.py"}}),
        (JOB, "spec.publish.uri", "file:///opt/venv"),
        (MONITOR, "spec.capture", "file:///captured"),
    )
)
"""What only the API server refuses: on a laptop the same manifest is right."""


CHANGES: dict[str, Any] = {
    "spec.model.uri": "pvc://models/other.safetensors",
    "spec.data.holdout.uri": "pvc://data/other.npz",
    "spec.target.engines": ["OpenVINO"],
    "spec.constraints": [],
    "spec.objectives.0.metric": "size",
    "spec.metrics": {"pricePerHour": "0.1"},
    "spec.techniques.0.optional": False,
    "spec.search.algorithm": REMOVED,
    "spec.search.seed": 8,
    "spec.publish": REMOVED,
}
"""A change to each field that is given at creation and stays."""

EDITS: tuple[dict[str, Any], ...] = (
    {"spec.suspend": False},
    {"spec.search.maxTrials": 16, "spec.search.parallelism": 1, "spec.search.timeout": "30m"},
    {"spec.search.earlyStopping": REMOVED},
    {"spec.budget": {"deadline": "3h", "gpuSeconds": 7200}},
    {"spec.ttlSecondsAfterFinished": 60},
)
"""Changes that may be made at any time."""


def changed(good: Manifest, changes: Mapping[str, Any]) -> Manifest:
    """A copy of a manifest with the fields at dotted paths set or removed."""
    result = copy.deepcopy(good)
    for path, value in changes.items():
        *parents, last = path.split(".")
        node: Any = result
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node[key]
        if value is REMOVED:
            del node[last]
        else:
            node[int(last) if isinstance(node, list) else last] = value
    return result


Path = tuple[str | int, ...]
ANY_KEY = "k"
"""Of a map, such as a node selector."""
Make = Callable[[Any, Any], Any]
BEYOND: dict[str, tuple[Make, tuple[str, ...], str]] = {
    "minimum": (lambda limit, _: limit - 1, ("greater_than_equal",), "should be greater than or equal to"),
    "maximum": (lambda limit, _: limit + 1, ("less_than_equal",), "should be less than or equal to"),
    "minLength": (lambda limit, _: "a" * (limit - 1), ("string_too_short",), "should be at least"),
    "maxLength": (lambda limit, _: "a" * (limit + 1), ("string_too_long",), "Too long: may not be more than"),
    "minItems": (lambda limit, item: [item] * (limit - 1), ("too_short",), "should have at least"),
    "maxItems": (lambda limit, item: [item] * (limit + 1), ("too_long",), "Too many"),
    "minProperties": (lambda limit, _: _keys(limit - 1), ("too_short",), "should have at least"),
    "maxProperties": (lambda limit, _: _keys(limit + 1), ("too_long",), "Too many"),
    "enum": (lambda known, _: -1 if isinstance(known[0], int) else "?", ("enum", "literal_error"), "Unsupported value"),
    "pattern": (lambda _, __: "?!", ("value_error",), "'?!' is not "),
}
"""By the keyword of a limit: a value just beyond it, what pydantic calls the error, and what the API server says."""


def _keys(count: int) -> Manifest:
    """Names that are good ones of labels, annotations and resources."""
    return {f"example.com/key-{number}": "1" for number in range(count)}


@dataclass(frozen=True)
class Bound:
    """A limit of a field, and a value just beyond it."""

    kind: str
    path: Path
    keyword: str
    value: Any

    @property
    def manifest(self) -> Manifest:
        """The good one with that value. What it lacks on the way there is the least that the schema asks for."""
        manifest = copy.deepcopy(GOOD[self.kind])
        return manifest | {"spec": _placed(_spec_schema(self.kind), manifest["spec"], self.path[1:], self.value)}

    @property
    def field(self) -> str:
        """As people write it."""
        return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path).removeprefix(".")

    def __str__(self) -> str:
        return f"{self.kind}.{self.field}-{self.keyword}"


@cache
def _spec_schema(kind: str) -> Manifest:
    (spec,) = (known.parts["spec"] for known in KINDS if known.name == kind)
    return inlined(wire_schema(spec))


def _placed(schema: Manifest, node: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(key, int):
        first, *others = node or [None]
        return [_placed(schema["items"], first, rest, value), *others]
    members = _least(schema) if node is None else node
    child = schema.get("properties", {}).get(key) or schema["additionalProperties"]
    return members | {key: _placed(child, members.get(key), rest, value)}


def _least(schema: Manifest) -> Any:
    """A value without one of the problems for which the API server asks no rule: a type, what is required."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "array":
        return [_least(schema["items"])] * schema.get("minItems", 0)
    if schema.get("type") == "object":
        required = {name: _least(schema["properties"][name]) for name in schema.get("required", [])}
        return required | _keys(schema.get("minProperties", 0))
    return {"string": "a", "integer": schema.get("minimum", 1), "boolean": True}[schema["type"]]


def bounds() -> Iterator[Bound]:
    """Every limit of every kind; a monitor's job template and a cluster's runtime are known specs once more."""
    for kind in KINDS:
        for bound in _bounds(kind.name, _spec_schema(kind.name), ("spec",)):
            again = kind.name == "ClusterOptimizationRuntime" and bound.path[1] in RUNTIME["spec"]
            if bound.path[1] != "jobTemplate" and not again:
                yield bound


def _bounds(kind: str, schema: Manifest, path: Path) -> Iterator[Bound]:
    item = _least(schema["items"]) if "items" in schema else None
    for keyword, (make, _, _) in BEYOND.items():
        if keyword in schema:
            yield Bound(kind, path, keyword, make(schema[keyword], item))
    for name in schema.get("properties", {}):
        yield from _bounds(kind, schema["properties"][name], (*path, name))
    if "items" in schema:
        yield from _bounds(kind, schema["items"], (*path, 0))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _bounds(kind, schema["additionalProperties"], (*path, ANY_KEY))


BOUNDS = tuple(bounds())
