"""Checking a run: outputs are read again and compared with the receipts; what is damaged is done again."""

from ndbatch.verify.checking import CheckReport, check
from ndbatch.verify.compare import DamagedTable, Mismatch

__all__ = ["CheckReport", "DamagedTable", "Mismatch", "check"]
