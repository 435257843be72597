"""Photos of any kind as RGB pictures, as the encoder's input, and pictures as files. Imports `util` and the
kernels.
"""
