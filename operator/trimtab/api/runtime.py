"""OptimizationRuntime: how and where pods run, owned by whoever owns the nodes.

A job names a runtime and cannot say more about its pods: image, claims, resources and node selection are the
admin's. It is the only place that may point at infrastructure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trimtab.api.base import Pattern, Spec
from trimtab.api.job import ObjectMeta
from trimtab.api.model import FolderUri, Name
from trimtab.api.quantities import Duration

ResourceName = Annotated[str, Field(max_length=253)]
AMOUNT = Pattern(r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$", "an amount such as 500m or 2Gi")
VARIABLE = Pattern(r"^[A-Za-z_][A-Za-z0-9_]*$", "a variable's name such as OMP_NUM_THREADS")
MOUNT_PATH = Pattern(r"^/[^:]*$", "an absolute path such as /data")
ResourceAmount = Annotated[str, Field(max_length=24), AMOUNT]


class Store(Spec):
    """Where pods leave what they made."""

    uri: FolderUri = Field(description="A folder for artifacts, the cache and full reports, shared by a job's pods.")


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
    mount_path: Annotated[str, Field(max_length=256), MOUNT_PATH] = Field(description="Where the pod finds it.")
    read_only: bool = Field(True, description="Pods cannot write to it.")


class Resources(Spec):
    """What every pod gets, as in corev1.ResourceRequirements."""

    requests: dict[ResourceName, ResourceAmount] = Field({}, max_length=16, description="What is set aside for a pod.")
    limits: dict[ResourceName, ResourceAmount] = Field({}, max_length=16, description="What a pod may use at most.")


class PullPolicy(StrEnum):
    """When a node fetches the image, as in corev1.PullPolicy."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class OptimizationRuntimeSpec(Spec):
    """What every pod of a job has in common."""

    image: Annotated[str, Field(min_length=1, max_length=512)] = Field(description="The image of every stage's pod.")
    image_pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    store: Store
    env: list[EnvVar] = Field([], max_length=32, description="Environment variables.")
    env_from: list[EnvFrom] = Field([], max_length=8, description="Secrets: what `s3://` and other addresses ask for.")
    claims: list[ClaimMount] = Field([], max_length=16, description="Claims to mount.")
    resources: Resources = Resources()
    node_selector: dict[ResourceName, Annotated[str, Field(max_length=63)]] = Field(
        {}, max_length=16, description="The labels of the nodes that pods may run on."
    )
    runtime_class_name: Name | None = Field(None, description="The RuntimeClass, such as nvidia.")
    active_deadline: Duration = Field("1h", description="One pod's time, after which Kubernetes ends it.")


class OptimizationRuntime(Spec):
    """How and where the pods of OptimizationJobs run."""

    api_version: str = "trimtab.dev/v1alpha1"
    kind: str = "OptimizationRuntime"
    metadata: ObjectMeta
    spec: OptimizationRuntimeSpec
