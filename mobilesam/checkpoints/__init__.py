"""Checkpoint files: this package's own form, all others that are read, the published ones. Imports `util` and the
weights' folder.
"""
