"""Everything that is generated from the models: CRDs, JSON Schemas, the reference page, the chart's values and
dashboards.

    python -m trimtab.api.schema            # write the files
    python -m trimtab.api.schema --check    # name the stale ones, exit 1 if there are any

A model is described once, in Python. `wire` turns it into JSON Schema, and the others dress that up for their reader:
`kinds` for the API server and for editors, `reference` for people; `dashboards` is a table of its own.
"""
