"""``willfit run``: models one after another on the same GPUs, whose memory is seen to come back."""
