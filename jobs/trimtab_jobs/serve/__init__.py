"""A thin model server: what was published, over the Open Inference Protocol, watched by Prometheus.

    published folder ─▶ host (loads, swaps) ─▶ served (one revision: engine session, detector, capture)
    request ─▶ app (HTTP) ─▶ protocol (JSON ⇄ arrays) ─▶ host's one worker thread ─▶ served
                                                                    metrics ◀─────────┘

One process and one request at a time: that is how a candidate was measured, and what its latency was promised for. More
throughput is more replicas. `python -m trimtab_jobs.serve --help` says the rest.
"""
