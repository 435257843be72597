"""Helpers for the library and the commands: files, console output, options, background work, operating systems.

Imports no other package of `mobilesam`.
"""
