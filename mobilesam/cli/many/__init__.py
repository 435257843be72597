"""`mobilesam segment` on many images: finding them, overlapping the work, writing the results. Imports `api` and
the layers below it.
"""
