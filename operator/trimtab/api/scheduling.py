"""Where pods may run, in the words of corev1: tolerations, affinity, devices.

Only what a runtime has a use for, so that the API server checks every field when the runtime is written and not when
the first Job is refused. Terms about pods see those of the job's own namespace: whoever writes a runtime there must not
be able to keep others off a node.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from trimtab.api.base import Pattern, Rule, Spec
from trimtab.api.model import Name

DOMAIN = r"([a-z0-9]([-a-z0-9]*[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]*[a-z0-9])?"
WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_KEY = Pattern(rf"^({DOMAIN}/)?{WORD}$", "a label's name such as kubernetes.io/arch")
LABEL_VALUE = Pattern(r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", "a label's value such as amd64")
LABEL_WORD = Pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a word of lower-case letters, digits and dashes such as gpu")
LabelKey = Annotated[str, Field(max_length=253), LABEL_KEY]
LabelValue = Annotated[str, Field(max_length=63), LABEL_VALUE]
Labels = dict[LabelKey, LabelValue]


class TolerationOperator(StrEnum):
    EQUAL = "Equal"
    EXISTS = "Exists"


class TaintEffect(StrEnum):
    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(Spec):
    """A taint that pods bear, as in corev1.Toleration."""

    rules: ClassVar = (
        Rule(
            "self.operator == 'Exists' ? !has(self.value) : has(self.key)",
            "Exists takes no value, and Equal needs a key",
            lambda t: t.value is None if t.operator == TolerationOperator.EXISTS else t.key is not None,
        ),
        Rule(
            "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
            "tolerationSeconds is for the effect NoExecute",
            lambda t: t.toleration_seconds is None or t.effect == TaintEffect.NO_EXECUTE,
        ),
    )
    key: LabelKey | None = Field(None, description="The taint's key; left out with Exists, every taint.")
    operator: TolerationOperator = Field(TolerationOperator.EQUAL, description="Equal compares the value too.")
    value: LabelValue | None = Field(None, description="The taint's value.")
    effect: TaintEffect | None = Field(None, description="Left out: every effect.")
    toleration_seconds: int | None = Field(
        None, ge=0, le=2**31 - 1, description="How long a pod stays on a node that gets the taint."
    )


class NodeOperator(StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


_NUMBER = "^-?[0-9]{1,18}$"


def _values_fit(requirement: NodeRequirement) -> bool:
    values = requirement.values
    if requirement.operator in (NodeOperator.IN, NodeOperator.NOT_IN):
        return bool(values)
    if requirement.operator in (NodeOperator.GT, NodeOperator.LT):
        return len(values) == 1 and re.fullmatch(_NUMBER, values[0], re.ASCII) is not None
    return not values


class NodeRequirement(Spec):
    """What a label of a node must be, as in corev1.NodeSelectorRequirement."""

    rules: ClassVar = (
        Rule(
            "self.operator in ['In', 'NotIn'] ? self.values.size() > 0 : "
            "self.operator in ['Gt', 'Lt'] ? self.values.size() == 1 && "
            f"self.values[0].matches('{_NUMBER}') : self.values.size() == 0",
            "In and NotIn need values, Gt and Lt one whole number, Exists and DoesNotExist take none",
            _values_fit,
        ),
    )
    key: LabelKey = Field(description="The label.")
    operator: NodeOperator = Field(description="How its value relates to `values`.")
    values: list[LabelValue] = Field([], max_length=32, description="What it is compared with.")


class NodeTerm(Spec):
    """Requirements that all hold of a node."""

    match_expressions: list[NodeRequirement] = Field(min_length=1, max_length=8, description="All of them hold.")


class NodeTerms(Spec):
    """Terms one of which holds of a node."""

    node_selector_terms: list[NodeTerm] = Field(min_length=1, max_length=8, description="One of them holds.")


class PreferredNodes(Spec):
    """Nodes that are better than others."""

    weight: int = Field(ge=1, le=100, description="How much it counts among others.")
    preference: NodeTerm = Field(description="What makes a node better.")


class NodeAffinity(Spec):
    """The nodes that pods must, or had better, run on."""

    required_during_scheduling_ignored_during_execution: NodeTerms | None = Field(
        None, description="Where pods must run."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredNodes] = Field(
        [], max_length=8, description="Where they had better run."
    )


class PodSelector(Spec):
    """Pods by their labels."""

    match_labels: Labels = Field(min_length=1, max_length=8, description="All of them are on the pod.")


class PodTerm(Spec):
    """Pods of the job's namespace, and what counts as one place."""

    label_selector: PodSelector = Field(description="The pods.")
    topology_key: LabelKey = Field(description="The node label that names the place: kubernetes.io/hostname is a node.")


class PreferredPods(Spec):
    """A place that is better than others."""

    weight: int = Field(ge=1, le=100, description="How much it counts among others.")
    pod_affinity_term: PodTerm = Field(description="The pods, and what counts as one place.")


class PodAffinity(Spec):
    """The pods to be near, or far from."""

    required_during_scheduling_ignored_during_execution: list[PodTerm] = Field(
        [], max_length=4, description="What must hold."
    )
    preferred_during_scheduling_ignored_during_execution: list[PreferredPods] = Field(
        [], max_length=4, description="What had better hold."
    )


class Affinity(Spec):
    """As in corev1.Affinity."""

    node_affinity: NodeAffinity | None = Field(None, description="By what nodes are.")
    pod_affinity: PodAffinity | None = Field(None, description="Near these pods.")
    pod_anti_affinity: PodAffinity | None = Field(None, description="Away from these pods.")


class ResourceClaim(Spec):
    """Devices by dynamic resource allocation: a claim of its own for every pod, as in corev1.PodResourceClaim."""

    name: Annotated[str, Field(max_length=63), LABEL_WORD] = Field(description="What the claim is called in the pod.")
    resource_claim_template_name: Name = Field(description="The ResourceClaimTemplate, in the namespace of the job.")
