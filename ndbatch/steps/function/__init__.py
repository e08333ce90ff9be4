"""Users' own functions and models."""
