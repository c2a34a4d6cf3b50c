"""How long doctor takes on a 16-die host whose npu-smi needs 0.4 s a call.

``python -m tests.figures.doctor`` builds the host of files that the tests use, adds an
hccn_tool of 0.05 s for two nodes, and prints the wall time of the whole command.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.doctor.support import ascend_host

RUN = (
    "import sys; from pathlib import Path; from ascend_v4.cli import main;"
    "from ascend_v4.host.system import Host;"
    "root, path, *rest = sys.argv[1:];"
    "host = Host(Path(root), {'PATH': path, 'HOME': root + '/root'});"
    "sys.exit(main(['doctor', *rest], obj=host))"
)


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as name:
        fake = ascend_host(Path(name), delay_s=0.4)
        fake.program("hccn_tool", "#!/bin/sh\n/bin/sleep 0.05\necho 'link status: UP'\n")
        for title, more in (("one node", ()), ("two nodes", ("--nodes", "2"))):
            begun = time.monotonic()
            argv = [sys.executable, "-c", RUN, name, str(fake.bin), "--allow-unvalidated", *more]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            took = time.monotonic() - begun
            print(f"{title}: {took:.2f} s of wall time; {done.stdout.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
