"""`python -m bursar`: the command, where its script is not on the path."""

from .surfaces.cli import main

main(prog_name="bursar")
