"""What we remember: the ledger and how it is asked. Knows the domain and nothing else of Bursar."""
