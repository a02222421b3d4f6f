"""`python focus_on_311.py SITE_PACKAGES`: the FOCUS validator has one line that Python 3.11 cannot read; this writes it another way."""

import sys
from pathlib import Path

file = Path(sys.argv[1], "focus_validator/config_objects/focus_to_duckdb_converter.py")
text = file.read_text("utf-8")
newer = """f"'{k.replace('\\"', '\\"\\"')}'" for k in ignore_keys"""
assert newer in text, "the validator has changed: see whether Python 3.11 reads it now"
file.write_text(text.replace(newer, """"'" + k.replace('"', '""') + "'" for k in ignore_keys"""), "utf-8")
