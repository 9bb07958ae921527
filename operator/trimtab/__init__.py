"""Trimtab keeps trained models small, fast and accurate.

This package decides (what to try, what to keep, when to try again) and talks to Kubernetes.
It never opens a model: everything that needs numpy, onnx or torch lives in `trimtab_jobs`.
"""

__version__ = "0.1.0"
