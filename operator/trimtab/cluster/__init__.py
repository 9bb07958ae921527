"""All that touches Kubernetes: `client` speaks HTTP, `objects` writes, `watch` follows, `pods` reads results.

Nothing here decides anything.
"""
