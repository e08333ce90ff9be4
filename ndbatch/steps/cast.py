"""Casting, as steps use it: `ndbatch.casting`, which views of volumes share."""

from ndbatch.casting import FLOATS, INTEGERS, cast, holding, integer_for

__all__ = ["FLOATS", "INTEGERS", "cast", "holding", "integer_for"]
