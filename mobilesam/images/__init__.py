"""Images: opening files and arrays as RGB, sizes and coordinates, the encoder's input, and writing pictures.

Imports `util` and the kernels.
"""
