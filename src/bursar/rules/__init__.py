"""Decisions: pure functions of (call, standing, policy, now). No clock, no store, no wire format."""
