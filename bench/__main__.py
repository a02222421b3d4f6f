"""`make bench`: every measurement in its turn, each a process of its own."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
failed = 0
for name in ("gateway", "wrapper", "ledger", "history", "threads", "loops", "imports", "controls", "guards"):
    print(f"\n== {name} ==", flush=True)
    failed |= subprocess.call([sys.executable, str(HERE / f"{name}.py")])
sys.exit(failed)
