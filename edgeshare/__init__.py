"""edgeshare: schools and homes share lessons among themselves, so that the publisher's servers stay calm."""

__version__ = "0.1.0"
