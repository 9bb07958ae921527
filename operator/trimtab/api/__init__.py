"""The contract: everything that crosses a process boundary, as pydantic models.

Three kinds of data do: what a person writes (`job`, `monitor`, `runtime`), what a pod receives and leaves
behind (`work`), and what the operator remembers (the status half of `job` and `monitor`). CRDs, the JSON Schema
for editors and the reference page are generated from here by `schema`; nothing is described twice.

This package imports pydantic and the standard library, nothing else.
"""
