"""Connected components: labelled in blocks, joined over their faces."""
