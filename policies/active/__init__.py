"""Active learning: what to ask a person about, and when a question is worth their time."""
