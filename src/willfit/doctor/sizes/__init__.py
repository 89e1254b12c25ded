"""What the asked-for size can be: tensors of the model whose bytes come to that."""

from willfit.doctor.sizes.asked import Asked, asked_of
from willfit.doctor.sizes.factors import Factor, factors_of

__all__ = ["Asked", "Factor", "asked_of", "factors_of"]
