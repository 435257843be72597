"""Masks: run lengths, polygons, small regions, and segmented objects as pictures, text and files.

Imports `images` and `util`.
"""
