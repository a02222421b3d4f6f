"""The nouns of the trade: frozen data, no I/O, standard library only (policy alone knows the validation library)."""
