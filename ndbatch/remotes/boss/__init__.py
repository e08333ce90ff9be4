"""BOSS (bossDB): collections of experiments of channels behind HTTP. URLs are in x, y, z; arrays are C-order (t?, z, y, x)."""
