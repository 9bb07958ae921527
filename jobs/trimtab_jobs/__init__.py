"""What runs in a pod: a Task comes in, models are made and measured, a Report goes out.

This package knows nothing of Kubernetes and imports only the contract (`trimtab.api`) of the operator. Heavy
libraries are imported where they are used, so a pod that quantizes never loads torch.
"""

import os

# ONNX Runtime's Linux wheels (1.31) report to Microsoft from the moment they are imported, and write a device's
# identifier to the temporary folder. Nothing a pod does is told to anyone, so this comes before the import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
