"""What `mobilesam` offers: a model, an embedding, a segmentation, everything-mode. Imports `network`, `masks`,
`images` and `checkpoints`.
"""
