"""Every way a call to the cluster ends without a result. The type says whether calling again can help.

ClusterError
├── Temporary         the queue tries the key again
│   ├── Unavailable   429, 5xx, a broken or silent connection; already retried a few times
│   └── Conflict      the object has changed since it was read: look at it anew
└── Permanent         the same call will be answered the same way
    ├── NotFound      404
    ├── AlreadyExists 409 to a create
    ├── Expired       410: a watch must begin with a new list
    ├── Forbidden     401 and 403: RBAC, a quota or an admission policy
    │   └── OverQuota 403, in the words of a ResourceQuota
    ├── Refused       any other 4xx, above all 422: the API server finds the object invalid
    └── Waits         what the object now tells of in its status: to be tried again, and no failure of ours
"""

from __future__ import annotations


class ClusterError(Exception):
    """The base of the tree. The text is one line: the call, and what the API server said about it."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Temporary(ClusterError):
    """`retry_after` is the least number of seconds to wait, where the server named one."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(Temporary):
    pass


class Conflict(Temporary):
    pass


class Permanent(ClusterError):
    pass


class NotFound(Permanent):
    pass


class AlreadyExists(Permanent):
    pass


class Expired(Permanent):
    pass


class Forbidden(Permanent):
    pass


class OverQuota(Forbidden):
    pass


class Waits(Permanent):
    pass


class Refused(Permanent):
    pass
