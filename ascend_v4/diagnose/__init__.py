"""Why a server died: the first cause in the logs of one or many ranks and nodes.

``diagnose_lines`` is what the supervisor's exit report and the command share.
"""

from .api import diagnose_lines, diagnose_paths
from .verdict import Diagnosis, Match

__all__ = ["Diagnosis", "Match", "diagnose_lines", "diagnose_paths"]
