"""Where volumes are: folders, buckets, web servers, zip files; and tensorstore, which reaches them."""
