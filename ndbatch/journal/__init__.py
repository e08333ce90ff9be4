"""The journal of a run: which blocks are done, with proof, and the rows they gave."""

from ndbatch.journal.store import CHECKSUM_BITS, FILE, RECEIPT, Entry, Failure, Journal

__all__ = ["CHECKSUM_BITS", "FILE", "RECEIPT", "Entry", "Failure", "Journal"]
