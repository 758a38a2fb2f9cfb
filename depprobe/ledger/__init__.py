"""Statements about sequence layers, each with the measurement that confirms or refutes it.

    measure(quick) -> Dataset -> judge(ds) -> findings, one for each part of the statement

One file a statement; a file that defines ``CLAIM`` is in the ledger. Reading the table of
claims imports all of these files, and with them torch.
"""

from depprobe.ledger.claim import Claim, Finding, Measured
from depprobe.ledger.claim_cache import ClaimCache
from depprobe.ledger.table import claims
from depprobe.ledger.verdicts import VERDICTS

__all__ = ["VERDICTS", "Claim", "ClaimCache", "Finding", "Measured", "claims"]
