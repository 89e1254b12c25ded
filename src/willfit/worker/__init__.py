"""What runs in a worker's process: the model, one shard after the other, and nothing else.

Started by the driver as ``python -m willfit.worker``; this is where torch is imported.
"""
