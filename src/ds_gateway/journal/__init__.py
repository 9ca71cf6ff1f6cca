"""The disk buffer: accepts records, seals batches, resolves and trims them, in one transaction at a time.

    sources --offer--> Intake --take--> writer thread --one transaction--> rows on disk
                                            |                                 |
                                            +-- on_committed --> sources      +-- sealed batch --> uplink

Accepting (A), sealing (B), resolving and trimming (C) of whatever is due share a transaction, so that a power cut
leaves all or nothing of it. Nothing is acknowledged, and nothing is sent, before the commit that holds it.
"""

from ds_gateway.journal.intake import Gate, Intake
from ds_gateway.journal.journal import Journal, JournalLimits
from ds_gateway.journal.snapshot import JournalSnapshot, StreamSnapshot

__all__ = ["Gate", "Intake", "Journal", "JournalLimits", "JournalSnapshot", "StreamSnapshot"]
