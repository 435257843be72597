"""Many images: picklable classes for Ray, Dask, Spark and joblib, and the results of `mobilesam batch`.

`workers` has the classes, `table` the Parquet files, and `cluster` the run on Ray.
"""

from .table import Photos, read
from .workers import Everything, Segment

__all__ = ["Everything", "Photos", "Segment", "read"]
