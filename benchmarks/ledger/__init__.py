"""The accuracy ledger: every published measurement beside willfit's number."""
