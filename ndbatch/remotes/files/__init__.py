"""Volumes that are one file or a stack of slices: NIfTI, NRRD, MRC, npy, npz, images; and what such files share."""
