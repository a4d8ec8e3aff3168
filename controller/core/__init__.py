"""Types and rules that every other part shares. Imports numpy and pydantic only."""
