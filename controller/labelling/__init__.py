"""Labelling beside a session: what asks people, learns from what they answer, and serves the page."""
