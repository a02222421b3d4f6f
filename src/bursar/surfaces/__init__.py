"""The edges: the only place with a clock, an environment or a socket."""
