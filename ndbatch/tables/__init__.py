"""Tables: endings that tell their format, writing them as rows come, and points read from what others write.

`write_batches` is what a run writes its tables with; `read_points` and `write_points` hold a table of points in memory.
"""

from ndbatch.tables.points import coordinates, read_points, write_points
from ndbatch.tables.writing import TABLE_ENDINGS, table_ending, write_batches

__all__ = ["TABLE_ENDINGS", "coordinates", "read_points", "table_ending", "write_batches", "write_points"]
