"""Labels given other ids."""
