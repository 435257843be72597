"""`mobilesam segment` on many images: finds the images, overlaps reading, encoding and writing, writes the results.

Imports `api` and the layers below it.
"""
