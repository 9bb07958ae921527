"""OptimizationRuntime: how and where pods run, owned by whoever owns the nodes.

A job names a runtime and cannot say more about its pods: image, claims, resources and node selection are the
admin's. It is the only place that may point at infrastructure.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from trimtab.api.base import Pattern, Rule, Spec, Without
from trimtab.api.job import ObjectMeta
from trimtab.api.model import Name, StoreUri, is_local
from trimtab.api.quantities import Duration, PositiveDuration, parse_duration
from trimtab.api.resources import Resources
from trimtab.api.scheduling import DOMAIN, LABEL_WORD, WORD, Affinity, Labels, ResourceClaim, Toleration

# As a label's, but that Kubernetes lets the domain have capitals.
ANNOTATION_KEY = Pattern(
    rf"^({DOMAIN.replace('a-z', 'A-Za-z')}/)?{WORD}$", "an annotation's name such as prometheus.io/scrape"
)
IMAGE = Pattern(
    r"^[A-Za-z0-9\[]([-\w.:/@+\[\]]*\w)?$", "an image such as registry.example.com/team/trimtab-jobs:v1, without spaces"
)
VARIABLE = Pattern(r"^[A-Za-z_][A-Za-z0-9_]*$", "a variable's name such as OMP_NUM_THREADS")
_PART = r"([^/:.]|\.[^/:.]|\.\.[^/:])[^/:]*"
MOUNT_PATH = Pattern(rf"^(/{_PART})+$", "an absolute path such as /data, with no .. in it and no / at its end")
# /tmp itself is a volume of every pod; of the others nothing can be mounted over any part.
UNTAKEN = Without(r"^/(tmp$|(trimtab|dev|proc|sys)(/|$))", "is taken: mount the claim elsewhere, such as at /data")
Annotations = dict[Annotated[str, Field(max_length=253), ANNOTATION_KEY], Annotated[str, Field(max_length=1024)]]


def _keeps_a_day(store: Store) -> bool:
    return store.keep is None or parse_duration(store.keep) >= LEAST_KEPT


LEAST_KEPT = 24 * 3600.0
"""Seconds. What a job made and has not used yet must not be taken away from it by another that ends."""


class Store(Spec):
    """Where pods leave what they made."""

    rules: ClassVar = (
        Rule(
            "!has(self.keep) || duration(self.keep) >= duration('24h')",
            "keep must be at least 24h, and longer than a job may take: jobs under way need what they have made",
            _keeps_a_day,
        ),
        Rule(
            "!has(self.keep) || self.uri.matches('^(file|pvc):')",
            "keep is for a store on a disk: what is old in a bucket is the business of its lifecycle rules",
            lambda s: s.keep is None or is_local(s.uri),
        ),
    )
    uri: StoreUri = Field(
        description="A folder for artifacts, the cache and full reports, shared by a job's pods: in a claim that all "
        "of them can mount, or in a bucket, from which each pod has what it needs on its own disk."
    )
    keep: Duration | None = Field(
        None,
        description="For how long what no job uses is kept: models, what a step made of them (the cache), what was "
        "fetched, full reports. The pod that publishes removes what is older, a winner that was published nowhere "
        "included. Left out: all is kept, and the store grows with every job.",
    )


class EnvVar(Spec):
    """An environment variable of every pod."""

    name: Annotated[str, Field(max_length=128), VARIABLE] = Field(description="The variable.")
    value: Annotated[str, Field(max_length=4096)] = Field("", description="Its value, as it is: nothing is expanded.")


class SecretRef(Spec):
    """Names a Secret."""

    name: Name = Field(description="The Secret, in the namespace of the job.")


class EnvFrom(Spec):
    """Where further environment variables come from, as in corev1.EnvFromSource."""

    secret_ref: SecretRef = Field(description="Each of its keys is a variable, such as AWS_SECRET_ACCESS_KEY.")


class ClaimMount(Spec):
    """A PersistentVolumeClaim mounted in every pod, beside those that `pvc://` addresses name."""

    claim: Name = Field(description="The PersistentVolumeClaim, in the namespace of the job.")
    mount_path: Annotated[str, Field(max_length=256), MOUNT_PATH, UNTAKEN] = Field(
        description="Where the pod finds it."
    )
    read_only: bool = Field(True, description="Pods cannot write to it.")


class CustomCode(StrEnum):
    """Whether a job may have Python of its own run in its pods: a PyTorch model's factory, a metric's function."""

    FORBID = "Forbid"
    ALLOW = "Allow"


class PullPolicy(StrEnum):
    """When a node fetches the image, as in corev1.PullPolicy."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class PullSecret(Spec):
    """Names a Secret for a registry."""

    name: Name = Field(description="The Secret, in the namespace of the job.")


class Exclusive(StrEnum):
    """Whether a node may run other pods of Trimtab, of any job and namespace, beside the playoff's."""

    PREFERRED = "Preferred"
    REQUIRED = "Required"


class Playoff(Spec):
    """The one pod that times the finalists: what it has in place of what every pod has."""

    exclusive: Exclusive = Field(
        Exclusive.PREFERRED,
        description="Preferred: a node without other pods of Trimtab, if there is one. Required: it waits for such a "
        "node, and none joins it; for nodes of its own, since where trials always run it waits until its deadline.",
    )
    node_selector: Labels | None = Field(
        None, max_length=16, description="The labels of the nodes that are like those that will serve."
    )
    tolerations: list[Toleration] | None = Field(None, max_length=16, description="The taints that it bears.")
    affinity: Affinity | None = Field(None, description="Further rules for where it may run.")
    resources: Resources | None = Field(None, description="What it gets; GPUs that are not named here it has not.")


class Queue(Spec):
    """Kueue's queue, which lets a Job start when there is quota for it, and may take the quota back."""

    name: Annotated[str, Field(max_length=63), LABEL_WORD] = Field(
        description="The LocalQueue, in the namespace of the job. Kueue counts what `resources` ask for."
    )
    priority_class_name: Annotated[str, Field(max_length=63), LABEL_WORD] | None = Field(
        None,
        description="The WorkloadPriorityClass: who comes first in the queue, and who makes room. No job changes it; "
        "left out, a job's label kueue.x-k8s.io/priority-class names one.",
    )


class Distributed(Spec):
    """How many pods and processes train together, in the words of Kubeflow's TrainJob."""

    # An index of one digit: the longest names of Jobs leave no more of a hostname's 63 characters.
    num_nodes: int = Field(
        1, ge=1, le=10, description="Pods, each with all `resources`. Several need Kubernetes 1.31 and cluster DNS."
    )
    num_proc_per_node: int = Field(
        1, ge=1, le=16, description="Processes in a pod: where it has GPUs, as many as those. They share its CPUs."
    )

    @property
    def processes(self) -> int:
        """Of all pods."""
        return self.num_nodes * self.num_proc_per_node


RESERVED_LABELS = ("trimtab.dev/", "batch.kubernetes.io/", "kueue.x-k8s.io/", "job-name", "controller-uid")
RESERVED_ANNOTATIONS = ("trimtab.dev/", "batch.kubernetes.io/", "container.apparmor.security.beta.kubernetes.io/")
"""The last would take a pod's AppArmor profile away."""


def _unreserved_cel(field: str, reserved: tuple[str, ...]) -> str:
    prefixes = ", ".join(f"'{prefix}'" for prefix in reserved)
    return f"self.{field}.all(name, ![{prefixes}].exists(p, name.startsWith(p)))"


def _unreserved(names: Mapping[str, str], reserved: tuple[str, ...]) -> bool:
    return not any(name.startswith(reserved) for name in names)


KEPT_SECONDS = 86400
"""How long an ended job's pods are kept where no runtime says it."""


class OptimizationRuntimeSpec(Spec):
    """What every pod of a job has in common."""

    rules: ClassVar = (
        Rule(
            _unreserved_cel("podLabels", RESERVED_LABELS),
            f"podLabels: names that begin with {', '.join(RESERVED_LABELS)} are taken",
            lambda s: _unreserved(s.pod_labels, RESERVED_LABELS),
        ),
        Rule(
            _unreserved_cel("podAnnotations", RESERVED_ANNOTATIONS),
            f"podAnnotations: names that begin with {', '.join(RESERVED_ANNOTATIONS)} are taken",
            lambda s: _unreserved(s.pod_annotations, RESERVED_ANNOTATIONS),
        ),
        Rule(
            "self.resourceClaims.all(c, self.resourceClaims.exists_one(x, x.name == c.name))",
            "resourceClaims has a name twice: call each differently",
            lambda s: len({claim.name for claim in s.resource_claims}) == len(s.resource_claims),
        ),
        Rule(
            "self.claims.all(c, self.claims.exists_one(x, x.mountPath == c.mountPath))",
            "claims has a mountPath twice: mount each claim at a path of its own",
            lambda s: len({mount.mount_path for mount in s.claims}) == len(s.claims),
        ),
    )
    image: Annotated[str, Field(max_length=512), IMAGE] = Field(description="The image of every stage's pod.")
    image_pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    image_pull_secrets: list[PullSecret] = Field([], max_length=8, description="For the registry that has the image.")
    store: Store
    env: list[EnvVar] = Field([], max_length=32, description="Environment variables.")
    env_from: list[EnvFrom] = Field([], max_length=8, description="Secrets: what `s3://` and other addresses ask for.")
    claims: list[ClaimMount] = Field(
        [], max_length=16, description="Claims to mount. No job of the namespace may name them, nor the store's."
    )
    custom_code: CustomCode = Field(
        CustomCode.FORBID,
        description="Forbid: no job has a factory or a function of its choice run, not even one that the image has. "
        "Allow: whoever writes jobs for this runtime can do all that its pods can, with the Secrets of envFrom, the "
        "claims and everything in the store.",
    )
    resources: Resources = Resources()
    resource_claims: list[ResourceClaim] = Field([], max_length=8, description="Devices that a driver hands out.")
    node_selector: Labels = Field({}, max_length=16, description="The labels of the nodes that pods may run on.")
    tolerations: list[Toleration] = Field([], max_length=16, description="The taints that pods bear.")
    affinity: Affinity | None = Field(None, description="Further rules for where pods may run.")
    distributed: Distributed | None = Field(
        None,
        description="Steps that train (distill) are run by torchrun, on so many pods and processes. All other work, "
        "and trials without such a step, have one pod. Left out: a step that trains is one process, on the CPU.",
    )
    playoff: Playoff = Field(Playoff(), description="What the pod that times the finalists has instead.")
    priority_class_name: Name | None = Field(None, description="The PriorityClass of pods.")
    queue: Queue | None = Field(
        None,
        description="The queue of jobs that name none in a label of theirs, kueue.x-k8s.io/queue-name. It takes Kueue: "
        "without it nothing starts.",
    )
    scheduler_name: Name | None = Field(None, description="Left out: the cluster's own scheduler.")
    runtime_class_name: Name | None = Field(None, description="The RuntimeClass, such as nvidia.")
    pod_labels: Labels = Field({}, max_length=16, description="Labels of pods, such as what their cost is booked on.")
    pod_annotations: Annotations = Field(
        {}, max_length=16, description="Annotations of pods, such as what an autoscaler or a mesh reads."
    )
    active_deadline: PositiveDuration = Field("1h", description="One pod's time, after which Kubernetes ends it.")
    ttl_seconds_after_finished: int = Field(
        KEPT_SECONDS,
        ge=0,
        le=2**31 - 1,
        description="How long the pods of an OptimizationJob, and so their logs, are kept after it has ended. Before "
        "that none is deleted: they are the record of what was tried.",
    )


class OptimizationRuntime(Spec):
    """How and where the pods of OptimizationJobs run."""

    api_version: str = "trimtab.dev/v1alpha1"
    kind: str = "OptimizationRuntime"
    metadata: ObjectMeta
    spec: OptimizationRuntimeSpec

    @property
    def edition(self) -> str:
        """This runtime with this spec, in a word: what pods were made by."""
        return f"{self.metadata.uid}/{self.metadata.generation}"


NAMESPACES = Pattern(r"^[-a-z0-9*]+$", "a namespace, or several by a star, such as team-*")
IMAGES = Pattern(
    r"^[-A-Za-z0-9.:]+/[-\w./:@*]+$",
    "an image with its registry written out, or several by a star, such as registry.example.com/team/*",
)


class ClusterOptimizationRuntimeSpec(OptimizationRuntimeSpec):
    """What every pod of a job has in common. The claims and Secrets it names are those of the job's namespace; a store
    in a bucket is one for all namespaces, open to whoever has the credentials in any of them.
    """

    allowed_namespaces: list[Annotated[str, Field(max_length=63), NAMESPACES]] = Field(
        min_length=1,
        max_length=64,
        description="The namespaces it is for, by name: people who may label a namespace cannot rename it. A star "
        "stands for any characters.",
    )
    allowed_images: list[Annotated[str, Field(max_length=512), IMAGES]] = Field(
        [],
        max_length=64,
        description="What OptimizationRuntimes of these namespaces may have as their image; a star stands for any "
        "characters. Those of all ClusterOptimizationRuntimes for a namespace add up; where none has any, any image "
        "is allowed.",
    )


class ClusterOptimizationRuntime(OptimizationRuntime):
    """How and where the pods of OptimizationJobs run, owned by the cluster's administrator."""

    kind: str = "ClusterOptimizationRuntime"
    spec: ClusterOptimizationRuntimeSpec
