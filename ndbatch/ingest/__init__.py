"""`ingest`: volumes of a file into a service, whole: looked at, asked about, created, uploaded, propagated, read back."""
