"""Photos: opening files and arrays as RGB pictures, sizes and coordinates, the encoder's input, and writing
pictures. Imports `util` and the kernels.
"""
