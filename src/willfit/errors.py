"""The errors that willfit raises on purpose, each with the sentence its reader needs.

    WillfitError
    ├── InputError            what was given cannot be used                       exit code 1
    │   ├── ModelNotFoundError    no source knows this model
    │   ├── ModelAccessError      the model exists, but cannot be read (gated, offline, broken)
    │   ├── BrokenFileError       a file is truncated, lies about itself, or is too large
    │   └── StorageError          the disk is full or must not be written           exit code 5
    ├── UnsupportedError      no trustworthy number can be given                  exit code 4
    │   └── MissingLibraryError   what would give one is not installed
    ├── DoesNotFitError       what was to run does not fit on the GPUs there are  exit code 3
    └── StageFailedError      a stage of a run failed; what it computed is kept   exit code 5
        └── GpuNotReleasedError   a GPU's memory did not come back

Every message says what was given, what was expected and what to do, in one sentence.
"""

from __future__ import annotations

from typing import ClassVar


class WillfitError(Exception):
    """Base of every error that willfit raises on purpose."""

    exit_code: ClassVar[int] = 1
    """Exit code of the command line when this error ends it."""


class InputError(WillfitError):
    """What was given cannot be used; the message says what was expected and what to do."""


class ModelNotFoundError(InputError):
    """No source knows the model that was named."""


class ModelAccessError(InputError):
    """The model exists but its files cannot be read: gated, offline, slow or broken."""


class BrokenFileError(InputError):
    """A file is truncated, contradicts itself, or is larger than what is safe to read."""


class StorageError(InputError):
    """No place for a file: what was written before is kept, and the same command goes on."""

    exit_code = 5


class UnsupportedError(WillfitError):
    """Part of the scenario cannot be computed or bounded, so no trustworthy number exists."""

    exit_code = 4


class MissingLibraryError(UnsupportedError):
    """A library that the answer needs is not installed; the message says how to install it."""


class DoesNotFitError(WillfitError):
    """What was to run does not fit on the GPUs there are; the message has the plan."""

    exit_code = 3


class StageFailedError(WillfitError):
    """A stage of a run failed; what it computed is kept, and the same command goes on."""

    exit_code = 5


class GpuNotReleasedError(StageFailedError):
    """A GPU's memory did not come back; the message names who holds it."""
