"""RAMON objects: synapses, segments, neurons, organelles and others, with their fields, wherever they are kept.

`ndbatch.ramon.open("ndstore://host/token/channel")`, or a file `cells.ramon.h5`, `cells.parquet` or `cells.json`, gives a store
of objects (`Objects`): get, query, reserve, put, delete, merge, paint.
"""

from ndbatch.ramon.model import (
    CLASSES,
    LARGEST_ID,
    RELATED,
    ROI,
    STATUSES,
    Annotation,
    Neuron,
    Node,
    Organelle,
    Seed,
    Segment,
    Skeleton,
    Synapse,
    class_of,
)
from ndbatch.ramon.opening import open
from ndbatch.ramon.store import Objects

__all__ = [
    "CLASSES",
    "LARGEST_ID",
    "RELATED",
    "ROI",
    "STATUSES",
    "Annotation",
    "Neuron",
    "Node",
    "Objects",
    "Organelle",
    "Seed",
    "Segment",
    "Skeleton",
    "Synapse",
    "class_of",
    "open",
]
