"""From a configuration to a plan: stages, blocks, memory, cost and fingerprint; where requests are refused.

Nothing is imported here: workers need `ndbatch.plan.program` and must not wait for the planner.
"""
