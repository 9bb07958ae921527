"""Numbers as people write them: percents, durations, byte quantities, decimals.

Kubernetes APIs carry no floats (two JSON libraries may disagree on 0.1), so these are strings with a pattern that
the API server checks, and this module is the one place that turns them into numbers and back.
Units inside the code are fractions, seconds and bytes.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING
from decimal import Decimal as PlainDecimal
from typing import Annotated

from pydantic import Field

from trimtab.api.base import Pattern, WholeOrText, Without

PERCENT = Pattern(r"^[0-9]{1,3}(\.[0-9]{1,6})?%$", "a percent such as 1%")
DURATION = Pattern(
    # In 32 characters this is a century at most: added to any moment, it is still a date.
    r"^([0-9]{1,5}(\.[0-9]{1,9})?h|[0-9]{1,7}(\.[0-9]{1,9})?m|[0-9]{1,9}(\.[0-9]{1,9})?(us|ms|s))+$",
    "a duration such as 5ms or 2h, at most 99999h",
)
LASTS = Without(r"^[^1-9]*$", "is no time at all: give more than 0")
QUANTITY = Pattern(r"^[0-9]{1,15}(\.[0-9]{1,6})?(Ki|Mi|Gi|Ti|k|M|G|T)?$", "a quantity such as 20Mi")
DECIMAL = Pattern(r"^-?[0-9]{1,18}(\.[0-9]{1,18})?(e-?[0-9]{1,3})?$", "a number such as 0.5")
AMOUNT = WholeOrText(
    r"^[0-9]+(\.[0-9]*)?([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,9})?$",
    "an amount such as 2, 500m or 2Gi",
    # Kubernetes' own parser takes "Gi" for 0Gi.
    cel="type(self) == int ? self >= 0 : isQuantity(self) && self >= '0' && self < ':'",
)

Percent = Annotated[str, Field(max_length=12, examples=["1%"]), PERCENT]
Duration = Annotated[str, Field(max_length=32, examples=["5ms", "2h"]), DURATION]
PositiveDuration = Annotated[Duration, LASTS]
Quantity = Annotated[str, Field(max_length=24, examples=["20Mi"]), QUANTITY]
Decimal = Annotated[str, Field(max_length=40, examples=["0.5"]), DECIMAL]
Amount = Annotated[str, Field(max_length=24), AMOUNT]
"""Of a resource, in all the forms that Kubernetes takes."""

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_AMOUNTS = {"": PlainDecimal(1)} | {
    **{unit: PlainDecimal(10) ** power for unit, power in zip("num", (-9, -6, -3), strict=True)},
    **{unit: PlainDecimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": PlainDecimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}
_LARGEST, _SMALLEST = PlainDecimal(2**63 - 1), PlainDecimal("1e-9")


def parse_percent(text: str) -> float:
    """`"1%"` is 0.01. Raises ValueError on anything else than a percent."""
    return float(PERCENT.check(text).removesuffix("%")) / 100


def parse_duration(text: str) -> float:
    """Seconds: `"5ms"` is 0.005 and `"1h30m"` is 5400."""
    parts = re.findall(r"([0-9.]+)(us|ms|s|m|h)", DURATION.check(text))
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def parse_quantity(text: str) -> float:
    """Bytes: `"20Mi"` is 20 · 2²⁰."""
    number = QUANTITY.check(text).rstrip("kKMGTi")
    return float(number) * _BYTES[text[len(number) :]]


def parse_amount(text: str) -> PlainDecimal:
    """Exactly, and like Kubernetes: `"500m"` is 0.5. It takes what is larger than 64 bits for the largest there is."""
    AMOUNT.check(text)
    unit = "" if re.search("[eE][-+]?[0-9]", text) else text.lstrip("0123456789.")
    value = min(PlainDecimal(text.removesuffix(unit)), _LARGEST) * _AMOUNTS[unit]
    return min(value, _LARGEST).quantize(_SMALLEST, ROUND_CEILING)


def parse_decimal(text: str) -> float:
    """A plain number, such as `"0.5"`."""
    return float(DECIMAL.check(text))


def decimal(value: float) -> str:
    """A number for the API: a count as it is, a measurement to six significant digits.

    It has an exponent only where there is no room for its zeros, as in what rounding leaves of a cosine (1e-15).
    """
    if isinstance(value, int):
        return str(value)
    plain = format(PlainDecimal(f"{value:.6g}"), "f")
    return plain if re.fullmatch(DECIMAL.regex, plain) else f"{value:.5e}".replace("e+", "e")


def show_duration(seconds: float) -> str:
    """Seconds for people: `0.00123` is `1.23ms`."""
    for unit, size in (("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= size and not (unit in "hm" and seconds < 2 * size):
            return f"{seconds / size:.3g}{unit}"
    return f"{seconds * 1e6:.3g}us"


def show_quantity(size: float) -> str:
    """Bytes for people: `3145728` is `3Mi`."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size >= _BYTES[unit]:
            return f"{size / _BYTES[unit]:.3g}{unit}"
    return f"{size:.0f}"


def show_percent(fraction: float) -> str:
    """A fraction for people: `0.9531` is `95.3%`. What is not quite all is not rounded to it: `0.99981` is `99.98%`."""
    digits = next((n for n in range(3, 7) if fraction >= 1 or f"{100 * fraction:.{n}g}" != "100"), 3)
    return f"{100 * fraction:.{digits}g}%"


def show_decimal(value: float) -> str:
    """A plain number for people: `0.012345` is `0.01235`."""
    return f"{value:.4g}"
