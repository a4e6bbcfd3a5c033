"""The ledger: an RFC 6962 Merkle log whose proofs anybody can check without us.

Every change of state leaves one entry, appended in the transaction that makes the change. A Merkle log rather than a
chain of hashes, because one approval can then be proved to an outsider in about a kilobyte without showing the rest,
two audits can be shown to look at the same history, and the formats (C2SP signed notes, checkpoints and proofs) have
verifiers that are not ours.

This package knows no database and nothing else of Steersman: the standard library and ``cryptography`` are enough to
verify an export years later. The tables that keep the entries are in ``steersman.store``.
"""
