"""The journal of a run: which blocks are done, with proof, and the rows they gave."""

from ndbatch.journal.entry import Entry, Failure
from ndbatch.journal.schema import CHECKSUM_BITS, FILE, LONGEST_WAIT, RECEIPT
from ndbatch.journal.store import Journal

__all__ = ["CHECKSUM_BITS", "FILE", "LONGEST_WAIT", "RECEIPT", "Entry", "Failure", "Journal"]
