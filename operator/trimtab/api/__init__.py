"""The contract: everything that crosses a process boundary, as pydantic models.

Three kinds of data do: what a person writes (`job`, `monitor`, `runtime`), what a pod receives and leaves
behind (`work`), and what the operator remembers (the status half of `job` and `monitor`). CRDs, the JSON Schema
for editors and the reference page are generated from here by `schema`; nothing is described twice.

This package imports pydantic and the standard library, nothing else; but for `schema` and `values`, which run only to
generate files, and know YAML and the operator's settings.
"""
