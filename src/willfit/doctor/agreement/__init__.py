"""Whether a scenario's estimate and a message's numbers go together, and what does not add up."""

from willfit.doctor.agreement.agreement import Agreement, agreement_of
from willfit.doctor.agreement.suspects import Suspect

__all__ = ["Agreement", "Suspect", "agreement_of"]
