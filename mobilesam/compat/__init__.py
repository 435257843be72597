"""The reference's classes and functions under its names, for scripts that were written for it. Imports `api` and
the layers below it.
"""
