"""The ledger's rows for other tools."""
