"""What runs where the blocks are: read ahead, compute, write behind, and report by receipts."""
