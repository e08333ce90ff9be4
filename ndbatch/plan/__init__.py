"""From a configuration to a plan: stages, blocks, memory, cost and fingerprint; where requests are refused."""

from ndbatch.plan.make import make_plan
from ndbatch.plan.model import Plan

__all__ = ["Plan", "make_plan"]
