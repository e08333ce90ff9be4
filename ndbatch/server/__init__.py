"""`ndbatch serve`: a local service that speaks ndstore, BOSS, DVID and precomputed over any volumes that ndbatch can open."""
