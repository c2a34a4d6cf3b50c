"""Installed by PYTHONPATH in every engine process: stand-ins for the NPU's own packages.

Python imports ``sitecustomize`` before anything else, also in the subprocess in
which vLLM inspects a model class, so nothing can import the real names first.
Only ``ASCEND_V4_CONTRACT_CHIP`` in the environment switches them on.
"""

import os

if os.environ.get("ASCEND_V4_CONTRACT_CHIP"):
    import contract_standins

    contract_standins.install(os.environ)
