"""The dashboard: pages made on the server from the ledger, each with a JSON twin. Its own process; never imported by gateway or wrapper."""
