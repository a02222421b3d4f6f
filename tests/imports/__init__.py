"""Other tools' records in, and ours out."""
