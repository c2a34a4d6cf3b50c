"""Whether a member that was started serves."""

from __future__ import annotations

from .member import Member
from .spec import Options, Spec

__all__ = ["serves"]

#: The phase that a member without an API has to reach, by its order in phases.yaml.
LOADED = 80


def serves(spec: Spec, member: Member, options: Options) -> bool | str:
    """Return whether a member is ready, or what is wrong with its answers; may take long."""
    probe = spec.probe
    if probe is None:
        loaded = member.phases.phase.order >= LOADED
        return loaded if spec.tells_loading else member.main is not None
    if options.ready_check == "none":
        return probe.listening()
    if not probe.generated():
        return False
    wrong = None
    if options.ready_check == "gate" and options.gate is not None:
        wrong = options.gate(probe)
    return wrong or True
