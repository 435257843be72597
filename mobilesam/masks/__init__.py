"""Masks: run lengths, polygons and regions; segmented objects, and what they become as pictures and text. Imports
`images` and `util`.
"""
