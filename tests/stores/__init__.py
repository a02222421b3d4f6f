"""Tests of the ledger: real SQLite, real files, real processes; only clocks and ids are scripted."""
