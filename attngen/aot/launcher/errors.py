"""What can go wrong in a package; every error is raised before anything is launched."""

from __future__ import annotations


class PackageError(RuntimeError):
    """The base of all of them."""


class SchemaError(PackageError, ImportError):
    """The manifest is of a newer kind than this launcher, or is no manifest."""


class DamagedError(PackageError):
    """A file of the package is missing, differs from its hash, or lies outside the package."""


class NoBinaryError(PackageError):
    """The package holds no binary that this GPU runs."""


class DriverError(PackageError):
    """The GPU's driver refused something; its own words are part of the message."""


class ArgumentError(PackageError, ValueError):
    """An argument has a wrong type, shape, dtype, stride or device."""
