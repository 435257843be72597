"""The reference's classes and functions under the same names, for scripts that were written for the reference.

Imports `api` and the layers below it.
"""
