"""Faults made on purpose, and a ledger that tells whether a message was lost."""
