"""Gymnasium environments in which policies learn: a microscope behind its guard, and what a scan is worth.

Import from :mod:`simulator.env`. What each environment asks of a policy, and how far it separates good
from bad ones, is in ``docs/environments.md``.
"""
