"""Write `uv.lock` with the versions of `constraints.txt`, so that `uv run` installs what pip does: `make lock`.

uv reads no constraints file for a project. The versions are resolved once in a temporary folder that has them as
constraints. The result is then copied here, where uv keeps the versions that it finds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT, LOCK = "pyproject.toml", "uv.lock"


def main() -> int:
    """Resolve with constraints, then without them; return the status of uv."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        sys.stderr.write("uv is not installed. Run pip install uv.\n")
        return 2
    text = (ROOT / PROJECT).read_text(encoding="utf-8")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = json.dumps([line for line in lines if "==" in line])
    with tempfile.TemporaryDirectory() as folder:
        table = f"[tool.uv]\nconstraint-dependencies = {pins}\n"
        Path(folder, PROJECT).write_text(text.replace("[tool.uv]\n", table), encoding="utf-8")
        status = subprocess.run([uv, "lock", "--no-config"], cwd=folder, check=False).returncode
        if status == 0:
            shutil.copy(Path(folder, LOCK), ROOT / LOCK)
            status = subprocess.run([uv, "lock", "--no-config"], cwd=ROOT, check=False).returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
