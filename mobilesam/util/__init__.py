"""Helpers that commands and library share: files that appear whole or not at all, lines on a terminal, options of
commands, work in the background, facts of the host. Imports no other package of `mobilesam`.
"""
