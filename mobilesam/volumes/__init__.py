"""Medical volumes and pictures: reading cases, windows and boxes, segmenting, and writing labels. Imports `api`."""
