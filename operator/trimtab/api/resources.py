"""What a pod is given: CPU, memory and devices, in the words of corev1.

Kubernetes refuses every Job of a runtime that gets this wrong, so what it asks of a Job is asked when the runtime is
written.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from trimtab.api.base import Pattern, Rule, Spec
from trimtab.api.quantities import Amount, parse_amount
from trimtab.api.scheduling import DOMAIN, WORD

RESOURCE = Pattern(
    rf"^(cpu|memory|ephemeral-storage|hugepages-[0-9]+[KMGT]i|{DOMAIN}/{WORD})$",
    "a resource that Kubernetes knows: cpu, memory, ephemeral-storage, hugepages-2Mi, or one with its domain such as "
    "nvidia.com/gpu",
)
# Twelve, for on older API servers each is reckoned as 3 MB of text (`WholeOrText`).
MOST = 12
Amounts = dict[Annotated[str, Field(max_length=253), RESOURCE], Amount]


_DEVICE = "name.contains('/') && !name.contains('kubernetes.io/')"


def _is_device(resource: str) -> bool:
    """What Kubernetes calls an extended resource: it is counted, and never shared."""
    return "/" in resource and "kubernetes.io/" not in resource


def _amount_cel(field: str) -> str:
    """A number is added to 0: the length of string() is anybody's guess, so reading that would be too dear."""
    amount = f"self.{field}[name]"
    return f"(type({amount}) == int ? quantity('0').add({amount}) : quantity({amount}))"


_COMPARED = f"{_amount_cel('requests')}.compareTo({_amount_cel('limits')})"


def _within_limits(resources: Resources) -> bool:
    both = resources.requests.keys() & resources.limits.keys()
    return all(parse_amount(resources.requests[name]) <= parse_amount(resources.limits[name]) for name in both)


def _as_limited(resources: Resources) -> bool:
    asked = {name: parse_amount(amount) for name, amount in resources.requests.items()}
    limits = {name: parse_amount(amount) for name, amount in resources.limits.items()}
    unshared = (name for name in asked if _is_device(name) or name.startswith("hugepages-"))
    return all(limits.get(name) == asked[name] for name in unshared)


class Resources(Spec):
    """What every pod gets, as in corev1.ResourceRequirements."""

    rules: ClassVar = (
        Rule(
            f"!has(self.requests) || self.requests.all(name, !(name in self.limits) || {_COMPARED} <= 0)",
            "requests has more of a resource than limits: lower the request, or raise the limit",
            _within_limits,
        ),
        Rule(
            f"!has(self.requests) || self.requests.all(name, !({_DEVICE} || name.startsWith('hugepages-')) || "
            f"name in self.limits && {_COMPARED} == 0)",
            "devices such as nvidia.com/gpu, and huge pages, are set aside as limits says: give them in limits alone",
            _as_limited,
        ),
        Rule(
            f"!has(self.limits) || self.limits.all(name, !({_DEVICE}) || {_amount_cel('limits')}.isInteger())",
            "devices such as nvidia.com/gpu are not divided: give a whole number of them",
            lambda r: all(parse_amount(amount) % 1 == 0 for name, amount in r.limits.items() if _is_device(name)),
        ),
    )
    requests: Amounts = Field({}, max_length=MOST, description="What is set aside for a pod.")
    limits: Amounts = Field(
        {},
        max_length=MOST,
        description="What a pod may use at most. GPUs are given here: `nvidia.com/gpu`, or a part of one such as "
        "`nvidia.com/mig-1g.10gb`.",
    )


GPU = re.compile(r"(^|[./])gpu\b|/mig-")
"""Matches nvidia.com/gpu, amd.com/gpu, gpu.intel.com/i915 and nvidia.com/mig-1g.5gb."""


def is_gpu(resource: str) -> bool:
    """Whether an extended resource is a GPU or a slice of one, by what vendors' device plugins call them."""
    return GPU.search(resource) is not None
