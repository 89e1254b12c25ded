"""Workers on the nodes of a Ray cluster: Ray places one agent a node, the rest is the same.

The agent starts the same worker process that a local run starts, hands its events to the driver,
and reads its node's GPUs. What is done again, where, and how often stays the driver's to decide;
shards come back as bytes and only the driver writes results.
"""

from willfit.errors import MissingLibraryError

try:
    import ray  # noqa: F401 - that it is there
except ImportError as error:
    raise MissingLibraryError(
        f"backend ray needs the package ray ({error}): pip install 'willfit[ray]', or set "
        "backend: local"
    ) from error
