"""What holds for every test."""

from hypothesis import settings

settings.register_profile("everywhere", deadline=None)  # a machine that is busy is not wrong
settings.load_profile("everywhere")
