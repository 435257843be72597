"""Files, lines on a terminal, options, work in the background, the host: what commands and library share. Imports
`version` and `architecture` at most.
"""
