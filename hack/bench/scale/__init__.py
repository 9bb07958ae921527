"""Thousands of OptimizationJobs against a real API server: what `make bench-operator` is made of.

|          |                                                                                |
|----------|--------------------------------------------------------------------------------|
| load     | the objects: shapes of jobs, and the reports their pods leave                  |
| pods     | a process that ends pods, in place of Job controller, scheduler and kubelet    |
| replay   | the writes of our operator, kept for others to do                              |
| bare     | the floor: a loop that lists the objects and does the writes, deciding nothing |
| naive    | the usual operator: kopf's create-handler, the official client, no settings    |
| plane    | a control plane of the bench's own                                             |
| gauge    | what a process cost                                                            |
| observer | when what became visible in which status                                       |
| race     | the three of them, each with all of this to itself                             |
| shares   | where CPU goes, by package                                                     |
| page     | the figures as a page                                                          |
"""
