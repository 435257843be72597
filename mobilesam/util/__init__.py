"""Helpers for the library and the commands: atomic file writes, console output, options, background work, host facts.

Imports no other package of `mobilesam`.
"""
