"""DVID: versioned images, labels, annotations and documents behind HTTP. Axes on the wire are x, y, z; arrays are C-order zyx."""
