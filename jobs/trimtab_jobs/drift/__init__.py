"""Drift: does the traffic still look like the data a model was optimized and measured on?

`profile` freezes what the reference looked like when the model was published, `calibration` says how different a
window of rows may look by chance, and `detector` watches the last rows of a stream. Only bin counts are kept of the
reference, and only bin numbers of the stream: no raw rows.
"""
