"""Segmented objects as pictures, COCO JSON, GeoJSON and SVG: the public names of `mobilesam.masks`."""

from .masks.draw import colours, cutout, label_map, overlay
from .masks.export import SUFFIXES, check_output, coco, geojson, save, svg
from .masks.objects import UNNAMED, Colour, Mask, SegmentedObject

__all__ = [
    "SUFFIXES",
    "UNNAMED",
    "Colour",
    "Mask",
    "SegmentedObject",
    "check_output",
    "coco",
    "colours",
    "cutout",
    "geojson",
    "label_map",
    "overlay",
    "save",
    "svg",
]
