"""Suites that the tests of a new store or step inherit: `VolumeSuite`, `StepSuite`. They need pytest."""

from __future__ import annotations

from ndbatch.testing.steps import StepSuite
from ndbatch.testing.volumes import VolumeSuite

__all__ = ["StepSuite", "VolumeSuite"]
