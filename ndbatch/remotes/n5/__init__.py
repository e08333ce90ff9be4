"""N5 datasets and the multiscale conventions in use."""
