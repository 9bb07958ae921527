"""Code that a job names, as module:function: a model's factory, a metric of the user's own.

It runs as it is: whoever writes the job chose it. What goes wrong in it is told by whoever calls it.
"""

from __future__ import annotations

import hashlib
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def attribute(reference: str, code: Path | None) -> Any:
    """What `module:function` names: in the file `code`, or without one in an installed module.

    Raises AttributeError, and whatever the module raises.
    """
    module, name = reference.split(":")
    found = import_module(module) if code is None else _execute(code)
    if not hasattr(found, name):
        raise AttributeError(f"{module if code is None else code} has no attribute {name!r}")
    return getattr(found, name)


def _execute(code: Path) -> ModuleType:
    """Run a file as a module of its own.

    It is named after its content, so two models' `model.py` never meet in sys.modules; it has to be there, because
    dataclasses look their module up. Importing it would leave a `__pycache__` in the model's folder and change the
    model's digest.
    """
    source = code.read_bytes()
    name = f"_trimtab_code_{hashlib.sha256(source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(code)
    sys.modules[name] = module
    try:
        exec(compile(source, str(code), "exec"), module.__dict__)  # noqa: S102
    except BaseException:
        del sys.modules[name]
        raise
    return module
