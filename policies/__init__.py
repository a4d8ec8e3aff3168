"""Policies: what to image next, with which settings, and what to ask a person."""
