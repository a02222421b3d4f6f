"""The dashboard: pages made on the server from the ledger, each with a JSON twin. Never imported by gateway or wrapper."""
